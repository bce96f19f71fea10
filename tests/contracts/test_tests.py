"""Tests assert behaviour: they read no private state and take nothing from another test."""

import ast

import pytest

from tests.contracts.tree import ROOT, imports_of

FILES = sorted((ROOT / "tests").rglob("*.py"))
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
