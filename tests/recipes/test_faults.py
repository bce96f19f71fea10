"""Faults of recipes: the option that caused them, plain words, the nearest key."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from pneumonia.cli.training.prune import command as prune_command
from pneumonia.cli.training.quantize import command as quantize_command
from pneumonia.cli.training.train import command as train_command
from pneumonia.compression.prune.recipe import PruneRecipe
from pneumonia.compression.quantize.recipe import QuantizeRecipe
from pneumonia.recipes import load_recipe, recipe_names
from pneumonia.recipes.faults import keys_of
from pneumonia.runtime.errors import ConfigError
from pneumonia.training.config import TrainRecipe

CLASSES = {
    "train": ("rsna", TrainRecipe), "prune": ("combined", PruneRecipe),
    "quantize": ("quant-4", QuantizeRecipe),
}  # fmt: skip
PYDANTIC = ("Input should", "Extra inputs", "Field required", "Value error", "constrained-")


def fault(kind: str, *options: str) -> str:
    name, model = CLASSES[kind]
    with pytest.raises(ConfigError) as error:
        load_recipe(name, kind, model, options)
    text = str(error.value)
    assert "\n" not in text
    assert not any(words in text for words in PYDANTIC), text
    return text


@pytest.mark.parametrize(
    ("kind", "option", "near"),
    [
        ("prune", "rat=4", "rate"),
        ("prune", "admm.epoch=3", "admm.epochs"),
        ("prune", "constraint.group_sze=8", "constraint.group_size"),
        ("prune", "admm.optimiser.lerning_rate=1", "admm.optimiser.learning_rate"),
        ("train", "learning_rate=0.1", "optimiser.learning_rate"),
        ("train", "model.start_form=x", "model.start_from"),
        ("train", "augment.flip=0", "augment.horizontal_flip"),
        ("quantize", "snap_epoch=3", "snap_epochs"),
    ],
)
def test_the_nearest_key_is_proposed(kind, option, near):
    text = fault(kind, option)
    key = option.partition("=")[0]
    assert f"no key {key!r}; expected {near!r}, perhaps" in text
    assert f"(in change {option})" in text


def test_where_none_is_near_the_keys_are_listed():
    assert "one of admm.optimiser.clip_norm, admm.optimiser.learning_rate" in fault(
        "prune", "admm.optimiser.lr=1"
    )


@pytest.mark.parametrize(
    ("kind", "option", "words"),
    [
        ("prune", "rate=0.5", "expected a number above 1.0; found 0.5"),
        ("prune", "ladder=abc", "expected a whole number or a list in brackets; found 'abc'"),
        ("prune", "ladder=[3,2]", "expected ascending rates above 1; found [3, 2]"),
        ("prune", "ladder=[9,30]", "expected ladder to start below rate (9)"),
        ("prune", "constraint.kind=magic", "expected 'structured', 'depth', 'pattern'"),
        ("prune", "constraint=filter", "expected a mapping"),
        ("prune", "rates.limits={a: b}", "'rates.limits.a' does not take this; expected a number"),
        ("train", "model.size=100", "expected a multiple of 32; found 100"),
        ("train", "device=gpu", "expected 'auto', 'cpu' or 'cuda'; found 'gpu'"),
        ("train", "epochs=many", "expected a whole number; found 'many'"),
        ("train", "epochs=null", "expected a whole number; found None"),
        ("train", "threads=0", "expected a number of at least 1; found 0"),
        ("quantize", "fixed=[0.5]", "the last share must be 1"),
        ("quantize", "ladder=[tiny]", "expected binary, ternary"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_option(kind, option, words):
    text = fault(kind, "seed=0" if kind != "prune" else "distil=0", option)
    assert words in text
    assert f"change {option})" in text


@pytest.mark.parametrize(
    ("kind", "name", "model"),
    [("train", "rsna", TrainRecipe), ("prune", "combined", PruneRecipe),
     ("quantize", "ternary", QuantizeRecipe)],
)  # fmt: skip
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_no_key_takes_a_number_that_is_not_finite(kind, name, model, value):
    for key in keys_of(model):
        with pytest.raises(ConfigError):
            load_recipe(name, kind, model, [f"{key}={value}"])


def test_a_fault_of_the_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: -1\n")
    with pytest.raises(ConfigError, match=r"above 0; found -1 \(in .*mine\.yaml\)"):
        load_recipe(str(path), "train", TrainRecipe, ["seed=1"])


@pytest.mark.parametrize(
    ("option", "quoted"),
    [
        ("layers.include=[*]", """'layers.include=["*"]'"""),
        ("layers.include=[conv_1, *_2]", """'layers.include=[conv_1, "*_2"]'"""),
        ("layers.exclude=*", """'layers.exclude="*"'"""),
        ("rates.limits={*: 2}", """'rates.limits={"*": 2}'"""),
        ("rates.limits={conv_*: 3, *_2: 2}", """'rates.limits={conv_*: 3, "*_2": 2}'"""),
    ],
)
def test_what_yaml_cannot_read_is_to_be_quoted(option, quoted):
    text = fault("prune", option)
    assert f"Quote it: {quoted}" in text
    proposed = quoted.strip("'")
    if option.endswith("=*"):
        assert "in brackets" in fault("prune", proposed)
    else:
        load_recipe("combined", "prune", PruneRecipe, [proposed])


def test_every_key_is_known_by_its_dotted_name():
    keys = set(keys_of(PruneRecipe))
    assert {
        "rate",
        "admm.optimiser.learning_rate",
        "constraint.group_size",
        "purify.budget",
    } <= keys
    assert "model.start_from" in set(keys_of(TrainRecipe))


@pytest.mark.parametrize(
    ("command", "kinds"),
    [(train_command, ["train"]), (prune_command, ["prune", "quantize"]),
     (quantize_command, ["quantize"])],
)  # fmt: skip
def test_help_lists_the_recipes_by_name(command, kinds):
    shown = CliRunner().invoke(command, ["--help"]).output
    assert "docs/reference/recipes.md" in shown
    assert "--threads" in shown
    for kind in kinds:
        for name in recipe_names(kind):
            assert name in shown


def test_help_of_a_verb_imports_nothing_heavy():
    code = (
        "import sys\nfrom pneumonia.cli import group, run\nrun(group, ['prune', '--help'])\n"
        "print(sorted({'torch', 'onnx', 'numpy', 'albumentations'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_threads_of_the_command_line_are_a_key_of_the_recipe(tmp_path):
    from pneumonia.api.runs import RunOptions

    assert RunOptions(("seed=1",), threads=3).overrides() == ["seed=1", "threads=3"]
    assert RunOptions({"seed": 1}).overrides() == ["seed=1"]
