"""On a board there is no torch, no click, no pydicom: only these folders, NumPy and Pillow.

Spans: deploy_jetson.device.profile, deploy_jetson.device.power, pneumonia.runtime.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.tree import ROOT
from tests.runtime.bundles import brightness_detector, write_bundle

PYTHON = os.environ.get("PNEUMONIA_PYTHON36") or sys.executable

# Runs a module with everything but the standard library, NumPy, Pillow and our own forbidden.
RUN = """
import importlib.abc, runpy, sys

ALLOWED = {"numpy", "PIL", "pneumonia", "deploy_jetson"}

class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.split(".")[0]
        known = getattr(sys, "stdlib_module_names", None)  # since Python 3.10
        if known is not None and top not in ALLOWED and top not in known:
            raise ImportError("not on the board: " + name)

sys.meta_path.insert(0, Guard())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A folder as it is copied to the board, and a bundle."""
    root = tmp_path_factory.mktemp("board")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pneumonia/runtime", root / "pneumonia/runtime", ignore=skip)
    shutil.copytree(ROOT / "deploy_jetson/device", root / "deploy_jetson/device", ignore=skip)
    for package in ("pneumonia", "deploy_jetson"):
        shutil.copy(ROOT / package / "__init__.py", root / package)
    write_bundle(root / "bundle", *brightness_detector(), onnx=False)
    return root


@pytest.fixture(params=sorted({sys.executable, PYTHON}), ids=lambda path: Path(path).parts[-3])
def python(request):
    """This one, and the board's where PNEUMONIA_PYTHON36 names it."""
    return request.param


def run(python, board, *words):
    environment = {**os.environ, "PYTHONPATH": str(board), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [python, "-c", RUN, *words],
        capture_output=True, text=True, check=False, cwd=board, env=environment,
    )  # fmt: skip


def test_profiler_predicts_measures_and_verifies(board, python, tmp_path):
    module = "deploy_jetson.device.profile"
    predicted, measured, samples = (str(tmp_path / name) for name in ("p", "m", "s.csv"))
    done = run(python, board, module, "bundle", "--out", predicted, "--sensor", "model")
    assert done.returncode == 0, done.stderr
    assert "ESTIMATED" in done.stdout
    Path(samples).write_text(
        "stamp_s,VDD_IN_mw\n" + "".join(f"{i / 20},{3000 + i % 7}\n" for i in range(400))
    )
    done = run(
        python, board, module, "bundle", "--out", measured, "--sensor", "replay:" + samples,
        "--engine", "reference", "--windows", "1", "--window-s", "0.2", "--min-inferences", "2",
        "--idle-s", "0.2", "--rate-hz", "20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for folder in (predicted, measured):
        assert run(python, board, module, "verify", folder).returncode == 0


def test_tensorrt_that_is_not_there_is_one_line(board, python):
    done = run(python, board, "deploy_jetson.device.tensorrt", "bundle")
    assert done.returncode == 10
    assert done.stderr.startswith("error: TensorRT cannot be loaded")
    assert len(done.stderr.splitlines()) == 1
