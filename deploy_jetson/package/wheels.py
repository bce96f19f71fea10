"""The Python wheels of the board: pinned versions, SHA-256 hashes, download by pip."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

from pneumonia.runtime.errors import ConfigError, OutputError

PYTHON = "3.6.9"  # JetPack 4.6
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "any")
# The last versions for this Python and processor, with the packages that click needs there.
# Licences: BSD (numpy, click), HPND (Pillow), MIT (pydicom, pynetdicom, zipp), Apache-2.0
# (importlib-metadata), PSF (typing-extensions). NumPy is not the last one: 1.19.5 crashes on a TX2
# with an illegal instruction unless OPENBLAS_CORETYPE is set (numpy#18131).
PINNED = (
    "numpy==1.19.4",
    "Pillow==8.4.0",
    "pydicom==2.3.1",
    "pynetdicom==1.5.7",
    "click==8.0.4",
    "importlib-metadata==4.8.3",
    "typing-extensions==4.1.1",
    "zipp==3.6.0",
)
FETCH_SECONDS = 600


def requirements(folder: Path) -> str:
    """requirements.txt with hashes, of the wheels in a folder.

    Raises:
        ConfigError: A pinned package is missing, or a file is not a wheel of the list.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        if not zipfile.is_zipfile(path):
            raise ConfigError("Not a wheel", found=path.name, where=str(folder))
        found[f"{name}=={version}".lower().replace("_", "-")] = _sha256(path)
    lines = []
    for pinned in PINNED:
        if pinned.lower() not in found:
            raise ConfigError(
                "Wheel is missing", expected=pinned, where=str(folder),
                fix="`pneumonia device-package` without --wheels fetches all of them",
            )  # fmt: skip
        lines.append(f"{pinned} --hash=sha256:{found.pop(pinned.lower())}\n")
    if found:
        raise ConfigError("Wheel is not on the list", found=min(found), where=str(folder))
    return "".join(lines)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_wheels(folder: Path) -> None:
    """Download the wheels for the board with pip.

    Raises:
        OutputError: pip fails: no network, or an index without the wheels.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--dest", str(folder), "--only-binary=:all:", "--python-version", PYTHON]
    command += ["--implementation", "cp", "--abi", "cp36m", "--abi", "none"]
    command += [part for name in PLATFORMS for part in ("--platform", name)]
    try:
        done = subprocess.run(
            [*command, *PINNED], capture_output=True, timeout=FETCH_SECONDS, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        raise OutputError("Wheels cannot be fetched", found="no answer of the index") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise OutputError(
            "Wheels cannot be fetched",
            found=lines[-1].removeprefix("ERROR: ")[:200] if lines else "pip failed",
            fix="Give a folder of them (--wheels DIR), or --without-wheels",
        )
