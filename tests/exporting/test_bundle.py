import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pneumonia.cli import group, run
from pneumonia.exporting import bundle as export_bundle
from pneumonia.exporting.bundle import ExportOptions, export
from pneumonia.network.files import load_model, save_model
from pneumonia.network.image_head import add_image_head
from pneumonia.network.inspection import inspect_folder
from pneumonia.network.module import Network
from pneumonia.network.zoo import build
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.errors import ArtefactError, ExportError, OutputError
from pneumonia.runtime.model.layers import Conv, StorageSpec
from pneumonia.runtime.storage.bundle import load_bundle, model_hash
from tests.network.random_networks import random_tensors

DISCLAIMER = "Research use only. Not a medical device."


@pytest.fixture
def trained(tmp_path):
    """A run folder as training leaves it; `last` differs from `best`."""
    folder = tmp_path / "run"
    spec = add_image_head(build("yolov3-tiny", width=0.25, size=64))
    layer = spec.layer("conv_012")
    spec = spec.replace_layers({"conv_012": layer._replace(storage=StorageSpec("columns", 8))})
    save_model(folder / "best", spec, random_tensors(spec, 1))
    save_model(folder / "last", spec, random_tensors(spec, 2))
    write_json(
        folder / "best/metrics.json", {"epoch": 3, "metrics": {"rsna": 0.1875, "ap50": None}}
    )
    write_json(folder / "last/state.json", {"epoch": 4})
    (folder / "metrics.csv").write_text(
        "epoch,loss,val_rsna,lr\n3,2.5,0.1875,0.1\n4,2.25,0.125,0.05\n"
    )
    write_json(
        folder / "run.json",
        {
            "schema": "pneumonia.run/1",
            "kind": "train",
            "seed": 7,
            "dataset": {"path": "/secret/place", "fingerprint": "abc123"},
            "versions": {"torch": "2.13.0"},
        },
    )
    write_json(
        folder / "best" / "operating_points.json",
        {"points": {"kaggle": {"threshold": 0.3125, "rsna_score": 0.1875}}},
    )
    return folder


def write_json(path: Path, value):
    path.write_text(json.dumps(value))


def edit_weights(folder, change):
    spec, tensors = load_model(folder)
    change(tensors)
    save_model(folder, spec, tensors)


def test_bundle_holds_exactly_the_documented_files(trained, tmp_path):
    result = export(trained, tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == [
        "manifest.json",
        "model.onnx",
        "model_card.md",
        "operating_points.json",
        "spec.json",
        "weights.safetensors",
    ]
    assert result.sizes == {p.name: p.stat().st_size for p in (tmp_path / "bundle").iterdir()}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".part")] == []


def test_bundle_is_one_the_runtime_accepts_and_bound_to_its_hash(trained, tmp_path):
    result = export(trained, tmp_path / "bundle")
    bundle = load_bundle(str(tmp_path / "bundle"))
    identity = model_hash(
        str(tmp_path / "bundle/spec.json"), str(tmp_path / "bundle/weights.safetensors")
    )
    assert bundle.model_hash == result.model_hash == identity
    points = json.loads((tmp_path / "bundle/operating_points.json").read_text())
    assert points["model_hash"] == identity
    assert bundle.threshold("kaggle") == 0.3125
    assert bundle.manifest["disclaimer"] == DISCLAIMER
    assert bundle.model_name == "yolov3-tiny-" + identity[:8]
    convolutions = [layer for layer in bundle.spec.layers if isinstance(layer, Conv)]
    assert not any(layer.batch_norm for layer in convolutions)


def test_both_engines_give_what_the_trained_network_gives(trained, tmp_path):
    export(trained, tmp_path / "bundle")
    bundle = load_bundle(str(tmp_path / "bundle"))
    images = np.random.default_rng(0).random((2, 1, 64, 64), dtype=np.float32)
    spec, tensors = load_model(trained / "best")
    with torch.no_grad():
        expected = Network(spec, tensors).eval()(torch.from_numpy(images))
    for name in ("onnxruntime", "reference"):
        found = open_engine(bundle, name).run(images)
        for key, value in expected.items():
            scale = float(value.abs().max())
            assert float(np.abs(found[key] - value.numpy()).max()) <= 1e-4 * scale, (name, key)


