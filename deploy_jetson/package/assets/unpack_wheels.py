"""Puts wheels into a folder without pip: Ubuntu 18.04's pip 9 knows no tag of theirs.

Usage: python3 unpack_wheels.py REQUIREMENTS WHEELS TARGET. REQUIREMENTS names each package once:
`NAME==VERSION --hash=sha256:DIGEST`. A wheel is an archive of importable files, and these need
nothing done to them. Python 3.6, nothing but its library.
"""

import hashlib
import os
import platform
import sys
import zipfile
from typing import Dict  # noqa: UP035 - runs on Python 3.6


def runs_here(name: str) -> bool:
    """Whether a wheel's tags fit this interpreter and processor."""
    pythons, _, platforms = name[: -len(".whl")].split("-")[-3:]
    ours = {"py3", "cp{}{}".format(*sys.version_info[:2])}
    fits = [word == "any" or word.endswith(platform.machine()) for word in platforms.split(".")]
    return bool(ours.intersection(pythons.split("."))) and any(fits)


def wanted(path: str) -> Dict[str, str]:  # noqa: UP006
    """SHA-256 -> what it is, of every line."""
    with open(path) as stream:
        lines = [line.split(" --hash=sha256:") for line in stream.read().splitlines()]
    return {digest: pinned for pinned, digest in lines}


def unpack(requirements: str, wheels: str, target: str) -> str:
    """Check all wheels, then unpack them; the text of what is wrong, empty when nothing is."""
    missing = wanted(requirements)
    chosen = []
    for name in sorted(os.listdir(wheels)):
        path = os.path.join(wheels, name)
        with open(path, "rb") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()
        if missing.pop(digest, None) is None:
            return f"{name} is not the file that was packed"
        if not runs_here(name):
            found = "Python {}.{} on {}".format(*sys.version_info[:2], platform.machine())
            return f"{name} does not fit {found}"
        chosen.append(path)
    if missing:
        return f"{min(missing.values())} is missing"
    for path in chosen:
        with zipfile.ZipFile(path) as wheel:
            if any(".data/" in name for name in wheel.namelist()):
                return f"{os.path.basename(path)} needs an installer"
            wheel.extractall(target)
    return ""


if __name__ == "__main__":
    trouble = unpack(*sys.argv[1:4])
    if trouble:
        sys.stderr.write(f"error: {trouble}\n")
        sys.exit(1)
