"""Unpacks wheels into a folder without pip: pip 9 of Ubuntu 18.04 rejects their platform tags.

Usage: python3 unpack_wheels.py REQUIREMENTS WHEELS TARGET. REQUIREMENTS names each package once:
`NAME==VERSION --hash=sha256:DIGEST`. These wheels hold importable files only, so unpacking is
enough. Python 3.6, standard library only.
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
    fits = [tag == "any" or tag.endswith(platform.machine()) for tag in platforms.split(".")]
    return bool(ours.intersection(pythons.split("."))) and any(fits)


def wanted(path: str) -> Dict[str, str]:  # noqa: UP006
    """Parse the requirements: SHA-256 -> `NAME==VERSION` of every line."""
    with open(path) as stream:
        lines = [line.split(" --hash=sha256:") for line in stream.read().splitlines()]
    return {digest: pinned for pinned, digest in lines}


def unpack(requirements: str, wheels: str, target: str) -> str:
    """Check all wheels, then unpack them; returns an error message, empty on success."""
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
    try:
        message = unpack(*sys.argv[1:4])
    except OSError as error:
        message = f"cannot write {sys.argv[3]}: {error.strerror}"
    if message:
        sys.stderr.write(f"error: {message}\n")
        sys.exit(1)
