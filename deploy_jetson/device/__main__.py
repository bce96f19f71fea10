"""`pneumonia-device COMMAND`: everything an operator runs on a board.

The installer puts `pneumonia-device` on the path; it is `python3 -m deploy_jetson.device` with the
installed program, its cache and its bundle.
"""

import importlib
import sys
from typing import Optional, Sequence

from deploy_jetson.device.utf8 import run_command
from pneumonia.runtime.errors import DISCLAIMER

# Command -> its module, and what it does.
COMMANDS = {
    "selftest": ("selftest", "check engines, sensors and power; writes a folder to send"),
    "engine": ("tensorrt", "build the TensorRT engine, or check the cached one"),
    "profile": ("profile", "latency and energy per image; `profile verify DIR` checks one"),
    "daemon": ("daemon", "score what arrives; `daemon --config FILE --check` only checks"),
}


def usage() -> str:
    """The commands."""
    lines = ["Usage: pneumonia-device COMMAND [OPTIONS]", ""]
    lines += ["  {:<10} {}".format(name, text) for name, (_, text) in COMMANDS.items()]
    lines += ["", "pneumonia-device COMMAND --help shows the options.", DISCLAIMER]
    return "\n".join(lines) + "\n"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run a command; its exit code, 2 for an unknown one."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["--help"], ["-h"]):
        sys.stdout.write(usage())
        return 0
    if not words or words[0] not in COMMANDS:
        sys.stderr.write(usage())
        return 2
    module = importlib.import_module(
        "deploy_jetson.device.{}{}".format(
            COMMANDS[words[0]][0], "" if words[0] == "selftest" else ".__main__"
        )
    )
    return int(module.main(words[1:]))


if __name__ == "__main__":
    run_command("deploy_jetson.device", main)
