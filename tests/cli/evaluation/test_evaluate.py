import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.metrics.image_level import auroc
from evaluation.study.box_scale import scale_boxes
from evaluation.study.operating_points import choose, document
from evaluation.study.submission import write_submission
from pneumonia.cli import group, run
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.model.predictions import Prediction, read_predictions, write_predictions
from pneumonia.runtime.storage.bundle import load_bundle
from tests.evaluation.studies import study_cases
from tests.runtime.bundles import brightness_detector, write_bundle

CASES = study_cases(31, 50, 60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """labels.csv, info.csv and two models' predictions in pixels of 512 px images."""
    lines, info = ["patientId,x,y,width,height,Target"], ["patientId,class,patient_id,view,sex,age"]
    for image_id, truths in zip(CASES.ids, CASES.truths, strict=True):
        facts = CASES.cohort.facts[image_id]
        known = [facts[key] for key in ("class", "patient", "view", "sex", "age")]
        info.append(",".join([image_id, *known]))
        if not len(truths):
            lines.append(f"{image_id},,,,,0")
        for x1, y1, x2, y2 in truths:
            lines.append(f"{image_id},{x1},{y1},{x2 - x1},{y2 - y1},1")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "info.csv").write_text("\n".join(info) + "\n")
    for name, shift in (("dense", 0.0), ("pruned", 8.0)):
        rows = [
            Prediction(i, np.float32((boxes + shift) / 2), np.float32(scores), 512, 512)
            for i, boxes, scores in zip(CASES.ids, CASES.boxes, CASES.scores, strict=True)
        ]
        write_predictions(str(tmp_path / f"{name}.csv"), rows)
    return tmp_path


def _run(*arguments: object) -> int:
    return run(group, [str(argument) for argument in arguments])


