"""Libraries compiled at first use: by `auto`, once, only into and from a private cache."""

import fcntl
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy_jetson.kernels import library_cache
from deploy_jetson.kernels.targets import TARGETS, runs_here
from pneumonia.cli import run as run_command
from pneumonia.cli.scoring import score as score_verb
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.errors import DeviceError
from pneumonia.runtime.storage.bundle import load_bundle
from tests.deploy_jetson.kernels.networks import random_image
from tests.runtime.bundles import varied_detector, write_bundle

pytestmark = pytest.mark.skipif(
    not shutil.which("gcc") or not any(map(runs_here, TARGETS.values())),
    reason="needs gcc and a machine that a target describes",
)
ROOT = Path(__file__).parents[3]
OPEN = """
import sys
from pneumonia.runtime.storage.bundle import load_bundle
from pneumonia.runtime.engines import open_engine
print(open_engine(load_bundle(sys.argv[1])).name)
"""


@pytest.fixture
def bundle(tmp_path):
    return load_bundle(write_bundle(tmp_path / "bundle", *varied_detector()))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PNEUMONIA_COMPILE", "1")
    monkeypatch.setenv("PNEUMONIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def no_compiler(monkeypatch):
    """Fails the test when something is compiled."""

    def refuse(*arguments):
        raise AssertionError("a compiler was called")

    monkeypatch.setattr("deploy_jetson.kernels.compile.compilers.run_compiler", refuse)


def test_auto_compiles_once_and_agrees_with_the_reference(bundle, cache, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    engine = open_engine(bundle, threads=1)
    assert engine.name == "kernels"
    assert "Compiling the kernels" in caplog.text
    assert "PNEUMONIA_COMPILE=0" in caplog.text
    batch = random_image(bundle.spec)[None]
    for name, value in open_engine(bundle, "reference").run(batch).items():
        found = engine.run(batch)[name]
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-4 * np.abs(value).max())
    assert cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("CC", "/bin/false")
    caplog.clear()
    assert open_engine(bundle).name == "kernels"
    assert open_engine(bundle, "kernels").name == "kernels"
    assert not caplog.text


def test_nothing_is_compiled_where_it_is_switched_off(bundle, cache, monkeypatch, no_compiler):
    assert open_engine(bundle, compile_missing=False).name != "kernels"
    monkeypatch.setenv("PNEUMONIA_COMPILE", "0")
    assert open_engine(bundle).name != "kernels"
    assert not cache.exists()
    with pytest.raises(DeviceError, match="pneumonia kernels BUNDLE"):
        open_engine(bundle, "kernels")


def test_device_code_without_the_generator_opens_another_engine(bundle, tmp_path):
    for name in ("pneumonia/__init__.py", "pneumonia/runtime", "deploy_jetson/__init__.py"):
        target = tmp_path / "lib" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, target)
    packages = Path(np.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-S", "-c", OPEN, bundle.path],  # -S: without this checkout
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'lib'}:{packages}"}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout in ("onnxruntime\n", "reference\n")
    assert done.stderr == ""


def test_without_a_compiler_another_engine_runs_and_the_log_says_why(bundle, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    find_spec = importlib.util.find_spec
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ziglang" else find_spec(name)
    )
    assert open_engine(bundle).name != "kernels"
    assert "pip install ziglang" in caplog.text


def test_a_compiler_that_fails_is_not_tried_again(bundle, cache, caplog, monkeypatch, tmp_path):
    caplog.set_level(logging.INFO)
    broken = tmp_path / "cc"
    broken.write_text(f"#!/bin/sh\necho tried >> {tmp_path}/tries\necho 'error: no' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert open_engine(bundle).name != "kernels"
    tries = (tmp_path / "tries").read_text()
    assert open_engine(bundle).name != "kernels"
    assert (tmp_path / "tries").read_text() == tries
    assert "could not compile these kernels before" in caplog.text
    monkeypatch.delenv("CC")
    assert open_engine(bundle).name == "kernels"
    assert not list(cache.glob("*.failed"))
    assert not list(cache.glob(".part-*"))


def test_a_network_that_takes_long_to_compile_is_left_out(bundle, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(library_cache, "MAX_WEIGHTS", 1000)
    assert open_engine(bundle).name != "kernels"
    assert "pneumonia kernels BUNDLE" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "changed", "record gone", "record foreign", "writable",
                                   "link"])  # fmt: skip
