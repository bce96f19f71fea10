"""Small files of the kernel and programs of the vendor, read without failing."""

import shutil
import subprocess
from typing import List, Optional

MAX_TEXT = 512
PROGRAM_TIMEOUT_S = 30.0


def read_text(path: str) -> Optional[str]:
    """First line of a small file; None when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_TEXT).decode("ascii", "replace").split("\n")[0].strip()
    except OSError:
        return None


def run_program(
    command: List[str], any_status: bool = False, timeout_s: float = PROGRAM_TIMEOUT_S
) -> Optional[str]:
    """Standard output of a program; None when it is missing or fails.

    Args:
        any_status: Take the output whatever the exit status.
        timeout_s: A program that takes longer is ended, and failed.
    """
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    succeeded = done.returncode == 0 or any_status
    return done.stdout.decode("utf-8", "replace") if succeeded else None
