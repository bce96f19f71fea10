"""Finds a C compiler for a target and makes the shared library."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from deploy_jetson.kernels.targets import COMMON_FLAGS, GCC_FLAGS, Target
from pneumonia.runtime.errors import DeviceError, ExportError

TIMEOUT_S = 900
WARNINGS = ("-Wall", "-Wextra", "-Wno-psabi", "-Wno-unused-parameter")


class Compiler(NamedTuple):
    """A command that compiles C for one target."""

    command: tuple[str, ...]  # program and leading arguments
    kind: str  # `gcc`, `clang` or `zig`

    def flags(self, target: Target) -> list[str]:
        """Options for the target."""
        machine = target.zig_flags if self.kind == "zig" else target.flags
        own = GCC_FLAGS if self.kind == "gcc" else ()
        return [*COMMON_FLAGS, *own, *machine]

    def thread_flags(self, target: Target) -> list[str]:
        """Linker options for pthread.

        glibc 2.34 moved pthread into libc, so a library linked with a newer one names libc alone;
        JetPack 4 has 2.27, whose loader must also load libpthread.so.0. zig links
        against the older glibc itself.
        """
        if target.machine == "aarch64" and self.kind != "zig":
            return ["-Wl,--no-as-needed", "-l:libpthread.so.0"]
        return ["-lpthread"]


def find_compiler(target: Target) -> Compiler:
    """$CC when set, else the system's gcc or clang (or cross gcc), else the ziglang wheel.

    Raises:
        DeviceError: None of them is installed; lists the names that were tried.
    """
    chosen = os.environ.get("CC")
    if chosen:
        command = chosen.split()
        program = shutil.which(command[0])
        if not program:
            raise DeviceError("The compiler of $CC is not installed", found=repr(command[0]))
        command[0] = os.path.abspath(program)  # it runs in another folder
        kind = next((kind for kind in ("zig", "clang") if kind in chosen), "gcc")
        return Compiler(tuple(command), kind)
    native = os.uname().machine == target.machine
    names = ("gcc", "clang") if native else (f"{target.machine}-linux-gnu-gcc",)
    for name in names:
        if shutil.which(name):
            return Compiler((name,), "clang" if name == "clang" else "gcc")
    if importlib.util.find_spec("ziglang"):
        return Compiler((sys.executable, "-m", "ziglang", "cc"), "zig")
    raise DeviceError(
        f"No C compiler for target {target.name!r}",
        expected=" or ".join([*names, "the ziglang wheel"]),
        found="none of them",
        fix="Install one, for example: pip install ziglang",
    )


def compile_object(folder: Path, source: str, target: Target, compiler: Compiler) -> None:
    """Compile one source file of a folder to the object file beside it.

    Raises:
        ExportError: The compiler fails; shows its first error line.
    """
    run_compiler(
        [*compiler.command, *compiler.flags(target), *WARNINGS, "-fPIC",
         "-fvisibility=hidden", "-c", source, "-o", object_name(source)],
        folder,
    )  # fmt: skip


def object_name(source: str) -> str:
    """Object file of a source file."""
    return source.rsplit(".", 1)[0] + ".o"


def source_files(folder: Path) -> list[str]:
    """Names of the C and assembly files of a folder, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".c", ".S"))


def link_library(folder: Path, library: Path, target: Target, compiler: Compiler) -> None:
    """Link the object files of a folder's sources to a shared library.

    Raises:
        ExportError: The linker fails.
    """
    objects = [object_name(source) for source in source_files(folder)]
    run_compiler(
        [*compiler.command, *compiler.flags(target), "-shared",
         "-Wl,-soname," + library.name, *objects, "-o", str(library.resolve()),
         *compiler.thread_flags(target)],
        folder,
    )  # fmt: skip


def compile_library(folder: Path, library: Path, target: Target, compiler: Compiler) -> None:
    """Compile the sources in a folder (C files, weights.S, weights.bin) to a shared library.

    Raises:
        ExportError: The compiler or the linker fails.
    """
    compile_objects(folder, source_files(folder), target, compiler)
    link_library(folder, library, target, compiler)


def compile_objects(
    folder: Path,
    sources: Sequence[str],
    target: Target,
    compiler: Compiler,
) -> None:
    """Compile source files, as many at once as there are CPUs; see `compile_object`."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = [pool.submit(compile_object, folder, source, target, compiler) for source in sources]
        for job in jobs:
            job.result()


def run_compiler(command: Sequence[str], folder: Path) -> None:
    """Run one compiler command inside a folder.

    Raises:
        ExportError: It fails, takes too long or cannot be started.
    """
    try:
        # The compiler's own temporary files must not land in a small shared /tmp.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            done = subprocess.run(
                list(command), cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S,
                check=False, env={**os.environ, "TMPDIR": scratch},
            )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError("The compiler cannot run", found=str(error), where=command[0]) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        first = (lines or done.stderr.splitlines() or ["no message"])[0]
        raise ExportError("The compiler rejects the generated C", found=first, where=command[0])
