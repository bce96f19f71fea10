"""`import pneumonia`: costs nothing and offers what is documented; examples show all of it."""

import ast
import inspect
import runpy
import shutil
import subprocess
import sys

import pytest

import pneumonia
from tests.contracts.tree import ROOT

PAGE = ROOT / "docs" / "reference" / "python-api.md"
MAKER = PAGE.with_name("make_python_api_page.py")
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
IMPORT = """
import sys
before = set(sys.modules)
import pneumonia
print(sorted(name for name in set(sys.modules) - before if name != "pneumonia"))
"""


def test_import_loads_nothing_else():
    done = subprocess.run(
        [sys.executable, "-S", "-c", IMPORT], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_documented_and_typed():
    for name in pneumonia.__all__:
        target = getattr(pneumonia, name)
        if inspect.isfunction(target):
            assert target.__doc__
            annotations = inspect.signature(target)
            assert annotations.return_annotation is not inspect.Signature.empty, name
            assert all(p.annotation is not p.empty for p in annotations.parameters.values()), name
        elif inspect.isclass(target):
            assert target.__doc__
    assert set(pneumonia.__all__) < set(dir(pneumonia))
    assert pneumonia.__all__ == sorted(pneumonia.__all__)
    namespace: dict[str, object] = {}
    exec("from pneumonia import *", namespace)
    assert set(pneumonia.__all__) <= set(namespace)
    for name in ("nothing_of_that_name", "_private", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(pneumonia, name)


def test_each_name_is_loaded_from_the_module_that_type_checkers_see():
    tree = ast.parse((ROOT / "pneumonia" / "__init__.pyi").read_text(encoding="utf-8"))
    seen = {
        alias.name: (node.module, alias.asname)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == pneumonia.__all__
    for name, (module, exported) in seen.items():
        assert exported == name  # without `as NAME` a stub does not export what it imports
        assert getattr(pneumonia, name) is getattr(sys.modules[module], name)


def test_without_the_stub_the_package_has_no_public_names(tmp_path):
    """As on a board, which has `pneumonia.runtime` alone."""
    (tmp_path / "pneumonia").mkdir()
    shutil.copy(ROOT / "pneumonia" / "__init__.py", tmp_path / "pneumonia")
    code = "import pneumonia; print(pneumonia.__all__, hasattr(pneumonia, 'Detector'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "[] False\n"


def test_the_page_is_up_to_date():
    made = runpy.run_path(str(MAKER))
    named = [name for names in made["SECTIONS"].values() for name in names]
    assert sorted(named) == sorted(pneumonia.__all__)
    assert PAGE.read_text(encoding="utf-8") == made["page"](), f"run python {MAKER}"


def test_examples_are_short_and_show_every_function():
    texts = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES}
    assert {name: len(text.splitlines()) for name, text in texts.items() if
            len(text.splitlines()) > 30} == {}  # fmt: skip
    shown = "".join(texts.values())
    functions = [n for n in pneumonia.__all__ if n.islower() and n != "match_parameters"]
    assert [name for name in functions if f"pneumonia.{name}(" not in shown] == []
    assert "pneumonia.Detector.load(" in shown