def test_a_damaged_or_foreign_library_is_compiled_again(bundle, cache, tmp_path, fault):
    library = Path(library_cache.cached_library(bundle))
    whole, record = library.read_bytes(), library.with_suffix(".json")
    if fault in ("cut", "changed"):
        library.unlink()  # this process has it mapped
        library.write_bytes(whole[:1000] if fault == "cut" else whole[:-1] + b"?")
        library.chmod(0o600)
    elif fault == "record gone":
        record.unlink()
    elif fault == "record foreign":
        record.write_text(json.dumps(["not", "ours"]))
    elif fault == "writable":
        library.chmod(0o666)
    else:
        elsewhere = library.rename(tmp_path / "elsewhere.so")
        library.symlink_to(elsewhere)
    assert Path(library_cache.cached_library(bundle)) == library
    assert not library.is_symlink()
    assert library.stat().st_mode & 0o777 == 0o600
    # The quicker of two vector widths may be another one the second time.
    assert library.read_bytes() not in (whole[:1000], whole[:-1] + b"?")
    assert open_engine(bundle).name == "kernels"


@pytest.mark.parametrize("fault", ["others write", "link", "file"])
def test_a_cache_that_is_not_private_is_never_used(bundle, cache, tmp_path, no_compiler, fault):
    cache.parent.mkdir()
    if fault == "others write":
        cache.mkdir()
        cache.chmod(0o770)
    elif fault == "link":
        (tmp_path / "other").mkdir(mode=0o700)
        cache.symlink_to(tmp_path / "other")
    else:
        cache.write_text("")
    assert open_engine(bundle).name != "kernels"


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator writes everywhere")
def test_a_cache_that_cannot_be_written_leaves_another_engine(bundle, cache, no_compiler):
    cache.mkdir(parents=True, mode=0o500)
    assert open_engine(bundle).name != "kernels"


def test_a_full_disk_leaves_another_engine(bundle, cache, monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deploy_jetson.kernels.generate.write_scratch", full)
    assert open_engine(bundle).name != "kernels"
    assert "No space left on device" in caplog.text
    assert not list(cache.glob(".part-*"))


@pytest.mark.slow
def test_processes_that_start_together_compile_once(bundle, cache):
    command = [sys.executable, "-c", OPEN, bundle.path]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=250)[0] for process in started] == ["kernels\n"] * 3
    assert len(list(cache.iterdir())) == 3  # library, record, lock


def test_a_process_that_holds_the_cache_is_not_waited_for_without_end(bundle, cache, monkeypatch):
    monkeypatch.setattr(library_cache, "LOCK_TIMEOUT_S", 0.0)
    cache.mkdir(parents=True, mode=0o700)
    with (cache / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(DeviceError, match="Another process"):
            library_cache.cached_library(bundle)


@pytest.mark.slow
def test_old_libraries_and_what_killed_processes_left_are_removed(bundle, cache, monkeypatch):
    monkeypatch.setattr(library_cache, "MAX_LIBRARIES", 2)
    cache.mkdir(parents=True, mode=0o700)
    for age, name in enumerate(("new", "old", "older")):
        for path in (cache / f"{name}.so", cache / f"{name}.json"):
            path.write_text("")
            os.utime(path, (10**9 - age, 10**9 - age))
    (cache / ".part-killed").mkdir()
    library = Path(library_cache.cached_library(bundle))
    names = {path.name for path in cache.iterdir()}
    assert names == {"lock", "new.so", "new.json", library.name, library.stem + ".json"}


def test_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("PNEUMONIA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/cache")
    assert library_cache.user_cache_folder() == Path("/var/tmp/cache/pneumonia")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert library_cache.user_cache_folder() == tmp_path / ".cache" / "pneumonia"


def test_score_says_which_engine_ran(bundle, tmp_path, capsys):
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(tmp_path / "in" / "a.png")
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--bundle", bundle.path]
    run_command(score_verb.command, [*arguments, "--no-report", "--jobs", "1"])
    assert "by engine kernels" in capsys.readouterr().out
