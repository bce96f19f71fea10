"""Libraries compiled at first use: one per model and machine, in the user's cache folder.

`runtime.engines` asks for the library of a bundle that has none for this machine. It is compiled
once, without tuning, for every vector width this machine has; the fastest is kept as
`CACHE/kernels/KEY.so`. The key names the model, the targets and the generator; KEY.json holds the
library's SHA-256. A library is loaded only from a folder with mode 700 that the user owns, and only
if it has this hash; anything else is compiled again.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from deploy_jetson.kernels.compile.compilers import find_compiler
from deploy_jetson.kernels.targets import Target, native_targets
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.engines.comparison import interleaved_ms
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.errors import DeviceError, ExportError
from pneumonia.runtime.json_files import find_json_object
from pneumonia.runtime.model.spec import tensor_shapes
from pneumonia.runtime.storage.bundle import Bundle, file_sha256

SCHEMA = "pneumonia.cached-kernels/1"
MAX_WEIGHTS = 8 * 10**6  # a larger network takes longer to compile than a user waits unasked
MAX_LIBRARIES = 16  # the oldest are removed
RUNS = 8  # of every library, to find the fastest
LOCK_TIMEOUT_S = 300.0
LOCK_POLL_S = 0.1
_LOG = logging.getLogger("pneumonia.runtime.engines")


def user_cache_folder() -> Path:
    """$PNEUMONIA_CACHE, else `pneumonia` in $XDG_CACHE_HOME or ~/.cache.

    Raises:
        DeviceError: The user has no home folder.
    """
    folder = os.environ.get("PNEUMONIA_CACHE")
    if folder:
        return Path(folder)
    root = os.environ.get("XDG_CACHE_HOME")
    if root and Path(root).is_absolute():  # a relative one must be ignored, says its specification
        return Path(root) / "pneumonia"
    try:
        return Path.home() / ".cache" / "pneumonia"
    except RuntimeError:
        raise DeviceError("User has no home folder", fix="Set PNEUMONIA_CACHE") from None


def cached_library(bundle: Bundle) -> str:
    """Path of the bundle's library for this machine, compiled if the cache has none.

    Raises:
        DeviceError: The network is too large, there is no compiler, the cache is not private, or
            another process holds it for more than LOCK_TIMEOUT_S.
        PneumoniaError: The network does not suit the generator, or the compiler fails.
        OSError: The cache cannot be written.
    """
    weights = sum(int(np.prod(shape)) for shape in tensor_shapes(bundle.spec).values())
    if weights > MAX_WEIGHTS:
        raise DeviceError(
            "Network is too large to be compiled at first use",
            expected=f"at most {MAX_WEIGHTS:,} weights",
            found=f"{weights:,}",
            fix="Compile it yourself: pneumonia kernels BUNDLE",
        )
    targets = native_targets()
    folder = _private_folder(user_cache_folder() / "kernels")
    library = folder / (_key(bundle.model_hash, targets) + ".so")
    if not _is_intact(library):
        with _locked(folder):
            if not _is_intact(library):  # another process may have compiled it meanwhile
                _compile(bundle, targets, library)
    return str(library)


def _key(model_hash: str, targets: Sequence[Target]) -> str:
    """What a library depends on: the model, the machine, and every file of the generator."""
    digest = hashlib.sha256(repr((model_hash, targets)).encode())
    home = Path(__file__).parent
    for path in sorted(p for p in home.rglob("*") if p.suffix in (".py", ".j2", ".c", ".h")):
        digest.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


def _private_folder(folder: Path) -> Path:
    """The folder, made if missing; who can write into it can run code in this process."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not private or status.st_mode & 0o077:
        raise DeviceError(
            "Cache of compiled kernels is not private",
            expected="a folder of this user with mode 700",
            found=f"mode {stat.S_IMODE(status.st_mode):o}, user {status.st_uid}",
            where=str(folder),
            fix=f"Remove it, or: chmod 700 {folder}",
        )
    return folder


def _is_intact(library: Path) -> bool:
    """Whether the library is a plain file of this user with the recorded hash."""
    try:
        status = library.lstat()
    except OSError:
        return False
    record = find_json_object(str(library.with_suffix(".json")))
    plain = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    return (
        plain
        and not status.st_mode & 0o022
        and record.get("schema") == SCHEMA
        and record.get("sha256") == file_sha256(str(library))
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the cache alone; the system releases the lock of a process that dies."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        end = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise DeviceError(
                        "Another process has been compiling kernels for too long",
                        found=f"{LOCK_TIMEOUT_S:.0f} s",
                        where=str(folder),
                    ) from None
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(handle)


def _compile(bundle: Bundle, targets: Sequence[Target], library: Path) -> None:
    from deploy_jetson.kernels.generate import generate_library

    compiler = " ".join(find_compiler(targets[0]).command)
    failure = library.with_suffix(".failed")
    _raise_known_failure(failure, compiler)
    _make_room(library.parent)
    _LOG.info(
        "Compiling the kernels of this model for this machine (seconds, once; kept in %s; "
        "PNEUMONIA_COMPILE=0 switches this off)", library.parent,
    )  # fmt: skip
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".part-") as scratch:
        weights, parts = bundle.weights(), []
        try:
            for target in targets:
                path = Path(scratch) / f"{target.name}.so"
                made = generate_library(
                    bundle.spec, weights, target, path, model_hash=bundle.model_hash
                )
                parts.append(made.library)
        except ExportError as error:
            write_json(str(failure), {"compiler": compiler, "reason": str(error)})
            raise
        part = _fastest(parts)
        part.chmod(0o600)
        sha256 = file_sha256(str(part))
        record = {"schema": SCHEMA, "model_hash": bundle.model_hash, "sha256": sha256}
        write_json(str(library.with_suffix(".json")), record)
        part.replace(library)
        failure.unlink(missing_ok=True)
    _LOG.info("Kernels compiled in %.1f s", time.monotonic() - start)


def _fastest(paths: Sequence[Path]) -> Path:
    """The library with the shortest of several interleaved runs on one thread."""
    if len(paths) == 1:
        return paths[0]
    libraries = {str(path): KernelLibrary(str(path)) for path in paths}
    image = np.zeros(next(iter(libraries.values())).input_shape, np.float32)
    runs = {name: partial(library.run, image) for name, library in libraries.items()}
    spent = interleaved_ms(runs, RUNS)
    for library in libraries.values():
        library.close()
    return min(paths, key=lambda path: min(spent[str(path)]))


def _raise_known_failure(failure: Path, compiler: str) -> None:
    """Raise the recorded error of an earlier failed compilation instead of compiling again."""
    record = find_json_object(str(failure))
    if record.get("compiler") == compiler:
        raise DeviceError(
            "The compiler could not compile these kernels before",
            found=str(record.get("reason"))[:200],
            where=compiler,
            fix=f"Install another compiler, or remove {failure} to try again",
        )


def _make_room(folder: Path) -> None:
    """Remove what killed processes left, and the oldest libraries."""
    for part in folder.glob(".part-*"):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
    libraries = sorted(folder.glob("*.so"), key=lambda path: path.lstat().st_mtime)
    for old in libraries[: max(0, len(libraries) + 1 - MAX_LIBRARIES)]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
