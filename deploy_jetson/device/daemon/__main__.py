"""`python3 -m deploy_jetson.device.daemon --config FILE`: the daemon on the board."""

import argparse
import sys
from typing import Optional, Sequence

from deploy_jetson.device.exit_codes import exit_code
from deploy_jetson.device.utf8 import run_command
from pneumonia.runtime.errors import DISCLAIMER


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="pneumonia-device daemon",
        description="Score radiographs that arrive by DICOM, folder or HTTP.",
        epilog=DISCLAIMER,
    )
    made.add_argument("--config", required=True, metavar="FILE", help="Configuration file (INI)")
    made.add_argument(
        "--check",
        action="store_true",
        help="Only check the configuration and the files that it names",
    )
    return made


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run; the exit code."""
    options = parser().parse_args(None if arguments is None else list(arguments))

    def work() -> None:
        from deploy_jetson.device.daemon.config import check_config, load_config

        if options.check:
            check_config(options.config)
            sys.stdout.write("{}: valid\n".format(options.config))
            return
        from deploy_jetson.device.daemon.service import serve

        serve(load_config(options.config))

    return exit_code(work)


if __name__ == "__main__":
    run_command("deploy_jetson.device.daemon", main)
