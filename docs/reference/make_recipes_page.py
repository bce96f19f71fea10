"""Writes docs/reference/recipes.md from the recipes' own classes; a test runs it and compares.

python docs/reference/make_recipes_page.py
"""

import inspect
import re
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pneumonia.compression.prune.layerwise import (
    BlockMethod,
    CrossbarMethod,
    IrregularMethod,
    PatternMethod,
)
from pneumonia.compression.prune.recipe import (
    AdmmPhase,
    LayerChoice,
    PruneRecipe,
    PurifyPhase,
    RateConfig,
    RetrainPhase,
)
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.compression.quantize.recipe import QuantizeRecipe
from pneumonia.recipes import recipe_names
from pneumonia.training.config import OptimiserConfig, ScheduleConfig

PAGE = Path(__file__).with_name("recipes.md")
HEAD = """# Recipes of pruning and quantization

Written by `docs/reference/make_recipes_page.py` from the classes that check recipes; edit those.

`pneumonia prune RUN --recipe NAME` takes a recipe that ships or a YAML file; `--set key=value`
changes one key (`--set admm.epochs=20`). The recipes that ship lie in `pneumonia/recipes/`, with
comments; copy one to begin with. A key that is not listed here is refused.

Recipes that ship, to prune: {prune}. To quantize (`pneumonia prune` or `pneumonia quantize`):
{quantize}.
"""
SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("A pruning run", PruneRecipe),
    ("`layers`", LayerChoice),
    ("`rates`", RateConfig),
    ("`admm`", AdmmPhase),
    ("`retrain`", RetrainPhase),
    ("`purify`", PurifyPhase),
    ("`optimiser` of a phase", OptimiserConfig),
    ("`schedule` of a phase", ScheduleConfig),
    ("`constraint` with `kind: structured` (filter, column, combined)", StructuredMethod),
    ("`constraint` with `kind: pattern`", PatternMethod),
    ("`constraint` with `kind: block`", BlockMethod),
    ("`constraint` with `kind: crossbar`", CrossbarMethod),
    ("`constraint` with `kind: irregular`", IrregularMethod),
    ("A quantization run (`kind: quantize`)", QuantizeRecipe),
)


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> text of the class's `Attributes:`, and of those it inherits from."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        text = inspect.cleandoc(parent.__doc__ or "").partition("Attributes:\n")[2]
        for name, words in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE):
            found[name] = " ".join(words.split())
    return found


def default(value: object) -> str:
    """A default as YAML would have it."""
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, tuple):
        return f"`[{', '.join(str(item) for item in value)}]`"
    return "none" if value is None else f"`{value}`"


def section(title: str, model: type[BaseModel]) -> str:
    """One table."""
    summary = inspect.cleandoc(model.__doc__ or "").partition("Attributes:")[0]
    told = meanings(model)
    rows = [
        f"| `{name}` | {default(field.default)} | {told[name].replace('|', ' or ')} |"
        for name, field in model.model_fields.items()
        if name != "kind"
    ]
    table = ["| key | default | meaning |", "|---|---|---|", *rows, ""] if rows else []
    return "\n".join([f"## {title}", "", summary.strip(), "", *table])


def page() -> str:
    """The whole page."""
    names = {
        kind: ", ".join(f"`{n}`" for n in recipe_names(kind)) for kind in ("prune", "quantize")
    }
    return "\n".join([HEAD.format(**names), *(section(*item) for item in SECTIONS)]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
