"""Compilers and targets: found, missing, failing."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from deploy_jetson.kernels.compile.compilers import find_compiler
from deploy_jetson.kernels.generate import generate_library
from deploy_jetson.kernels.targets import TARGETS, find_target
from deploy_jetson.kernels.templates import KERNELS
from pneumonia.runtime.errors import ConfigError, DeviceError, ExportError
from tests.runtime.bundles import varied_detector

ROOT = Path(__file__).parents[4]


def test_unknown_target_names_the_known_ones():
    with pytest.raises(ConfigError, match="x86-avx512, x86-avx2, cortex-a57, cortex-a72") as caught:
        find_target("sparc")
    assert "--" not in str(caught.value)  # Python's `write_kernels` has no such option


def test_missing_compiler_names_what_was_looked_for(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="ziglang"):
        find_compiler(TARGETS["cortex-a57"])
    monkeypatch.setenv("CC", "nosuchcc -m64")
    with pytest.raises(DeviceError, match="'nosuchcc'"):
        find_compiler(TARGETS["x86-avx2"])


def test_a_compiler_with_a_relative_path_is_found_from_every_folder(tmp_path, monkeypatch):
    (tmp_path / "cc").write_text("#!/bin/sh\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", "./cc -m64")
    command = find_compiler(TARGETS["x86-avx2"]).command
    assert command == (str(tmp_path / "cc"), "-m64")


def test_compiler_that_fails_shows_its_first_error(tmp_path, monkeypatch):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'x.c:1: error: no such thing' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    spec, tensors = varied_detector()
    library = tmp_path / "lib.so"
    with pytest.raises(ExportError, match="no such thing"):
        generate_library(spec, tensors, TARGETS["x86-avx2"], library)
    assert not library.exists()
    assert not list(tmp_path.glob(".part-*"))


def test_library_for_the_jetson_asks_for_the_glibc_of_jetpack_4(tmp_path, monkeypatch):
    if not shutil.which("aarch64-linux-gnu-gcc"):
        pytest.skip("needs gcc-aarch64-linux-gnu")
    monkeypatch.delenv("CC", raising=False)
    library = tmp_path / "lib.so"
    generate_library(*varied_detector(), TARGETS["cortex-a57"], library)
    data = library.read_bytes()
    wanted = {int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", data)}
    assert wanted
    assert max(wanted) <= 27
    assert b"\0libpthread.so.0\0" in data  # 2.27 keeps pthread_create there


def test_c_files_and_templates_ship_with_the_package():
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = packaging["package-data"]["*"]
    found = [path for path in KERNELS.rglob("*") if path.suffix in (".c", ".h", ".j2")]
    assert len(found) > 10
    for path in found:
        folder = path.parent
        while not (folder / "__init__.py").exists():
            folder = folder.parent
        name = path.relative_to(folder)
        assert any(name.match(pattern) for pattern in shipped), path
