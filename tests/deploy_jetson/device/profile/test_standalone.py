"""On a board there is no torch, no click, no pydicom: only these folders, NumPy and Pillow."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.contracts.tree import ROOT
from tests.runtime.bundles import brightness_detector, write_bundle

# Runs a module with everything but the standard library, NumPy, Pillow and our own forbidden.
RUN = """
import importlib.abc, runpy, sys

ALLOWED = {"numpy", "PIL", "pneumonia", "deploy_jetson"}

class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.split(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names:
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


def run(board, *words):
    environment = {**os.environ, "PYTHONPATH": str(board), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", RUN, *words],
        capture_output=True, text=True, check=False, cwd=board, env=environment,
    )  # fmt: skip


def test_profiler_predicts_measures_and_verifies(board):
    module = "deploy_jetson.device.profile"
    done = run(board, module, "bundle", "--out", "predicted", "--sensor", "model")
    assert done.returncode == 0, done.stderr
    assert "ESTIMATED" in done.stdout
    (board / "s.csv").write_text(
        "stamp_s,VDD_IN_mw\n" + "".join(f"{i / 20},{3000 + i % 7}\n" for i in range(400))
    )
    done = run(
        board, module, "bundle", "--out", "measured", "--sensor", "replay:s.csv", "--engine",
        "reference", "--windows", "1", "--window-s", "0.2", "--min-inferences", "2", "--idle-s",
        "0.2", "--rate-hz", "20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for folder in ("predicted", "measured"):
        assert run(board, module, "verify", folder).returncode == 0


def test_tensorrt_that_is_not_there_is_one_line(board):
    done = run(board, "deploy_jetson.device.tensorrt", "bundle")
    assert done.returncode == 10
    assert done.stderr.startswith("error: TensorRT cannot be loaded")
    assert len(done.stderr.splitlines()) == 1
