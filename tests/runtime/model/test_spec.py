import json

import pytest
from hypothesis import given

from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.model import layers
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec, tensor_shapes
from pneumonia.runtime.model.spec_json import parse_spec, spec_text
from tests.network.parameters import parameter_count
from tests.network.random_networks import networks

EVERY_OP = NetworkSpec(
    name="every-op",
    input=InputSpec(1, 32, 48, mean=0.5, std=0.25, pad_value=3),
    layers=(
        layers.Conv(
            "c0", ("input",), 1, 4, 3, 2, 1, bias=False, batch_norm=True, activation="leaky_relu"
        ),
        layers.Conv(
            "c1", ("c0",), 4, 4, 1, activation="relu", storage=layers.StorageSpec("columns", 2, 8)
        ),
        layers.Shortcut("s2", ("c0", "c1"), activation="relu"),
        layers.MaxPool("p3", ("s2",), 2, 1, 0, 1),
        layers.MaxPool("p4", ("p3",), 2, 2),
        layers.Upsample("u5", ("p4",), 2),
        layers.Route("r6", ("u5", "p3")),
        layers.Conv("c7", ("r6",), 8, 12, 1),
        layers.Detect("d8", ("c7",), ((4.0, 5.5), (9.0, 8.0)), 1, 2, "darknet"),
        layers.GlobalAvgPool("g9", ("r6",)),
        layers.Flatten("f10", ("g9",)),
        layers.Linear("l11", ("f10",), 8, 3),
    ),
    outputs=("d8", "l11"),
    class_names=("Lung Opacity",),
)


def test_json_round_trip_keeps_everything():
    assert parse_spec(spec_text(EVERY_OP)) == EVERY_OP


def test_shapes_by_hand():
    shapes = EVERY_OP.shapes()
    assert shapes["c0"] == (4, 16, 24)
    assert shapes["p3"] == (4, 16, 24)  # size 2, stride 1, one row and column of padding at the end
    assert shapes["p4"] == (4, 8, 12)
    assert shapes["r6"] == (8, 16, 24)
    assert shapes["l11"] == (3, 1, 1)


def test_parameters_by_hand():
    # c0 36 + bn 8, c1 16 + 4, c7 96 + 12, l11 24 + 3; running statistics do not count
    assert parameter_count(EVERY_OP) == 44 + 20 + 108 + 27
    assert tensor_shapes(EVERY_OP)["c0.bn_var"] == (4,)
    assert "c0.bias" not in tensor_shapes(EVERY_OP)


def change(**fields):
    document = json.loads(spec_text(EVERY_OP))
    document.update(fields)
    return document


def layer_change(index, **fields):
    document = json.loads(spec_text(EVERY_OP))
    document["layers"][index].update(fields)
    return document


