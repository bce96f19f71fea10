"""`python3 -m deploy_jetson.device.tensorrt BUNDLE`: build the engine ahead of the first image."""

import argparse
import os
import sys
from typing import Optional, Sequence

from deploy_jetson.device.tensorrt.api import PRECISIONS
from deploy_jetson.device.tensorrt.cache import engine_path
from deploy_jetson.device.tensorrt.engine import (
    BUNDLE_VARIABLE,
    PRECISION_VARIABLE,
    WORKSPACE_VARIABLE,
    open_engine,
)
from deploy_jetson.device.utf8 import run_command
from pneumonia.runtime.errors import DISCLAIMER, PneumoniaError
from pneumonia.runtime.storage.bundle import load_bundle


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Build or check; the exit code."""
    parser = argparse.ArgumentParser(
        prog="pneumonia-device engine",
        description="Build a bundle's TensorRT engine into the cache, or check the cached one.",
        epilog=DISCLAIMER,
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs="?", default=os.environ.get(BUNDLE_VARIABLE),
        help="Model bundle; the installed one otherwise",
    )  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, help="The best the board has otherwise")
    parser.add_argument("--workspace-mib", metavar="N", help="Scratch memory; 1024 otherwise")
    options = parser.parse_args(arguments)
    if not options.bundle:
        parser.error("no BUNDLE is named, and none is installed")
    if options.workspace_mib is not None:
        os.environ[WORKSPACE_VARIABLE] = options.workspace_mib
    if options.precision is not None:
        os.environ[PRECISION_VARIABLE] = options.precision
    try:
        engine = open_engine(load_bundle(options.bundle))
    except PneumoniaError as error:
        sys.stderr.write("error: {}\n".format(error))
        return error.exit_code
    sys.stdout.write(
        "{} {}\n".format("built" if engine.built else "cached", engine_path(engine.key))
    )
    engine.close()
    return 0


if __name__ == "__main__":
    run_command("deploy_jetson.device.tensorrt", main)
