"""Builds the archive: the same input gives the same bytes."""

import gzip
import hashlib
import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deploy_jetson.kernels.bundle import add_kernels
from deploy_jetson.package.boards import DEFAULT_BOARD, BoardSystem, find_board
from deploy_jetson.package.wheels import fetch_wheels, requirements
from pneumonia import __version__
from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.engines.kernels import LIBRARY
from pneumonia.runtime.errors import ConfigError, DeviceError
from pneumonia.runtime.storage.bundle import INT8, load_bundle

ROOT = Path(__file__).parents[2]
ASSETS = Path(__file__).with_name("assets")
NAME = "pneumonia-device"
SUMS = "SHA256SUMS"
# What runs on the board; everything below is checked for Python 3.6.
CODE = ("pneumonia/__init__.py", "pneumonia/runtime", "deploy_jetson/__init__.py",
        "deploy_jetson/device")  # fmt: skip
LEFT_OUT = ("__pycache__",)
EXECUTABLE = ("install.sh", "pneumonia-device")
# Pages that the board's files and commands refer to; links between them hold.
PAGES = (
    "how-to/install-on-a-jetson.md",
    "how-to/measure-energy.md",
    "how-to/run-the-daemon.md",
    "reference/daemon-config.md",
    "reference/energy-json.md",
    "reference/exit-codes.md",
)
BOARDS_GLIBC = (2, 27)  # JetPack 4
_GLIBC = re.compile(rb"\0GLIBC_(\d+)\.(\d+)(?=[\0.])")


class DevicePackage(NamedTuple):
    """The archive that was written."""

    path: Path  # the archive
    bytes: int  # its size
    files: int  # how many it holds
    wheels: int  # how many of them are wheels
    has_kernels: bool  # whether it holds the generated library
    sha256: str  # of the archive


def make_package(
    bundle: Path, out: Path, wheels: Path | None = None, with_wheels: bool = True,
    with_kernels: bool = True, board: str = DEFAULT_BOARD,
) -> DevicePackage:  # fmt: skip
    """Make the archive for a board.

    Args:
        bundle: Model bundle; not changed.
        out: The archive, `.tar.gz`.
        wheels: Folder with the pinned wheels; None fetches them.
        with_wheels: Add the wheels; without them the board must have the packages.
        with_kernels: Generate and compile the libraries for the board's processors; of an int8
            bundle for those with a dot product of int8 values.
        board: See `boards.BOARDS`.

    Raises:
        ArtefactError: The bundle is damaged.
        ConfigError: The archive's name, or a wheel, is not right; an int8 bundle for a board
            without int8 arithmetic.
        DeviceError: No compiler for the board's processor is installed, or only one whose
            libraries need a newer glibc.
        OutputError: Wheels cannot be fetched, or the archive cannot be written.
    """
    system = find_board(board)
    if not out.name.endswith((".tar.gz", ".tgz")):
        raise ConfigError("Archive needs another name", expected="FILE.tar.gz", found=out.name)
    targets = system.targets
    if load_bundle(str(bundle)).arithmetic == INT8:
        targets = [target for target in targets if target.dots]
    if not targets:
        raise ConfigError(
            "No core of the board has a dot product of int8 values",
            expected="a float32 bundle",
            where=str(bundle),
            fix="Package the bundle it was made from",
        )
    with tempfile.TemporaryDirectory(prefix="pneumonia-package-") as name:
        stage = Path(name) / NAME
        _copy_code(stage / "lib")
        shutil.copytree(bundle, stage / "bundle")
        if with_kernels:
            for target in targets:
                add_kernels(stage / "bundle", target.name, measure=False)
                check_glibc(stage / "bundle" / LIBRARY.format(target.name))
        n_wheels = _add_wheels(stage, wheels, system) if with_wheels else 0
        version = ".".join(system.python.split(".")[:2])
        (stage / "BOARD").write_text(f"{version} {system.name} ({system.title})\n")
        for path in sorted(filter(Path.is_file, ASSETS.iterdir())):  # pip compiles into a folder
            shutil.copyfile(path, stage / path.name)
        for page in PAGES:
            (stage / "docs" / page).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / "docs" / page, stage / "docs" / page)
        shutil.copyfile(ROOT / "LICENSE", stage / "LICENSE")
        (stage / "VERSION").write_text(f"{__version__} {_model_hash(stage)}\n")
        (stage / SUMS).write_text(sums_of(stage))
        files = list(_files(stage))
        data = _packed(stage)
    write_bytes(str(out), data)
    return DevicePackage(
        out, len(data), len(files), n_wheels, with_kernels, hashlib.sha256(data).hexdigest()
    )


def check_glibc(library: Path) -> None:
    """Refuse a library that needs a newer glibc than the board has.

    Raises:
        DeviceError: It was linked against this machine's newer glibc.
    """
    needed = [(int(a), int(b)) for a, b in _GLIBC.findall(library.read_bytes())]
    if max(needed, default=(0, 0)) > BOARDS_GLIBC:
        raise DeviceError(
            "Library cannot be loaded on the board",
            expected="glibc {}.{} or older".format(*BOARDS_GLIBC),
            found="{}.{}".format(*max(needed)), where=library.name,
            fix="Compile it with the ziglang wheel: pip install 'pneumonia[kernels]' and set"
            " CC='python -m ziglang cc'",
        )  # fmt: skip


def _copy_code(lib: Path) -> None:
    for name in CODE:
        source, target = ROOT / name, lib / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copyfile(source, target)


def _add_wheels(stage: Path, given: Path | None, board: BoardSystem) -> int:
    folder = stage / "wheels"
    folder.mkdir()
    if given is None:
        fetch_wheels(folder, board)
    else:
        for path in sorted(given.glob("*.whl")):
            shutil.copyfile(path, folder / path.name)
    (stage / "requirements.txt").write_text(requirements(given or folder, board))
    return len(list(folder.iterdir()))


def _model_hash(stage: Path) -> str:
    return load_bundle(str(stage / "bundle")).model_hash[:12]


def _files(stage: Path) -> Iterator[Path]:
    yield from (path for path in sorted(stage.rglob("*")) if path.is_file())


def sums_of(stage: Path) -> str:
    """SHA-256 of all files except SHA256SUMS, in the format of `sha256sum -c`."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(stage).as_posix()}\n"
        for path in _files(stage)
        if path.name != SUMS
    )


def _packed(stage: Path) -> bytes:
    """The archive as reproducible bytes: no times, no users."""
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path in _files(stage):
            entry = tarfile.TarInfo(f"{NAME}/{path.relative_to(stage).as_posix()}")
            data = path.read_bytes()
            entry.size = len(data)
            entry.mode = 0o755 if path.name in EXECUTABLE else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()
