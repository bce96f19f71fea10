"""What runs on the device is Python 3.6: proved by the grammar, by vermin and by an allow-list."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.tree import ROOT, imports_of, source_files

ZONES = [zone for zone in ("pneumonia/runtime", "deploy_jetson/device") if (ROOT / zone).is_dir()]
# what the zone may import besides Python 3.6's standard library
ALLOWED = {
    "pneumonia", "deploy_jetson", "numpy", "PIL", "pydicom", "onnxruntime", "tensorrt",
    "pynetdicom", "click", "jpeg_ls", "openjpeg", "gdcm",
}  # fmt: skip
NEWER_THAN_36 = {"dataclasses", "importlib.resources", "contextvars", "graphlib", "zoneinfo"}


def files():
    return source_files(*ZONES)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_grammar_is_python_36(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    future = [
        n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "__future__"
    ]
    assert future == [], "3.6 has no `annotations` future"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_on_the_device(path):
    for name, line in imports_of(path):
        top = name.split(".")[0]
        known = top in ALLOWED or top in sys.stdlib_module_names
        assert known, f"{path}:{line} imports {name}"
        assert name not in NEWER_THAN_36, f"{path}:{line} imports {name}"


def vermin(*paths: str) -> "subprocess.CompletedProcess[str]":
    command = [
        str(Path(sys.executable).with_name("vermin")), "-t=3.6-", "--no-tips",
        "--eval-annotations", "--violations", "--processes=1", *paths,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_vermin_finds_nothing_newer():
    done = vermin(*ZONES)
    assert done.returncode == 0, done.stdout


def test_vermin_would_find_something(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("import subprocess\nsubprocess.run(['a'], capture_output=True)\n")
    assert vermin(str(bad)).returncode != 0
