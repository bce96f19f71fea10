"""The C files that all generated libraries share are compiled once a session."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from deploy_jetson.kernels.compile import compilers
from tests.support.tiny import session_folder

INCLUDE = re.compile(r'^#include "(.+)"', re.MULTILINE)


def sources_of(path: Path) -> set[Path]:
    """A C file and the files of its folder that it includes, directly or not."""
    found, waiting = set(), [path]
    while waiting:
        one = waiting.pop()
        if one not in found and one.is_file():
            found.add(one)
            waiting += [one.parent / name for name in INCLUDE.findall(one.read_text("utf-8"))]
    return found


@pytest.fixture(autouse=True, scope="session")
def objects_compiled_once(tmp_path_factory):
    """Take an object file from an earlier test when the command and all its sources are equal.

    Four fifths of the time of a small library go into the runtime, which is the same for each.
    """
    objects = session_folder(tmp_path_factory) / "objects"
    objects.mkdir(exist_ok=True)
    compile_anew = compilers.run_compiler

    def run_compiler(command, folder):
        source = command[command.index("-c") + 1] if "-c" in command else ""
        # a compiler given by its path may be a pretended one, whose failures a test counts
        if not source.endswith(".c") or not command[0].endswith("gcc") or os.sep in command[0]:
            compile_anew(command, folder)
            return
        digest = hashlib.sha256("\0".join(command).encode())
        for path in sorted(sources_of(Path(folder) / source)):
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
        known, made = objects / digest.hexdigest(), Path(folder) / compilers.object_name(source)
        if known.exists():
            shutil.copy(known, made)
            return
        compile_anew(command, folder)
        part = known.with_suffix(f".{os.getpid()}.{os.urandom(4).hex()}")
        shutil.copy(made, part)
        part.replace(known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilers, "run_compiler", run_compiler)
        yield
