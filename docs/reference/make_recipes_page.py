"""Writes docs/reference/recipes.md from the recipes' own classes; a test runs it and compares.

python docs/reference/make_recipes_page.py
"""

import inspect
import re
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from data_prep.augment.augmenter import AugmentSettings
from data_prep.augment.composite import CompositeSettings
from pneumonia.compression.admm.recipe import AdmmPhase, AdmmRounds
from pneumonia.compression.prune.depth_method import DepthMethod
from pneumonia.compression.prune.layerwise import (
    BlockMethod,
    CrossbarMethod,
    IrregularMethod,
    PatternMethod,
)
from pneumonia.compression.prune.recipe import (
    FineTuneRecipe,
    LayerChoice,
    PruneRecipe,
    PurifyPhase,
    RateConfig,
    RetrainPhase,
)
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.compression.quantize.recipe import QuantizeRecipe
from pneumonia.recipes import recipe_names
from pneumonia.training.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimiserConfig,
    ScheduleConfig,
    TrainRecipe,
    ValidationConfig,
)

PAGE = Path(__file__).with_name("recipes.md")
HEAD = """# Recipes: every key of training, pruning, fine-tuning and quantization

Written by `docs/reference/make_recipes_page.py` from the classes that check recipes; edit those.

`pneumonia train --data DATASET --recipe NAME`, `pneumonia prune RUN --recipe NAME`,
`pneumonia finetune RUN --data DATASET` and `pneumonia quantize RUN --recipe NAME` take a recipe
that ships or a YAML file. `--set key=value` changes one key (`--set admm.epochs=20`), its value
being YAML; quote what a shell or YAML would read otherwise: `--set 'layers.include=["*"]'`. The
recipes that ship lie in `pneumonia/recipes/`, with comments; copy one to begin with. A key that is
not listed here is refused, and the nearest one is named.

| recipes that ship | |
|---|---|
| to train | {train} |
| to prune | {prune} |
| to train on (`pneumonia finetune`) | {finetune} |
| to quantize (`pneumonia quantize` or `prune`) | {quantize} |

## Weights to start from

`model.start_from` of a training takes

* a run folder (its best checkpoint), a checkpoint (`RUN/last`) or an exported bundle of the same
  network; a bundle's folded batch norms are put back, their statistics measured on 64 batches of
  the training images;
* a Darknet weights file such as `yolov3.weights` or `darknet53.conv.74`: the layers that fit are
  taken in their order, the head of another number of classes is left random. The published files
  are of networks with `width: 1`; with `channels: 1` the stem's three colours are summed.

Without it the weights are random, drawn from `seed`. Anchors are those of the recipe.

## Threads

`threads` (or `--threads`) is the number of threads that compute a step on the CPU. Without it
there is one per physical core that the process may use (affinity and a container's quota count), or
what OMP_NUM_THREADS says. All threads wait for the slowest at every operation: beside other work
that takes a core now and then, two threads have trained 16 images a second where one trained 36. On
a machine that is shared, name fewer threads than cores.
"""
SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("A training run", TrainRecipe),
    ("`model` of a training", ModelConfig),
    ("`data` of a training", DataConfig),
    ("`data.composite` of a training", CompositeSettings),
    ("`augment` of a training", AugmentSettings),
    ("`loss` of a training", LossConfig),
    ("`validation` of a training", ValidationConfig),
    ("`optimiser` of a training or a phase", OptimiserConfig),
    ("`schedule` of a training or a phase", ScheduleConfig),
    ("A pruning run", PruneRecipe),
    ("`layers`", LayerChoice),
    ("`rates`", RateConfig),
    ("`admm` of a pruning", AdmmPhase),
    ("`retrain`", RetrainPhase),
    ("`purify`", PurifyPhase),
    ("`constraint` with `kind: structured` (filter, column, combined)", StructuredMethod),
    ("`constraint` with `kind: depth` (whole residual blocks)", DepthMethod),
    ("`constraint` with `kind: pattern`", PatternMethod),
    ("`constraint` with `kind: block`", BlockMethod),
    ("`constraint` with `kind: crossbar`", CrossbarMethod),
    ("`constraint` with `kind: irregular`", IrregularMethod),
    ("A fine-tuning run", FineTuneRecipe),
    ("A quantization run (`kind: quantize`)", QuantizeRecipe),
    ("`admm` of a quantization", AdmmRounds),
)


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> text of the class's `Attributes:`, and of those it inherits from."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        text = inspect.cleandoc(parent.__doc__ or "").partition("Attributes:\n")[2]
        for name, text_lines in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE):
            found[name] = " ".join(text_lines.split())
    return found


def default(value: object) -> str:
    """A default as YAML has it."""
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "none"
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"


def linked(text: str) -> str:
    """A meaning in which names of classes lead to their tables."""
    for title, model in SECTIONS:
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        name = rf"See `?(?:\w+\.)*{model.__name__}\b`?"
        text = re.sub(name, f"See [{title.replace('`', '')}](#{anchor})", text)
    return text.replace("|", "\\|")


def section(title: str, model: type[BaseModel]) -> str:
    """One table."""
    summary = inspect.cleandoc(model.__doc__ or "").partition("Attributes:")[0]
    texts = meanings(model)
    rows = [
        f"| `{name}` | {default(field.default)} | {linked(texts[name])} |"
        for name, field in model.model_fields.items()
        if name != "kind"
    ]
    table = ["| key | default | meaning |", "|---|---|---|", *rows, ""] if rows else []
    return "\n".join([f"## {title}", "", summary.strip(), "", *table])


def page() -> str:
    """The whole page."""
    names = {
        kind: ", ".join(f"`{n}`" for n in recipe_names(kind))
        for kind in ("train", "prune", "finetune", "quantize")
    }
    return "\n".join([HEAD.format(**names), *(section(*item) for item in SECTIONS)]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