BROKEN = {
    "another schema": (change(schema="pneumonia.network/2"), "schema"),
    "unknown op": (layer_change(0, op="gelu"), "gelu"),
    "op is a list": (layer_change(0, op=[]), "op"),
    "unknown field": (layer_change(0, groups=2), "groups"),
    "kernel 0": (layer_change(0, kernel=0), "kernel"),
    "kernel true": (layer_change(0, kernel=True), "kernel"),
    "negative padding": (layer_change(0, padding=-1), "padding"),
    "unknown activation": (layer_change(0, activation="swish"), "swish"),
    "unknown coding": (layer_change(8, box_coding="v9"), "v9"),
    "anchor infinite": (layer_change(8, anchors=[[1, float("inf")], [1, 1]]), "anchors"),
    "anchor nan": (layer_change(8, anchors=[[1, float("nan")], [1, 1]]), "anchors"),
    "std zero": (change(input={"channels": 1, "height": 32, "width": 48, "std": 0}), "std"),
    "mean nan": (
        change(input={"channels": 1, "height": 32, "width": 48, "mean": float("nan")}),
        "mean",
    ),
    "forward reference": (layer_change(1, inputs=["s2"]), "c1"),
    "unknown source": (layer_change(1, inputs=["zz"]), "zz"),
    "no source": (layer_change(1, inputs=[]), "c1"),
    "channels differ": (layer_change(1, in_channels=5), "c1"),
    "name twice": (layer_change(1, name="c0"), "c0"),
    "unknown output": (change(outputs=["zz"]), "zz"),
    "storage typo": (layer_change(1, storage={"fmt": "columns"}), "fmt"),
    "heads do not fit": (layer_change(8, n_classes=2), "d8"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_descriptions_are_refused_by_name(name):
    document, word = BROKEN[name]
    with pytest.raises(SpecError, match=word):
        parse_spec(json.dumps(document))


def appended(**layer):
    document = json.loads(spec_text(EVERY_OP))
    document["layers"].append({"name": "new", "inputs": ["r6"], **layer})
    return document


# r6 is (8, 16, 24)
UNFIT = {
    "groups": (appended(op="conv", in_channels=8, out_channels=6, kernel=1, groups=4), "groups"),
    "pair of three": (
        appended(op="conv", in_channels=8, out_channels=8, kernel=[1, 1, 1]),
        "kernel",
    ),
    "pair with zero": (appended(op="conv", in_channels=8, out_channels=8, kernel=[3, 0]), "kernel"),
    "empty output": (
        appended(op="conv", in_channels=8, out_channels=8, kernel=1, padding=20, transposed=True),
        "empty",
    ),
    "norm channels": (appended(op="norm", channels=6), "new"),
    "norm groups": (appended(op="norm", channels=8, kind="group", groups=3), "groups"),
    "norm kind": (appended(op="norm", channels=8, kind="spectral"), "spectral"),
    "constant with input": (appended(op="constant", channels=1, height=1, width=1), "inputs"),
    "function": (appended(op="activation", function="sine"), "sine"),
    "broadcast": (appended(op="multiply", inputs=["r6", "c0"]), "shape"),
    "axis": (appended(op="route", axis="time"), "time"),
    "no channel": (appended(op="select", channels=[0, 8]), "channel"),
    "no channels": (appended(op="select", channels=[]), "channel"),
    "channel -1": (appended(op="select", channels=[-1]), "channels"),
    "crop outside": (appended(op="crop", rows=[0, 17, 1], columns=[0, 24, 1]), "Crop"),
    "crop step 0": (appended(op="crop", rows=[0, 16, 0], columns=[0, 24, 1]), "Crop"),
    "pad of three": (appended(op="pad", rows=[1, 1, 1], columns=[0, 0]), "Padding"),
    "pad too wide": (appended(op="pad", rows=[16, 0], columns=[0, 0], mode="reflect"), "wide"),
    "pad mode": (appended(op="pad", rows=[1, 0], columns=[0, 0], mode="wrap"), "wrap"),
    "upsample mode": (appended(op="upsample", mode="cubic"), "cubic"),
    "positions": (appended(op="reshape", height=5, width=5), "Positions"),
    "shuffle": (appended(op="pixel_shuffle", scale=3), "multiple of 9"),
    "two of three": (appended(op="attention", inputs=["r6", "r6"], heads=2, scale=1.0), "inputs"),
    "not tokens": (
        appended(op="attention", inputs=["r6", "r6", "r6"], heads=2, scale=1.0),
        "Attention",
    ),
    "repeats nothing": (appended(op="reuse", layer="zz"), "repeat"),
    "repeats itself": (appended(op="reuse", layer="new"), "repeat"),
}


@pytest.mark.parametrize("name", sorted(UNFIT))
def test_layers_that_do_not_fit_are_refused_by_name(name):
    document, word = UNFIT[name]
    with pytest.raises(SpecError, match=word):
        parse_spec(json.dumps(document))


@given(networks(zoo_only=False))
def test_json_round_trip_of_every_op(spec):
    assert parse_spec(spec_text(spec)) == spec


@pytest.mark.parametrize("text", ["", "[1]", "nul", "{}", "[" * 50_000])
def test_no_description_at_all(text):
    with pytest.raises(SpecError):
        parse_spec(text)
