"""Imports run one way (docs/architecture.md), and `--help` costs nothing."""

import resource
import subprocess
import sys

import pytest

from tests.contracts.tree import PACKAGES, ROOT, imports_of, source_files

# room -> rooms it may import, besides itself; the longest matching room of a module counts
MAY_IMPORT = {
    "pneumonia.runtime": (),
    "pneumonia.recipes": ("pneumonia.runtime",),
    "data_prep": ("pneumonia.runtime",),
    "evaluation": ("pneumonia.runtime",),
    "evaluation.metrics": ("pneumonia.runtime",),
    "evaluation.study": ("pneumonia.runtime", "evaluation.metrics"),
    "evaluation.analysis": ("pneumonia.runtime", "evaluation.metrics", "evaluation.study"),
    "evaluation.hardware": ("pneumonia.runtime", "evaluation.report"),
    "evaluation.report": (
        "pneumonia.runtime", "evaluation.metrics", "evaluation.study", "evaluation.analysis",
        "evaluation.hardware",
    ),
    "pneumonia.runs": ("pneumonia.runtime", "pneumonia.recipes"),
    "pneumonia.network": ("pneumonia.runtime", "pneumonia.runs"),
    "pneumonia.training": (
        "pneumonia.runtime", "pneumonia.network", "pneumonia.recipes", "pneumonia.runs",
        "data_prep", "evaluation",
    ),
    "pneumonia.compression": (
        "pneumonia.runtime", "pneumonia.network", "pneumonia.recipes", "pneumonia.runs",
        "pneumonia.training", "data_prep", "evaluation",
    ),
    "pneumonia.exporting": (
        "pneumonia.runtime", "pneumonia.network", "pneumonia.runs", "pneumonia.compression",
    ),
    "pneumonia.scoring": ("pneumonia.runtime", "evaluation"),
    "pneumonia.cli": ("pneumonia", "data_prep", "evaluation", "deploy_jetson"),
    "deploy_jetson": ("pneumonia.runtime",),
    "deploy_jetson.device": ("pneumonia.runtime",),  # copied to the board without the generator
    "pneumonia.api": ("pneumonia", "data_prep", "evaluation", "deploy_jetson"),
    "pneumonia": ("pneumonia",),  # the public names, loaded where they are defined
}  # fmt: skip


def room_of(module: str) -> str | None:
    """The room a dotted module name lies in, None when it is not ours."""
    rooms = [room for room in MAY_IMPORT if module == room or module.startswith(room + ".")]
    return max(rooms, key=len, default=None)


def violations() -> list[str]:
    found = []
    for path in source_files():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        home = room_of(module)
        assert home is not None, path
        for name, line in imports_of(path):
            if name == "pneumonia" or name.startswith("pneumonia.__version__"):
                continue  # the version number is everybody's
            target = room_of(name)
            if target in (None, home):
                continue
            if not any(target == ok or target.startswith(ok + ".") for ok in MAY_IMPORT[home]):
                found.append(f"{path.relative_to(ROOT)}:{line} ({home}) imports {name}")
    return found


def test_imports_run_one_way():
    assert violations() == []


def test_the_rule_sees_a_wrong_import(tmp_path, monkeypatch):
    bad = tmp_path / "pneumonia" / "runtime" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("def f():\n    import pneumonia.training.loop\n")
    monkeypatch.setattr("tests.contracts.test_imports.ROOT", tmp_path)
    monkeypatch.setattr("tests.contracts.test_imports.source_files", lambda: [bad])
    assert len(violations()) == 1


HELP = """
import sys, time
start = time.perf_counter()
from pneumonia.cli import group, run
code = run(group, ["--help"])
spent = time.perf_counter() - start
heavy = {"torch", "onnx", "onnxruntime", "cv2", "albumentations", "matplotlib", "numpy"}
print("HEAVY", sorted(heavy & set(sys.modules)), "CODE", code)
"""


def test_help_is_quick_and_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "HEAVY [] CODE 0" in done.stdout
    spent = [_timed_help()]
    while min(spent) >= 0.5 and len(spent) < 5:
        spent.append(_timed_help())
    assert min(spent) < 0.5, f"`pneumonia --help` takes {min(spent):.2f} s"


def _timed_help() -> float:
    """Processor seconds of the whole process: a busy machine must not fail the contract."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "pneumonia", "--help"], check=True, capture_output=True, cwd=ROOT
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("package", PACKAGES)
def test_no_forbidden_dependency(package):
    """GPL and AGPL packages, and the frozen-out ones, are never imported."""
    forbidden = ("ultralytics", "albumentationsx", "jtop", "libjpeg", "torchvision", "pickle")
    found = [
        f"{path}:{line} imports {name}"
        for path in source_files(package)
        for name, line in imports_of(path)
        if name.split(".")[0] in forbidden
    ]
    assert found == []