def test_a_radiograph_goes_through_the_bundle(trained, tmp_path):
    export(trained, tmp_path / "bundle")
    bundle = load_bundle(str(tmp_path / "bundle"))
    pixels = np.random.default_rng(1).integers(0, 256, (90, 70), dtype=np.uint8)
    by_onnx = Detector(bundle, open_engine(bundle, "onnxruntime")).predict(pixels, "a")
    by_numpy = Detector(bundle, open_engine(bundle, "reference")).predict(pixels, "a")
    assert (by_onnx.width, by_onnx.height) == (70, 90)
    np.testing.assert_allclose(by_onnx.boxes, by_numpy.boxes, atol=0.05)
    np.testing.assert_allclose(by_onnx.scores, by_numpy.scores, atol=1e-4)


def test_half_precision_halves_the_file_and_every_engine_agrees(trained, tmp_path):
    whole = export(trained, tmp_path / "whole")
    half = export(trained, tmp_path / "half", ExportOptions(weights="fp16"))
    assert half.sizes["weights.safetensors"] < 0.6 * whole.sizes["weights.safetensors"]
    _, exact = load_model(tmp_path / "whole")
    _, rounded = load_model(tmp_path / "half")
    for name, tensor in exact.items():
        assert torch.equal(rounded[name], tensor.half().float()), name
    bundle = load_bundle(str(tmp_path / "half"))
    images = np.random.default_rng(0).random((1, 1, 64, 64), dtype=np.float32)
    onnx, numpy = (open_engine(bundle, name).run(images) for name in ("onnxruntime", "reference"))
    for key, value in numpy.items():
        assert float(np.abs(onnx[key] - value).max()) <= 1e-4 * float(np.abs(value).max())


def test_weights_too_large_for_half_precision_are_refused(trained, tmp_path):
    edit_weights(trained / "best", lambda tensors: tensors["conv_012.weight"].add_(1e6))
    with pytest.raises(ExportError, match=r"do not fit half precision.*weights fp32"):
        export(trained, tmp_path / "bundle", ExportOptions(weights="fp16"))
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_without_onnx_is_scored_by_another_engine(trained, tmp_path):
    result = export(trained, tmp_path / "bundle", ExportOptions(onnx=False))
    assert "model.onnx" not in result.sizes
    assert not (tmp_path / "bundle" / "model.onnx").exists()
    bundle = load_bundle(str(tmp_path / "bundle"))
    pixels = np.random.default_rng(1).integers(0, 256, (90, 70), dtype=np.uint8)
    found = Detector(bundle, open_engine(bundle, "reference")).predict(pixels, "a")
    assert (found.width, found.height) == (70, 90)


