"""Tests lie where their source does, read no private state and take nothing from another test."""

import ast
import re
from pathlib import Path

import pytest

from tests.contracts.tree import ROOT, imports_of

TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))
WITHOUT_SOURCE = {"contracts", "support"}  # folders of tests/ that mirror no source folder
MIRRORED = [path for path in FILES if path.relative_to(TESTS).parts[0] not in WITHOUT_SOURCE]
# what named tuples and os call so, and pydicom's only way to a value that its own checks refuse
NOT_PRIVATE = {"_replace", "_asdict", "_fields", "_exit", "_dict"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in NOT_PRIVATE


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_state_and_nothing_from_another_test(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not is_own:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if is_private(alias.name)]
            found += [f"line {node.lineno}: import {name}" for name in names]
    for name, line in imports_of(path):
        if any(part.startswith("test_") for part in name.split(".")):
            found.append(f"line {line}: import of {name}")
    assert found == []


def source_folder(path: Path) -> Path | None:
    """The folder that the folder of a test mirrors; `pneumonia/` is left out of the path."""
    folder = path.parent.relative_to(TESTS)
    return next((f for f in (ROOT / "pneumonia" / folder, ROOT / folder) if f.is_dir()), None)


def is_source(name: Path) -> bool:
    """Whether a path without suffix is a module or a folder."""
    return name.with_suffix(".py").is_file() or name.is_dir()


def spanned(path: Path) -> list[str]:
    """Modules and packages in the paragraph `Spans: a.b, c.d.` of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    found = re.search(r"(?ms)^Spans: (.*?)\.$", text)
    return found[1].replace(",", " ").split() if found else []


def misplaced(path: Path) -> str:
    """What is wrong with the place or the name of a test module, empty if nothing."""
    folder = source_folder(path)
    if folder is None:
        return "its folder is not the path of a source folder"
    names = spanned(path)
    lost = [name for name in names if not is_source(ROOT / name.replace(".", "/"))]
    if lost:
        return f"spans {', '.join(lost)}, which is not a module"
    is_test = path.name.startswith("test_")
    if is_test and not names and not is_source(folder / path.stem.removeprefix("test_")):
        return f"names no module of {folder.relative_to(ROOT)} and its docstring has no `Spans: `"
    return ""


@pytest.mark.parametrize("path", MIRRORED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_test_lies_where_its_source_does(path):
    assert misplaced(path) == ""


def test_misplaced_tests_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.contracts.test_tests.ROOT", tmp_path)
    monkeypatch.setattr("tests.contracts.test_tests.TESTS", tmp_path / "tests")
    for name in ("pneumonia/runs/names.py", "evaluation/study/labels.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()

    def found(name: str, text: str = "") -> str:
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return misplaced(path)

    assert found("runs/test_names.py") == found("evaluation/study/test_labels.py") == ""
    assert found("test_runs.py") == found("evaluation/test_study.py") == ""  # of a package
    assert "names no module of pneumonia/runs" in found("runs/test_labels.py")
    assert "not the path of a source folder" in found("study/test_labels.py")
    both = '"""Both.\n\nSpans: pneumonia.runs.names,\nevaluation.study.labels.\n"""'
    assert found("runs/test_both.py", both) == ""
    assert "spans pneumonia.runs.other" in found(
        "runs/test_gone.py", '"""One.\n\nSpans: pneumonia.runs.other.\n"""'
    )
