"""What readers drew becomes a detector: export, train, score, evaluate, each by its verb."""

import json
from pathlib import Path

import pytest

from data_prep.annotation.agreement.consensus import consensus_of, truth_of
from data_prep.annotation.exports.training_set import write_training_set
from data_prep.annotation.workspace.records import Annotation, Reading
from data_prep.dataset.reader import open_dataset
from data_prep.importing.assemble import DatasetOptions
from data_prep.reports.findings.concepts import ConceptBase
from evaluation.study.labels import read_labels
from pneumonia.cli import group, run

BASE = ConceptBase.load()


def call(*arguments: object) -> None:
    assert run(group, [str(argument) for argument in arguments]) == 0


def two_readers(image_id, boxes):
    """Two readers who draw the phantom's truth, the second one a little off."""
    for name, slip in (("ann", 0.0), ("bob", 1.0)):
        items = tuple(
            Annotation(f"b{i}", (x1 + slip, y1, x2, y2), "Opacity")
            for i, (x1, y1, x2, y2) in enumerate(boxes)
        )
        yield Reading(image_id, name, items, "opacity" if items else "normal")


@pytest.mark.slow
def test_train_and_evaluate_take_the_export(phantom_folder, phantoms, tmp_path):
    truths, paths = {}, {}
    for i, record in enumerate(phantoms.records):
        boxes = [tuple(map(float, box)) for box in phantoms.boxes(i)]
        made = consensus_of(list(two_readers(record.image_id, boxes)), BASE)
        truths[record.image_id] = truth_of(made, BASE)
        paths[record.image_id] = phantom_folder / "dicom" / f"{record.image_id}.dcm"
    options = DatasetOptions(fractions=(0.6, 0.2, 0.2))
    write_training_set(tmp_path / "set", truths, paths, options)
    made = open_dataset(tmp_path / "set")
    assert sum(len(made.boxes(i)) for i in range(len(made))) == sum(
        len(phantoms.boxes(i)) for i in range(len(phantoms))
    )
    call("data", "audit", tmp_path / "set")
    settings = {
        "model.name": "yolov3-tiny", "model.width": 0.25, "model.size": 96, "epochs": 1,
        "validate_every": 1, "batch_size": 8, "workers": 0, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    call("train", "--data", tmp_path / "set", "--recipe", "phantom", "--out", tmp_path / "run",
         *words)  # fmt: skip
    predictions = next(Path(tmp_path / "run" / "best").glob("val_predictions*.csv"))
    call("evaluate", predictions, tmp_path / "set" / "labels.csv", "--out", tmp_path / "report",
         "--only-scored", "--threshold", "0.5", "--draws", "100")  # fmt: skip
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["schema"] == "pneumonia.metrics/1"
    assert set(read_labels(tmp_path / "set" / "labels.csv").ids) == set(truths)