def test_the_same_run_gives_the_same_bytes(trained, tmp_path):
    export(trained, tmp_path / "a")
    export(trained, tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_columns_stay_packed_after_folding(trained, tmp_path):
    result = export(trained, tmp_path / "bundle")
    storage = result.spec.layer("conv_012").storage
    assert (storage.format, storage.group_size) == ("columns", 8)
    before, tensors = load_model(trained / "best")
    assert storage.n_kept == before.layer("conv_012").storage.n_kept
    assert 0 < storage.n_kept < tensors["conv_012.weight"].numel() / 2


def test_thresholds_of_the_best_weights_are_not_given_to_the_last(trained, tmp_path):
    result = export(trained, tmp_path / "bundle", ExportOptions(checkpoint="last"))
    points = load_bundle(str(tmp_path / "bundle")).operating_points
    assert points == {"default": {"threshold": 0.5, "source": "not calibrated"}}
    assert not result.facts.calibrated
    assert result.facts.epoch == 4
    assert result.facts.metrics == {"val_rsna": 0.125}
    assert "**not calibrated**" in (tmp_path / "bundle/model_card.md").read_text()


def test_model_card_states_facts_and_what_is_missing(trained, tmp_path):
    result = export(trained, tmp_path / "bundle")
    card = (tmp_path / "bundle/model_card.md").read_text()
    for fact in (
        DISCLAIMER,
        "| rsna | 0.1875 |",
        "| kaggle | 0.3125 | rsna_score: 0.1875 |",
        "| epoch | 3 |",
        "| seed | 7 |",
        "| dataset fingerprint | abc123 |",
        f"| parameters | {result.totals.parameters:,} |",
        f"`{result.model_hash}`",
        "Opset 13",
        "lung opacity",
        "detector with 2 scales, scores gated by an image-level output",
        "Confidence intervals: not available",
        "latency and energy | not available",
    ):
        assert fact in card, fact
    assert "ap50" not in card  # its value was not a number
    assert "/secret/place" not in card


def test_pruned_runs_say_how_they_were_pruned(trained, tmp_path):
    export(trained, tmp_path / "dense")
    assert "## Compression" not in (tmp_path / "dense/model_card.md").read_text()
    write_json(
        trained / "compression.json",
        {"schema": "x", "realised_rate": 8.25, "method": "columns", "layers": {"conv_000": {}}},
    )
    kept = export(trained, tmp_path / "pruned").totals.kept_weights
    record = json.loads((trained / "run.json").read_text())
    write_json(trained / "run.json", {**record, "trained_weights": 36 * kept})
    export(trained, tmp_path / "pruned")
    assert inspect_folder(tmp_path / "pruned").whole_rate == 36
    card = (tmp_path / "pruned/model_card.md").read_text()
    assert "| realised rate | 8.25 |" in card
    assert "| method | columns |" in card
    assert f"| weights before compression | {36 * kept:,} (36.0x those kept) |" in card
    assert "conv_000" not in card


def test_run_without_facts_says_so(tmp_path):
    spec = build("lenet5")
    save_model(tmp_path / "run/last", spec, random_tensors(spec, 0))
    result = export(tmp_path / "run", tmp_path / "bundle")
    assert result.facts.checkpoint == "last"
    card = (tmp_path / "bundle/model_card.md").read_text()
    assert "Validation metrics: not available" in card
    assert "| dataset fingerprint | not available |" in card
    assert "classifier" in card


def test_a_bundle_is_replaced_whole(trained, tmp_path):
    first = export(trained, tmp_path / "bundle")
    (tmp_path / "bundle/leftover.txt").write_text("x")
    second = export(trained, tmp_path / "bundle", ExportOptions(checkpoint="last"))
    assert first.model_hash != second.model_hash
    assert not (tmp_path / "bundle/leftover.txt").exists()
    assert load_bundle(str(tmp_path / "bundle")).model_hash == second.model_hash


def test_nothing_but_a_bundle_is_ever_replaced(trained, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.md").write_text("years of work")
    for out in (tmp_path / "thesis", trained, trained / "run.json"):
        with pytest.raises(OutputError, match=r"holds other files.*or a bundle"):
            export(trained, out)
    assert (tmp_path / "thesis/chapter.md").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    export(trained, tmp_path / "empty")


def test_a_failed_check_leaves_the_old_bundle(trained, tmp_path, monkeypatch):
    first = export(trained, tmp_path / "bundle")

    def wrong(*arguments):
        raise ExportError("ONNX and torch disagree")

    monkeypatch.setattr(export_bundle, "check_onnx", wrong)
    with pytest.raises(ExportError, match=r"disagree"):
        export(trained, tmp_path / "bundle", ExportOptions(checkpoint="last"))
    assert load_bundle(str(tmp_path / "bundle")).model_hash == first.model_hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "run"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_the_layer(trained, tmp_path, bad):
    edit_weights(trained / "best", lambda t: t["conv_010.bn_bias"].__setitem__(2, bad))
    with pytest.raises(ExportError, match=r"not finite.*'conv_010', bn_bias"):
        export(trained, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("value", [1.5, "0.5", None, True])
def test_unusable_thresholds_stop_the_export(trained, tmp_path, value):
    write_json(
        trained / "best" / "operating_points.json", {"points": {"kaggle": {"threshold": value}}}
    )
    with pytest.raises(ArtefactError, match=r"Threshold is not valid.*kaggle"):
        export(trained, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("key", ["threshold", "sensitivity"])
def test_numbers_that_are_not_finite_are_a_damaged_file(trained, tmp_path, key, number):
    (trained / "best" / "operating_points.json").write_text(
        f'{{"points": {{"kaggle": {{"threshold": 0.5, "{key}": {number}}}}}}}'
    )
    with pytest.raises(ArtefactError, match=r"damaged.*operating_points\.json"):
        export(trained, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_damaged_run_files_are_named(trained, tmp_path):
    (trained / "run.json").write_text('{"kind": ')
    with pytest.raises(ArtefactError, match=r"damaged.*run\.json"):
        export(trained, tmp_path / "bundle")


def invoke(*arguments):
    return run(group, [str(argument) for argument in arguments])


def test_command_exports_and_says_what_next(trained, tmp_path, capsys):
    assert invoke("export", trained, "--out", tmp_path / "bundle", "--batch", 2) == 0
    shown = capsys.readouterr().out
    assert "model.onnx" in shown
    assert "not calibrated" not in shown
    assert f"next: pneumonia score INPUT OUTPUT --bundle {tmp_path / 'bundle'}" in shown
    assert load_bundle(str(tmp_path / "bundle")).manifest["onnx"]["batch"] == 2
    assert invoke("export", trained, "--out", tmp_path / "b2", "--checkpoint", "last") == 0
    assert "warning: thresholds are not calibrated" in capsys.readouterr().out


def corrupt(folder):
    path = folder / "best/weights.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (shutil.rmtree, 4, "No such folder"),
        (lambda f: [shutil.rmtree(f / n) for n in ("best", "last")], 4, "no checkpoint yet"),
        (corrupt, 4, "weights.safetensors"),
        (lambda f: (f / "best/spec.json").write_text("{}"), 4, "schema"),
        (
            lambda f: edit_weights(f / "best", lambda t: t["conv_000.weight"].fill_(float("nan"))),
            9,
            "'conv_000'",
        ),
    ],
)
def test_command_fails_in_one_line_with_its_exit_code(trained, tmp_path, capsys, spoil, code, said):
    spoil(trained)
    assert invoke("export", trained, "--out", tmp_path / "bundle") == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_inspect_shows_runs_and_bundles_alike(trained, tmp_path, capsys):
    result = export(trained, tmp_path / "bundle")
    for target in (trained, trained / "last", tmp_path / "bundle"):
        assert invoke("inspect", target) == 0
        shown = capsys.readouterr().out
        assert "conv_012" in shown
        assert "columns/8" in shown
        assert f"{result.totals.macs:,}" in shown
        assert "next: pneumonia" in shown


def test_inspect_json_is_the_account(trained, tmp_path):
    result = export(trained, tmp_path / "bundle")
    answer = CliRunner().invoke(group, ["inspect", str(tmp_path / "bundle"), "--json"])
    document = json.loads(answer.output)
    assert document["schema"] == "pneumonia.inspection/1"
    assert document["kind"] == "bundle"
    assert document["model_hash"] == result.model_hash
    assert document["totals"]["parameters"] == result.totals.parameters
    layers = {row["name"]: row for row in document["layers"]}
    assert layers["conv_012"]["storage"] == "columns/8"
    assert layers["conv_012"]["kept_weights"] == result.spec.layer("conv_012").storage.n_kept
    assert sum(row["kept_macs"] for row in layers.values()) == document["totals"]["kept_macs"]
    assert document["files"]["model.onnx"] == result.sizes["model.onnx"]


def test_inspect_checks_a_bundle(trained, tmp_path, capsys):
    export(trained, tmp_path / "bundle")
    with (tmp_path / "bundle/model_card.md").open("a") as stream:
        stream.write("works on everything")
    assert invoke("inspect", tmp_path / "bundle") == 4
    assert "model_card.md" in capsys.readouterr().err
    assert invoke("inspect", tmp_path) == 4
    assert "neither a run nor a bundle" in capsys.readouterr().err


def test_text_of_people_heads_the_model_card(trained, tmp_path):
    about = tmp_path / "about.md"
    about.write_text("## Intended use\n\nSorting for research.\n", encoding="utf-8")
    export(trained, tmp_path / "bundle", ExportOptions(about=about))
    card = (tmp_path / "bundle" / "model_card.md").read_text()
    assert (
        0
        < card.index(DISCLAIMER)
        < card.index("Sorting for research.")
        < card.index("| model hash")
    )
    about.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtefactError, match=r"model card cannot be read.*about\.md"):
        export(trained, tmp_path / "bundle", ExportOptions(about=about))


def test_what_only_the_training_needed_stays_behind(tmp_path):
    plain = build("yolov3-tiny", width=0.25, size=64)
    tensors = random_tensors(add_image_head(plain, 3), 1)
    save_model(tmp_path / "with/best", add_image_head(plain, 3), tensors)
    own = {k: v for k, v in tensors.items() if k in random_tensors(plain, 1)}
    save_model(tmp_path / "without/best", plain, own)
    hashes = []
    for name in ("with", "without"):
        export(tmp_path / name, tmp_path / f"{name}-bundle")
        folder = tmp_path / f"{name}-bundle"
        hashes.append(model_hash(str(folder / "spec.json"), str(folder / "weights.safetensors")))
    assert hashes[0] == hashes[1]
