"""The ziglang wheel as compiler: a host without gcc still gets libraries for itself and the A57.

Spans: deploy_jetson.kernels.compile.compilers, deploy_jetson.kernels.generate.
"""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from deploy_jetson.kernels.compile import compilers
from deploy_jetson.kernels.compile.compilers import find_compiler
from deploy_jetson.kernels.compile.source import RUNTIME
from deploy_jetson.kernels.generate import generate_library
from deploy_jetson.kernels.targets import TARGETS, runs_here
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from tests.deploy_jetson.kernels.networks import (
    every_op,
    random_image,
    random_tensors,
    reference,
    relative_error,
)
from tests.deploy_jetson.kernels.programs import CROSS_LIBC, MAIN, QEMU, qemu_command

pytestmark = [
    pytest.mark.slow,  # zig builds its own start files first
    pytest.mark.skipif(
        importlib.util.find_spec("ziglang") is None,
        reason="needs the ziglang wheel: pip install pneumonia[kernels]",
    ),
]


@pytest.fixture
def no_other_compiler(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compilers.shutil, "which", lambda name: None)


def library_by_zig(folder, target):
    spec = every_op()
    tensors = random_tensors(spec)
    assert find_compiler(TARGETS[target]).kind == "zig"
    library = folder / "libmodel.so"
    generate_library(spec, tensors, TARGETS[target], library)
    image = random_image(spec)
    return library, image, reference(spec, tensors, image)


def test_library_for_this_machine(tmp_path, no_other_compiler):
    target = next((name for name in TARGETS if runs_here(TARGETS[name])), None)
    if target is None:
        pytest.skip("no target runs here")
    library, image, expected = library_by_zig(tmp_path, target)
    found = KernelLibrary(str(library), threads=2).run(image)
    for name, value in expected.items():
        assert relative_error(found[name], value) <= 1e-4, name


def test_library_for_the_jetson_runs_under_qemu(tmp_path, no_other_compiler, monkeypatch):
    library, image, expected = library_by_zig(tmp_path, "cortex-a57")
    needed = subprocess.run(
        ["strings", "-a", str(library)], capture_output=True, text=True, check=True
    ).stdout
    versions = {line for line in needed.splitlines() if line.startswith("GLIBC_2.")}
    assert versions
    assert all(int(version.split(".")[1]) <= 27 for version in versions), "JetPack 4 has 2.27"
    monkeypatch.undo()
    if not QEMU or not CROSS_LIBC.exists():
        pytest.skip("needs qemu-user and libc6-dev-arm64-cross")
    (tmp_path / "main.c").write_text(MAIN)
    image.tofile(tmp_path / "image.f32")
    target = TARGETS["cortex-a57"]
    include = RUNTIME
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", *target.zig_flags, f"-I{include}", "main.c",
         library.name, "-o", "program"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    subprocess.run(
        [*qemu_command("cortex-a57"), "-L", str(CROSS_LIBC),
         "-E", f"LD_LIBRARY_PATH={tmp_path}", "./program", "image.f32", "out.f32", "2"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    values = np.fromfile(tmp_path / "out.f32", np.float32)
    ends = np.cumsum([value.size for value in expected.values()])
    for (name, value), found in zip(expected.items(), np.split(values, ends[:-1]), strict=True):
        assert relative_error(found, value) <= 1e-4, name
