"""Rules that a tool can check: sizes, names, recipes, licences, nothing private."""

import ast
import re
import subprocess
import tomllib
from collections import Counter

import pytest
import yaml

from tests.contracts.tree import PACKAGES, ROOT, source_files

MOST_LINES = 400  # of a module
MOST_MODULES = 14  # of a folder
VAGUE = {"utils.py", "helpers.py", "misc.py", "common.py"}
# Class names that explain nothing without their module.
VAGUE_CLASSES = {
    "Batch", "Cached", "Check", "Entry", "Facts", "Features", "Match", "Name", "Offer", "Plan",
    "Planned", "Problem", "Record", "Result", "Sample", "Sets", "Share", "Situation", "Sources",
    "State", "Store", "Task", "View",
}  # fmt: skip


def test_no_module_is_longer_than_the_limit():
    long = {
        str(path.relative_to(ROOT)): count
        for path in source_files(*PACKAGES, "benchmarks")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


def test_no_vague_module_names():
    assert [str(path) for path in source_files() if path.name in VAGUE] == []


def test_no_folder_has_more_modules_than_one_can_survey():
    found = {}
    for folder in {path.parent for path in source_files(*PACKAGES, "benchmarks", "examples")}:
        count = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        name = str(folder.relative_to(ROOT))
        if count > MOST_MODULES:
            found[name] = count
    assert found == {}


def test_commands_get_their_options_as_objects():
    """A command takes named arguments and options classes (`cli/options.py`), never a dict."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in source_files("pneumonia/cli")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and node.args.kwarg
        and node.decorator_list
        and "click" in ast.unparse(node.decorator_list[0])
    ]
    assert found == []


def public_classes() -> dict[str, list[str]]:
    """Name of every public class of packages and benchmarks -> the modules that define one."""
    found: dict[str, list[str]] = {}
    for path in source_files(*PACKAGES, "benchmarks"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    return found


def test_a_public_class_name_is_taken_once_and_says_something():
    wrong = {
        name: modules
        for name, modules in public_classes().items()
        if len(modules) > 1 or (name in VAGUE_CLASSES and not modules[0].startswith("benchmarks"))
    }
    assert wrong == {}


RECIPES = sorted((ROOT / "pneumonia" / "recipes").glob("*/*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_loads(path):
    from pneumonia.recipes import load_recipe

    kind = path.parent.name
    if kind == "train":
        from pneumonia.training.config import TrainRecipe as Recipe
    elif kind == "quantize":
        from pneumonia.compression.quantize.recipe import QuantizeRecipe as Recipe
    elif kind == "finetune":
        from pneumonia.compression.prune.recipe import FineTuneRecipe as Recipe
    else:
        from pneumonia.compression.prune.recipe import PruneRecipe as Recipe  # type: ignore[assignment]
    recipe = load_recipe(path.stem, kind, Recipe)
    assert recipe.model_dump()
    comments = [line for line in path.read_text().splitlines() if "#" in line]
    assert len(comments) >= 3, "a recipe explains its choices"


def test_there_are_recipes():
    kinds = {path.parent.name for path in RECIPES}
    assert kinds == {"train", "prune", "quantize", "finetune"}


def test_yaml_files_are_wellformed():
    for path in (ROOT / ".pre-commit-config.yaml", *RECIPES):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))


def tracked() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "-z"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return [name for name in done.stdout.split("\0") if name]


CODE = (".py", ".j2", ".html", ".js", ".toml", ".sh", ".service", "Makefile")


def test_every_definition_is_used_outside_tests():
    """Top-level functions and classes that nothing but their tests names can go.

    Decorated ones are exempt: what decorates them may register them.
    """
    names = [name for name in tracked() if name.endswith(CODE) and not name.startswith("tests/")]
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in names}
    count = Counter(word for text in texts.values() for word in re.findall(r"\w+", text))
    unused = [
        f"{name}: {node.name}"
        for name, text in texts.items()
        if name.endswith(".py")
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (node.decorator_list or node.name.startswith("__") or count[node.name] > 1)
    ]
    assert unused == []


def test_no_machine_paths_and_no_big_binaries():
    private = re.compile(r"/work/|/root/|/home/[a-z]+/|\.library/")
    found = []
    for name in tracked():
        path = ROOT / name
        if not path.is_file() or name == "tests/contracts/test_style.py":
            continue
        data = path.read_bytes()
        ships = name.startswith(("pneumonia/models/", "benchmarks/models/"))
        limit = 8_000_000 if ships else 400_000
        if len(data) > limit:
            found.append(f"{name}: {len(data)} bytes")
        if b"\0" not in data[:4096] and private.search(data.decode("utf-8", "replace")):
            found.append(f"{name}: holds a path of a machine")
    assert found == []


def test_packages_scripts_and_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {
        "pneumonia": "pneumonia.cli:main",
        "pneumonia-score": "pneumonia.cli:main_score",
    }
    assert {"dicom", "kernels", "cluster", "dev"} <= set(project["optional-dependencies"])
    assert "torch>=2.9,<2.14" in project["dependencies"]
    assert "albumentations==2.0.8" in project["dependencies"]
    assert not [need for need in project["dependencies"] if need.startswith("tensorrt")]
