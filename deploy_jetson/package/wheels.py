"""The Python wheels of the board: pinned versions, SHA-256 hashes, download by pip."""

import subprocess
import sys
import zipfile
from pathlib import Path

from deploy_jetson.package.boards import BoardSystem
from pneumonia.runtime.errors import ConfigError, OutputError
from pneumonia.runtime.storage.bundle import file_sha256

PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64", "any")
FETCH_SECONDS = 600


def requirements(folder: Path, board: BoardSystem) -> str:
    """requirements.txt with hashes, of the wheels of a board in a folder.

    Raises:
        ConfigError: A pinned package is missing, or a file is not a wheel of the list.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        if not zipfile.is_zipfile(path):
            raise ConfigError("Not a wheel", found=path.name, where=str(folder))
        found[f"{name}=={version}".lower().replace("_", "-")] = file_sha256(str(path))
    lines = []
    for pinned in board.pinned:
        if pinned.lower() not in found:
            raise ConfigError(
                "Wheel is missing", expected=pinned, where=str(folder),
                fix="`pneumonia device-package` without --wheels fetches all of them",
            )  # fmt: skip
        lines.append(f"{pinned} --hash=sha256:{found.pop(pinned.lower())}\n")
    if found:
        raise ConfigError("Wheel is not on the list", found=min(found), where=str(folder))
    return "".join(lines)


def fetch_wheels(folder: Path, board: BoardSystem) -> None:
    """Download the wheels for a board with pip.

    Raises:
        OutputError: pip fails: no network, or an index without the wheels.
    """
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--dest", str(folder), "--only-binary=:all:"]
    command += ["--python-version", board.python]
    command += ["--implementation", "cp", "--abi", "none", "--abi", "abi3"]
    command += ["--abi", board.python_tag + ("m" if board.python_tag == "cp36" else "")]
    command += [part for name in PLATFORMS for part in ("--platform", name)]
    try:
        done = subprocess.run(
            [*command, *board.pinned],
            capture_output=True,
            timeout=FETCH_SECONDS,
            check=False,
            text=True,
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
