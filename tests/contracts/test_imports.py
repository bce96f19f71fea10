"""Imports run one way (docs/architecture.md), and `--help` costs nothing."""

import resource
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from pathlib import Path

import pytest

from tests.contracts.tree import PACKAGES, ROOT, imports_of, source_files

# package -> packages it may import, besides itself; of a module's, the longest name counts
MAY_IMPORT = {
    "pneumonia.runtime": (),
    "pneumonia.recipes": ("pneumonia.runtime",),
    "data_prep": ("pneumonia.runtime",),
    "evaluation": ("pneumonia.runtime",),
    "evaluation.metrics": ("pneumonia.runtime",),
    "evaluation.study": ("pneumonia.runtime", "evaluation.metrics"),
    "evaluation.analysis": ("pneumonia.runtime", "evaluation.metrics", "evaluation.study"),
    "evaluation.hardware": ("pneumonia.runtime",),
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


def package_of(module: str) -> str | None:
    """The package of `MAY_IMPORT` that a module belongs to, None for another program's."""
    names = [name for name in MAY_IMPORT if module == name or module.startswith(name + ".")]
    return max(names, key=len, default=None)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def violations() -> list[str]:
    found = []
    for path in source_files():
        own = package_of(module_of(path))
        assert own is not None, path
        for name, line in imports_of(path):
            if name == "pneumonia" or name.startswith("pneumonia.__version__"):
                continue  # every package may read the version number
            target = package_of(name)
            if target in (None, own):
                continue
            if not any(target == ok or target.startswith(ok + ".") for ok in MAY_IMPORT[own]):
                found.append(f"{path.relative_to(ROOT)}:{line} ({own}) imports {name}")
    return found


def circles() -> list[str]:
    """Packages whose parts, modules and sub-folders as a whole, import each other in a circle."""
    paths = source_files(*PACKAGES, "benchmarks")
    graphs: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, path in [(module_of(path), path) for path in paths]:
        for name, _ in imports_of(path):
            ours, theirs = module.split("."), name.split(".")
            same = takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
            n = len(list(same))
            if 0 < n < min(len(ours), len(theirs)):
                graphs[".".join(ours[:n])][ours[n]].add(theirs[n])
    found = []
    for package, graph in graphs.items():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            found.append(f"{package}: {' -> '.join(error.args[1])}")
    return found


def test_imports_run_one_way():
    assert violations() == []


def test_the_parts_of_a_package_import_one_way():
    assert circles() == []


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Writes source files of a tree that takes the place of this one."""
    written = []

    def write(name, text):
        written.append(tmp_path / name)
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        written[-1].write_text(text)

    monkeypatch.setattr("tests.contracts.test_imports.ROOT", tmp_path)
    monkeypatch.setattr("tests.contracts.test_imports.source_files", lambda *folders: written)
    return write


def test_a_wrong_import_is_found(tree):
    tree("pneumonia/runtime/bad.py", "def f():\n    import pneumonia.training.loop\n")
    assert len(violations()) == 1


def test_a_circle_of_two_folders_is_found(tree):
    tree("data_prep/x/one.py", "from data_prep.y.two import f\n")
    tree("data_prep/y/two.py", "from data_prep.x import g\n")
    tree("data_prep/x/__init__.py", "from data_prep.x import one\n")
    assert circles() == ["data_prep: x -> y -> x"]


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
