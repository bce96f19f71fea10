"""Quantization of a whole run by the command, and int8 of its bundle.

Spans: pneumonia.compression.quantize.pipeline, pneumonia.compression.quantize.recipe,
pneumonia.compression.run.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from data_prep.dataset.reader import open_dataset
from pneumonia.cli.training.prune import command as prune_command
from pneumonia.cli.training.quantize import command
from pneumonia.compression.admm.hook import read_rows
from pneumonia.compression.quantize.pipeline import quantized_names
from pneumonia.compression.quantize.recipe import QuantizeRecipe, levels_of
from pneumonia.compression.run import run_compression
from pneumonia.exporting.bundle import export
from pneumonia.exporting.int8 import quantize_onnx
from pneumonia.network.files import load_model, save_model
from pneumonia.recipes import load_recipe, recipe_names, validate
from pneumonia.runs.stored_recipe import refuse_other_recipe
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.errors import ArtefactError, ConfigError, ExportError, OutputError
from pneumonia.runtime.image.preprocess import network_input
from pneumonia.runtime.storage.bundle import load_bundle
from tests.support.tiny import QUICK_QUANTIZE


@pytest.fixture(scope="module")
def trained(tiny_run):
    return tiny_run


def quantize(run, out, **changes):
    return run_compression(run, QuantizeRecipe.model_validate({**QUICK_QUANTIZE, **changes}), out)


def levels_per_layer(folder) -> dict[str, int]:
    spec, tensors = load_model(folder)
    return {n.name: len(tensors[f"{n.name}.weight"].unique()) for n in spec.weighted()}


@pytest.mark.slow
def test_command_makes_a_binary_run_that_exports_bit_by_bit(trained, tmp_path):
    run, _ = trained
    recipe = tmp_path / "quick.yaml"
    recipe.write_text(yaml.safe_dump({**QUICK_QUANTIZE, "ladder": ["4-bit", "binary"]}))
    out = tmp_path / "out"
    done = CliRunner().invoke(command, [str(run), "--recipe", str(recipe), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "next: pneumonia export" in done.output
    assert set(levels_per_layer(out / "best").values()) == {2}
    report = json.loads((out / "compression.json").read_text())
    assert report["stages"] == ["4-bit", "binary"]
    assert {layer["bits"] for layer in report["layers"]} == {1}
    assert all(layer["kept_weights"] == layer["weights"] for layer in report["layers"])
    assert report["weights_bytes_after"] * 6 < report["weights_bytes_before"]
    assert json.loads((out / "run.json").read_text())["status"] == "done"
    assert (out / "best" / "operating_points.json").is_file()
    bundle = load_bundle(str(export(out, tmp_path / "bundle").out))
    storage = {layer.storage.format for layer in bundle.spec.weighted()}
    assert any("levels" in name for name in storage), "folding batch norm keeps a few levels"
    image = np.random.default_rng(0).random((1, 1, 64, 64)).astype(np.float32)
    by_onnx = open_engine(bundle, "onnxruntime").run(image)
    for name, value in open_engine(bundle, "reference").run(image).items():
        assert np.allclose(by_onnx[name], value, atol=1e-4)


def test_pruned_zeros_stay_and_do_not_become_levels(trained, tmp_path):
    run, data = trained
    spec, tensors = load_model(run / "best")
    pruned = tmp_path / "pruned"
    name = max(spec.weighted(), key=lambda layer: layer.in_channels * layer.out_channels).name
    weight = tensors[f"{name}.weight"]
    weight[weight.abs() < weight.abs().median()] = 0
    save_model(pruned / "best", spec, tensors)
    record = json.loads((run / "run.json").read_text())
    record |= {"kind": "prune", "parent": str(run)}
    (pruned / "run.json").write_text(json.dumps(record))
    result = quantize(pruned, tmp_path / "out", ladder=["binary"])
    _, after = load_model(tmp_path / "out" / "best")
    assert torch.equal(after[f"{name}.weight"] == 0, weight == 0)
    assert len(after[f"{name}.weight"].unique()) == 3
    assert result.bytes_after < result.bytes_before / 6
    assert data.is_dir()


@pytest.mark.slow
def test_zeros_of_a_ternary_run_are_levels_not_pruned_places(trained, tmp_path):
    run, _ = trained
    quantize(run, tmp_path / "three", ladder=["ternary"])
    zeros = {
        name: float((tensor == 0).float().mean())
        for name, tensor in load_model(tmp_path / "three" / "best")[1].items()
        if name.endswith(".weight")
    }
    assert max(zeros.values()) > 0.2
    quantize(tmp_path / "three", tmp_path / "two", ladder=["binary"])
    spec, tensors = load_model(tmp_path / "two" / "best")
    for layer in spec.weighted():
        weight = tensors[f"{layer.name}.weight"]
        assert len(weight.unique()) == 2, layer.name
        assert bool((weight != 0).all())
        assert layer.storage.bits == 1
    (tmp_path / "two" / "compression.json").write_text("{}")
    with pytest.raises(ArtefactError, match="Report of the quantized run cannot be read"):
        quantize(tmp_path / "two", tmp_path / "one", ladder=["binary"])


@pytest.mark.slow
def test_the_penalty_brings_the_weights_to_their_levels_through_adam(trained, tmp_path):
    """The proximal step is not drowned: distance falls; the gradient through Adam stays far."""
    run, _ = trained
    distances = {}
    for penalty in ("proximal", "gradient"):
        out = tmp_path / penalty
        quantize(
            run, out, ladder=["ternary"], fixed=[1.0],
            admm={"penalty": penalty, "epochs": 3, "rho": [50.0, 500.0, 5000.0]},
        )  # fmt: skip
        rows = read_rows(out / "stages" / "1-ternary" / "admm")
        worst = {u: max(float(str(r[5])) for r in rows if r[0] == u) for u in ("1", "3")}
        distances[penalty] = worst
    assert distances["proximal"]["3"] < 0.3 * distances["proximal"]["1"]
    assert distances["proximal"]["3"] < distances["gradient"]["3"]


@pytest.mark.slow
def test_straight_through_resumes_exactly_and_ends_on_levels(trained, tmp_path):
    run, _ = trained
    recipe = QuantizeRecipe.model_validate(
        {**QUICK_QUANTIZE, "ladder": ["ternary"], "straight_through_epochs": 2, "fixed": [1.0]}
    )
    run_compression(run, recipe, tmp_path / "whole")
    distinct = levels_per_layer(tmp_path / "whole/stages/1-ternary/straight_through/last")
    assert set(distinct.values()) <= {2, 3}, "the network computes with weights on their levels"

    def stop_in_second_epoch(done, total, note):
        if "straight_through" in note and done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_compression(run, recipe, tmp_path / "parts", progress=stop_in_second_epoch)
    run_compression(run, recipe, tmp_path / "parts", resume=True)
    whole, parts = (load_model(tmp_path / n / "best")[1] for n in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    changed = load_model(tmp_path / "whole/stages/1-ternary/admm/last")[1]
    signs = [(changed[n].sign() != whole[n].sign()).float().mean() for n in whole if "conv" in n]
    assert max(signs) > 0.01, "latent weights crossed to other levels"


def test_excluded_layers_stay_float(trained, tmp_path):
    run, _ = trained
    quantize(run, tmp_path / "out", ladder=["ternary"], exclude=["conv_000"])
    levels = levels_per_layer(tmp_path / "out" / "best")
    assert levels.pop("conv_000") > 3
    assert set(levels.values()) <= {2, 3}


def test_a_resumed_quantization_is_the_uninterrupted_one(trained, tmp_path):
    run, _ = trained
    recipe = QuantizeRecipe.model_validate({**QUICK_QUANTIZE, "ladder": ["4-bit"]})
    run_compression(run, recipe, tmp_path / "whole")

    def stop_while_snapping(done, total, note):
        if "snap" in note and done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_compression(run, recipe, tmp_path / "parts", progress=stop_while_snapping)
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["status"] == "interrupted"
    other = recipe.model_copy(update={"ladder": ("8-bit",)})
    with pytest.raises(ArtefactError, match="Recipe differs"):
        run_compression(run, other, tmp_path / "parts", resume=True)
    run_compression(run, recipe, tmp_path / "parts", resume=True)
    whole, parts = (load_model(tmp_path / n / "best")[1] for n in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(OutputError, match="already"):
        run_compression(run, recipe, tmp_path / "whole")


def test_int8_onnx_is_smaller_and_near(trained, tmp_path):
    run, data = trained
    bundle = load_bundle(str(export(run, tmp_path / "bundle").out))
    out = tmp_path / "int8.onnx"
    done = CliRunner().invoke(
        command, [str(tmp_path / "bundle"), "--int8", "--data", str(data), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "16 calibration images" in done.output
    import onnx

    model = onnx.load(str(out))
    assert {node.op_type for node in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert next(i.version for i in model.opset_import if i.domain == "") <= 13
    dataset = open_dataset(data)
    images = [network_input(dataset.pixels(i), bundle.spec.input)[0] for i in range(4)]
    made = quantize_onnx(Path(bundle.onnx_path), images)
    assert made.n_images == 4
    assert 0 < made.relative_error < 0.1
    with pytest.raises(ExportError, match="calibration"):
        quantize_onnx(Path(bundle.onnx_path), [])


@pytest.mark.parametrize("arguments", [[], ["--int8", "--recipe", "quant-8"]])
def test_one_way_to_quantize(trained, tmp_path, arguments):
    with pytest.raises(ConfigError, match="One way"):
        CliRunner().invoke(
            command, [str(trained[0]), "--out", str(tmp_path / "x"), *arguments],
            catch_exceptions=False,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["quant-8", "quant-4", "ternary", "binary"])
def test_shipped_recipes_load(name):
    assert name in recipe_names("quantize")
    recipe = load_recipe(name, "quantize", QuantizeRecipe)
    assert recipe.fixed[-1] == 1
    last = {"quant-8": "8-bit", "quant-4": "4-bit"}.get(name, name)
    assert recipe.ladder[-1] == last


def test_level_names():
    assert len(levels_of("4-bit", pruned=False).values) == 15
    assert len(levels_of("4-bit", pruned=True).values) == 14, "zero is no level of a kept weight"
    assert levels_of("3-bit-shift", pruned=False).values == (-4, -2, -1, 0, 1, 2, 4)
    assert len(levels_of("5-bit-crossbar", pruned=False).values) == 32
    assert levels_of("1-bit-sot-mram", pruned=False).values == (-1, 1)
    for wrong in ("5bit", "99-bit", "12-bit-crossbar", "septernary"):
        with pytest.raises(ConfigError):
            levels_of(wrong, pruned=False)


@pytest.mark.parametrize(
    "change",
    [{"ladder": ["tiny"]}, {"fixed": [0.5, 0.9]}, {"admm": {"rho": [0.1, 0.1]}}, {"ladder": []}],
)
def test_bad_recipes_are_refused(change, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(change))
    with pytest.raises(ConfigError, match=next(iter(change))):
        load_recipe(str(path), "quantize", QuantizeRecipe)


def test_a_devices_own_states_are_what_the_weights_end_on(trained, tmp_path):
    """Means of uneven states: every layer has these magnitudes times one scale, and no zero."""
    states = (1.0, 1.5, 3.25, 8.0)
    quantize(trained[0], tmp_path / "out", ladder=["device"], device_levels=states)
    spec, tensors = load_model(tmp_path / "out" / "best")
    report = json.loads((tmp_path / "out" / "compression.json").read_text())
    scales = {row["name"]: row["scale"] for row in report["layers"]}
    for layer in spec.weighted():
        weight = tensors[f"{layer.name}.weight"].double()
        allowed = torch.tensor(states, dtype=torch.float64) * scales[layer.name]
        assert torch.isin(weight.abs().float(), allowed.float()).all(), layer.name
        assert layer.storage.bits == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ladder": ["device"]}, "ascending positive"),
        ({"ladder": ["device"], "device_levels": [2, 1]}, "ascending positive"),
        ({"ladder": ["4-bit"], "device_levels": [1, 2]}, "which ladder lacks"),
    ],
)
def test_a_device_needs_its_table_and_a_table_its_device(change, told, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(change))
    with pytest.raises(ConfigError, match=told):
        load_recipe(str(path), "quantize", QuantizeRecipe)


def test_no_layer_matches(trained):
    spec, _ = load_model(trained[0] / "best")
    with pytest.raises(ConfigError, match="conv_000"):
        quantized_names(spec, QuantizeRecipe(layers=("fc*",)))
    with pytest.raises(ConfigError, match=r"no layer.*conv_000.*found 'haed\*' \(in exclude\)"):
        quantized_names(spec, QuantizeRecipe(exclude=("conv_000", "haed*")))
    with pytest.raises(ConfigError, match="No layer is left"):
        quantized_names(spec, QuantizeRecipe(exclude=("*",)))


def test_the_prune_verb_takes_the_quantizing_recipes(trained, tmp_path):
    run, _ = trained
    quick = [f"--set={key}={value}" for key, value in QUICK_QUANTIZE.items()]
    arguments = [str(run), "--recipe", "ternary", "--out", str(tmp_path / "out"), *quick]
    done = CliRunner().invoke(prune_command, [*arguments, "--set=ladder=[ternary]"])
    assert done.exit_code == 0, done.output
    assert max(levels_per_layer(tmp_path / "out" / "best").values()) <= 3
    with pytest.raises(ConfigError, match="pruning rate"):
        CliRunner().invoke(
            prune_command, [*arguments, "--rate", "4"], catch_exceptions=False
        )  # fmt: skip


FORMER = {"admm_epochs": 3, "rho": [1.0, 2.0], "penalty": "gradient", "epochs_images": 96}
PRESENT = {
    "admm": {"epochs": 3, "rho": [1.0, 2.0], "penalty": "gradient"}, "images_per_epoch": 96,
}  # fmt: skip


def test_former_keys_of_a_file_and_of_options_are_read_with_one_warning(tmp_path, caplog):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(FORMER))
    now = QuantizeRecipe.model_validate(PRESENT)
    assert not caplog.messages
    assert load_recipe(str(path), "quantize", QuantizeRecipe) == now
    assert caplog.messages == [
        "Recipe keys have new names: admm_epochs is now admm.epochs, rho is now admm.rho, "
        "penalty is now admm.penalty, epochs_images is now images_per_epoch"
    ]
    caplog.clear()
    options = [f"{key}={value}" for key, value in FORMER.items()]
    changed = load_recipe("quant-4", "quantize", QuantizeRecipe, options)
    assert (changed.admm, changed.images_per_epoch) == (now.admm, 96)
    assert len(caplog.messages) == 1


def test_the_last_option_counts_under_whichever_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(FORMER))
    for last in ("admm.epochs=5", "admm_epochs=5"):
        changes = ["admm.epochs=4", "admm_epochs=4", last]
        assert load_recipe(str(path), "quantize", QuantizeRecipe, changes).admm.epochs == 5
    with pytest.raises(
        ConfigError, match=r"'admm\.rho' does not take .* \(in change admm\.rho=3\)"
    ):
        load_recipe("quant-4", "quantize", QuantizeRecipe, ["rho=3"])


def test_a_stored_recipe_with_former_keys_is_the_same_recipe():
    now = QuantizeRecipe.model_validate(PRESENT)
    refuse_other_recipe({"ladder": ["8-bit"], **FORMER}, now, Path("config.yaml"))
    with pytest.raises(ArtefactError, match=r"admm\.epochs = 2"):
        refuse_other_recipe({**FORMER, "admm_epochs": 2}, now, Path("config.yaml"))
    with pytest.raises(ConfigError, match=r"expected 'admm\.rho' alone; found 'rho'"):
        validate({"admm": {"epochs": 3}, "rho": [1.0]}, QuantizeRecipe, "recipe")


def test_the_former_name_of_a_key_is_read_and_the_present_one_written():
    now = QuantizeRecipe.model_validate({"images_per_epoch": 96})
    before = QuantizeRecipe.model_validate({"epochs_images": 96})
    assert before == now
    assert now.model_dump()["images_per_epoch"] == 96
    assert "epochs_images" not in now.model_dump()
    stored = {**now.model_dump(mode="json"), "epochs_images": 96}
    del stored["images_per_epoch"]
    refuse_other_recipe(stored, now, Path("config.yaml"))
    with pytest.raises(ArtefactError, match="images_per_epoch = 96"):
        refuse_other_recipe(stored, now.model_copy(update={"images_per_epoch": 8}), Path("x"))
    with pytest.raises(ConfigError, match=r"'images_per_epoch' does not take this; .* above 0"):
        validate({"epochs_images": -1}, QuantizeRecipe, "recipe")
    with pytest.raises(ConfigError, match="epochs_images"):
        validate({"images_per_epoch": 96, "epochs_images": 8}, QuantizeRecipe, "recipe")