def _metrics(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.slow
def test_evaluate_freeze_and_evaluate_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [folder / "dense.csv", folder / "labels.csv", "--draws", 100]
    facts = ["--images", folder / "info.csv"]
    assert _run("evaluate", *common, *facts, "--out", folder / "val") == 0
    shown = capsys.readouterr().out
    assert "AUROC" in shown
    assert "next: pneumonia evaluate" in shown
    first = _metrics(folder / "val")
    assert first["thresholds_origin"] == "chosen on these same images"
    assert first["coverage"]["n_patients"] == len(np.unique(CASES.patients))
    for name in ("report.html", "claim.json", "model_card.md", "operating_points.json"):
        assert (folder / "val" / name).is_file()

    points = folder / "val" / "operating_points.json"
    assert _run("evaluate", *common, "--out", folder / "test", "--operating-points", points) == 0
    second = _metrics(folder / "test")
    assert second["thresholds_origin"] == "frozen, but chosen on these same images"
    assert not (folder / "test" / "operating_points.json").exists()
    assert second["metrics"]["rsna.kaggle"]["value"] == first["metrics"]["rsna.kaggle"]["value"]
    assert second["metrics"]["calibration.ece_platt"]["value"] is not None


def test_a_model_that_finds_nothing_is_warned_of_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores below a threshold frozen elsewhere, and predictions without a box."""
    common = [folder / "labels.csv", "--draws", 100, "--out", folder / "out", "--threshold", 0.5]
    rows = read_predictions(str(folder / "dense.csv"))
    weak = [row._replace(scores=row.scores * np.float32(0.1)) for row in rows]
    write_predictions(str(folder / "weak.csv"), weak)
    assert _run("evaluate", folder / "weak.csv", *common) == 0
    shown = capsys.readouterr().err
    assert shown.count("finds nothing") == 1
    assert "its threshold is 0.500, the highest score of these images 0." in shown
    none = [row._replace(scores=row.scores[:0], boxes=row.boxes[:0]) for row in rows]
    write_predictions(str(folder / "none.csv"), none)
    assert _run("evaluate", folder / "none.csv", *common) == 0
    assert "finds nothing: the predictions hold no box" in capsys.readouterr().err
    assert _run("evaluate", folder / "dense.csv", *common) == 0
    assert "finds nothing" not in capsys.readouterr().err


def test_equal_boxes_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files of predictions joined into one: the challenge would count the box twice."""
    lines = (folder / "dense.csv").read_text().splitlines(keepends=True)
    boxed = next(line for line in lines[1:] if line.split(",")[1])
    (folder / "joined.csv").write_text("".join([*lines, boxed]))
    arguments = ["evaluate", folder / "joined.csv", folder / "labels.csv", "--out", folder / "no"]
    assert _run(*arguments) == DataError.exit_code
    assert "repeated; expected each box once; found 1 image with equal rows" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_submission_scores_like_the_predictions(folder: Path) -> None:
    """The written submission, read back, has the same challenge score without any threshold."""
    common = [folder / "labels.csv", "--draws", 100]
    assert _run("evaluate", folder / "dense.csv", *common, "--out", folder / "a") == 0
    submission = folder / "a" / "submission.csv"
    out = folder / "b"
    assert _run("evaluate", submission, *common, "--out", out, "--threshold", 0) == 0
    value = _metrics(out)["metrics"]["rsna.given"]["value"]
    assert value == pytest.approx(_metrics(folder / "a")["metrics"]["rsna.kaggle"]["value"])


@pytest.mark.slow
def test_images_that_were_not_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_predictions(str(folder / "dense.csv"))
    write_predictions(str(folder / "fewer.csv"), rows[5:])
    common = ["evaluate", folder / "fewer.csv", folder / "labels.csv", "--draws", 100]
    assert _run(*common, "--out", folder / "out") == 6
    assert "5 of 110 missing" in capsys.readouterr().err
    assert not (folder / "out").exists()
    assert _run(*common, "--out", folder / "out", "--only-scored") == 0
    assert "left out: 5 labelled" in capsys.readouterr().out
    ids = folder / "ids.txt"
    ids.write_text("\n".join(f"full/images/{row.image_id}.png" for row in rows[5:]) + "\n")
    assert _run(*common, "--out", folder / "out", "--subset", ids) == 0
    assert _metrics(folder / "out")["coverage"]["n_missing"] == 0


def test_the_frame_of_the_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", folder / "dense.csv", folder / "labels.csv", "--draws", 100]
    assert _run(*common, "--out", folder / "out", "--frame", "image") == 6
    assert "--frame" in capsys.readouterr().err
    assert _run(*common, "--out", folder / "out", "--frame", "wide") == 2
    assert _run(*common, "--out", folder / "out", "--box-scale", "wide") == 2
    assert "neither a number nor `tune`" in capsys.readouterr().err
    assert _run(*common, "--out", folder / "out", "--frame", 2048) == 0


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (["--threshold", "0.5", "--operating-points", "labels.csv"], 2, "exclude each other"),
        (["--operating-points", "labels.csv"], 4, "not JSON"),
        (["--perturbed", "noise_5"], 2, "NAME=FILE"),
        (["--perturbed", "blur_5=dense.csv"], 2, "Unknown perturbation"),
        (["--write-perturbed", "here"], 2, "--image-folder"),
        (["--box-scale", "3"], 2, "Box scale is out of range"),
        (["--box-scale", "tune", "--threshold", "0.5"], 2, "tuned on the images that choose"),
        (["--freeze-into", ".", "--threshold", "0.5"], 2, "chooses the thresholds itself"),
        (["--freeze-into", "."], 4, "manifest.json"),
        (["--classes", "dense.csv"], 6, "Not a table"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    options: list[str], code: int, part: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    common = ["evaluate", "dense.csv", "labels.csv", "--out", "out", "--draws", 100]
    assert _run(*common, *options) == code
    error = capsys.readouterr().err
    assert part in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["dataset.json", "manifest.jsonl", "run.json", "spec.json"])
def test_a_report_is_not_written_over_other_folders(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "other"
    out.mkdir()
    (out / name).write_text("{}")
    predictions, labels = folder / "dense.csv", folder / "labels.csv"
    assert _run("evaluate", predictions, labels, "--out", out) == 5
    models = (f"a={predictions}", f"b={predictions}")
    assert _run("compare", *models, "--labels", labels, "--out", out) == 5
    assert capsys.readouterr().err.count("Choose another folder") == 2
    assert [path.name for path in out.iterdir()] == [name]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", *brightness_detector(), onnx=False)


def test_thresholds_are_frozen_into_a_bundle(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = load_bundle(str(bundle)).model_hash
    common = [folder / "dense.csv", folder / "labels.csv", "--draws", 100]
    out = folder / "val"
    assert _run("evaluate", *common, "--out", out, "--freeze-into", bundle) == 0
    shown = capsys.readouterr().out
    assert "kaggle, high_sensitivity, high_specificity, balanced" in shown
    assert f"next: pneumonia score INPUT OUTPUT --bundle {bundle}" in shown
    content = json.loads((bundle / "operating_points.json").read_text())
    assert content == json.loads((out / "operating_points.json").read_text())
    assert content["model_hash"] == identity == load_bundle(str(bundle)).model_hash
    expected = document(CASES)["points"]
    for name, point in load_bundle(str(bundle)).operating_points.items():
        assert point["threshold"] == pytest.approx(expected[name]["threshold"], abs=1e-6)
    assert content["selected_on"]["predictions"].startswith("dense.csv, sha256 ")
    assert _run("evaluate", *common, "--out", folder / "test", "--bundle", bundle) == 0
    second = _metrics(folder / "test")
    assert second["thresholds_origin"] == "frozen, but chosen on these same images"
    assert "Optimistic." in (folder / "test" / "report.html").read_text()
    assert second["operating_points"] == content["points"]
    others = folder / "others.txt"
    others.write_text("\n".join(CASES.ids[1:]))
    again = ["--out", folder / "new", "--bundle", bundle, "--subset", others]
    assert _run("evaluate", *common, *again) == 0
    assert _metrics(folder / "new")["thresholds_origin"] == "frozen"


def test_predictions_of_another_model_are_refused(
    folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"schema": "pneumonia.score/1", "model": {"model_hash": "0" * 64}}
    (folder / "run.json").write_text(json.dumps(record))
    before = (bundle / "operating_points.json").read_bytes()
    common = ["evaluate", folder / "dense.csv", folder / "labels.csv", "--out", folder / "out"]
    for option in ("--bundle", "--freeze-into"):
        assert _run(*common, option, bundle) == 4
        assert "made by another model" in capsys.readouterr().err
    models = [f"a={folder / 'dense.csv'},{bundle}", f"b={folder / 'pruned.csv'}"]
    labels = ["--labels", folder / "labels.csv", "--out", folder / "out"]
    assert _run("compare", *models, *labels) == 4
    assert (bundle / "operating_points.json").read_bytes() == before
    assert not (folder / "out").exists()
    identity = load_bundle(str(bundle)).model_hash
    record["model"] = {"model_hash": identity}
    (folder / "run.json").write_text(json.dumps(record))
    assert _run(*common, "--bundle", bundle, "--draws", 100) == 0


@pytest.mark.slow
def test_a_box_scale_is_tuned_frozen_and_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Boxes a quarter too large are shrunk on validation, and on test by the same factor."""
    large = []
    for item in read_predictions(str(folder / "dense.csv")):
        centre = np.tile((item.boxes[:, :2] + item.boxes[:, 2:]) / 2, 2)
        large.append(item._replace(boxes=centre + (item.boxes - centre) * np.float32(1.25)))
    write_predictions(str(folder / "large.csv"), large)
    common = ["evaluate", folder / "large.csv", folder / "labels.csv", "--draws", 100]
    assert _run(*common, "--out", folder / "val", "--box-scale", "tune") == 0
    scale = _metrics(folder / "val")["box_scale"]
    assert 0.7 <= scale < 1.0
    assert f"box scale {scale:g}: RSNA score" in capsys.readouterr().out
    points = folder / "val" / "operating_points.json"
    assert json.loads(points.read_text())["box_scale"] == scale
    assert _run(*common, "--out", folder / "test", "--operating-points", points) == 0
    tuned = _metrics(folder / "test")
    assert tuned["box_scale"] == scale
    unscaled = choose(scale_boxes(CASES, 1.25))["kaggle"].rsna_score
    assert tuned["metrics"]["rsna.kaggle"]["value"] > unscaled
    area = tuned["metrics"]["image.auroc"]["value"]
    assert area == pytest.approx(float(auroc(CASES.positive, CASES.image_score)[0]))
    assert "Boxes resized" in (folder / "test" / "report.html").read_text(encoding="utf-8")
    models = [folder / "dense.csv", folder / "large.csv"]
    labels = ["--labels", folder / "labels.csv", "--draws", 100]
    out = folder / "compared"
    assert _run("compare", *models, *labels, "--operating-points", points, "--out", out) == 0
    assert "Boxes resized by" in (out / "compare.html").read_text(encoding="utf-8")


def test_compare_takes_the_thresholds_of_a_run(folder: Path) -> None:
    """Those of its best checkpoint, not new ones chosen on the test images."""
    spec, tensors = brightness_detector()
    best = write_bundle(folder / "run" / "best", spec, tensors, threshold=0.5, onnx=False)
    (best / "manifest.json").unlink()
    models = [f"{name}={folder / name}.csv,{folder / 'run'}" for name in ("dense", "pruned")]
    labels = ["--labels", folder / "labels.csv", "--draws", 100]
    assert _run("compare", *models, *labels, "--out", folder / "out") == 0
    facts = json.loads((folder / "out" / "compare.json").read_text())["thresholds"]
    assert facts["dense"] == {"origin": "frozen", "points": {"balanced": 0.5, "sensitive": 0.25}}


@pytest.mark.slow
def test_robustness_from_perturbed_copies(folder: Path) -> None:
    images = folder / "images"
    images.mkdir()
    ids = folder / "ids.txt"
    ids.write_text("\n".join(CASES.ids[:2]) + "\n")
    for image_id in CASES.ids[:2]:
        Image.new("L", (64, 64), 90).save(images / f"{image_id}.png")
    common = ["evaluate", folder / "dense.csv", folder / "labels.csv", "--out", folder / "out"]
    copies = folder / "copies"
    options = ["--image-folder", images, "--subset", ids, "--write-perturbed", copies]
    assert _run(*common, *options) == 0
    assert len(list((copies / "noise_5").glob("*.png"))) == 2
    assert not (folder / "out").exists()
    perturbed = ["--perturbed", f"noise_5={folder / 'pruned.csv'}", "--draws", 100]
    assert _run(*common, *perturbed) == 0
    assert "noise_5" in (folder / "out" / "robustness.csv").read_text()


def test_compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"dense={folder / 'dense.csv'}", f"pruned={folder / 'pruned.csv'}"]
    common = ["--labels", folder / "labels.csv", "--draws", 100, "--images", folder / "info.csv"]
    assert _run("compare", *models, *common, "--out", folder / "out") == 0
    assert "pruned against dense" in capsys.readouterr().out
    document = json.loads((folder / "out" / "compare.json").read_text())
    row = document["comparisons"][0]["metrics"]["coco.ap50"]
    assert row["delta"]["value"] == pytest.approx(row["value"]["value"] - row["reference"]["value"])
    assert document["comparisons"][0]["groups"]
    text = (folder / "out" / "compare.html").read_text(encoding="utf-8")
    assert "not available" in text  # no bundle was given
    assert (folder / "out" / "compare.csv").is_file()


def test_compare_refuses_what_cannot_be_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--labels", folder / "labels.csv", "--out", folder / "out"]
    dense = folder / "dense.csv"
    assert _run("compare", dense, *common) == 2
    assert _run("compare", dense, dense, *common) == 2
    assert _run("compare", dense, folder / "absent.csv", *common) == 2
    rows = read_predictions(str(dense))
    write_predictions(str(folder / "fewer.csv"), rows[5:])
    assert _run("compare", dense, folder / "fewer.csv", *common, "--only-scored") == 6
    assert "same images" in capsys.readouterr().err


def test_a_submission_of_other_images_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_submission(folder / "s.csv", {"someone": ([[0, 0, 9, 9]], [0.5])})
    arguments = ["evaluate", folder / "s.csv", folder / "labels.csv", "--out", folder / "out"]
    assert _run(*arguments) == 6
    error = capsys.readouterr().err
    assert "share no image" in error
    assert "someone" not in error
