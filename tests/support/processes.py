"""Child processes of the test process."""

import os
from pathlib import Path


def child_processes() -> set[int]:
    """Process ids of the running children of this process."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return {pid for pid in found if not is_ended(pid)}


def is_ended(pid: int) -> bool:
    """Whether a process has ended, also when nobody has waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    folder = Path(f"/proc/{pid}/fd")
    return [os.readlink(folder / name) for name in os.listdir(folder)]
