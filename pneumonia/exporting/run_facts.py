"""Facts recorded in a run folder, for the bundle's model card and manifest."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pneumonia.runs.compression import read_compression, read_run_json
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.names import METRICS_FILE, STATE_FILE
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.storage.bundle import OPERATING_POINTS

CHOSEN = ("schema", "selected_on", "box_scale", "calibration")
UNCALIBRATED = {"default": {"threshold": 0.5, "source": "not calibrated"}}


class RunFacts(NamedTuple):
    """Facts of a run; None or empty where the run folder does not record them."""

    kind: str | None  # `train` or `prune`
    checkpoint: str  # name of the checkpoint folder
    epoch: int | None  # after which the weights were saved
    seed: int | None  # of the run
    dataset_fingerprint: str | None  # of the training data
    versions: dict[str, str]  # package -> version at training
    metrics: dict[str, float]  # of the validation of these weights
    points: dict[str, dict[str, Any]]  # operating points: name -> record with `threshold`
    chosen: dict[str, Any]  # what else is known of their choice: the keys of `CHOSEN`
    compression: dict[str, str]  # what a pruning run says about the whole network, as text
    trained_weights: int | None = None  # weights of the network before anything was compressed
    training: dict[str, Any] | None = None  # recipe of the training that the run descends from
    about: str = ""  # what only people know (intended use, data and its terms, limits), as Markdown

    @property
    def calibrated(self) -> bool:
        """Whether the thresholds were chosen on validation images."""
        return self.points != UNCALIBRATED


def read_run_facts(folder: Path) -> RunFacts:
    """Collect what is known about a checkpoint.

    Args:
        folder: The checkpoint, as `RunFolder.checkpoint` gives it.

    Raises:
        ArtefactError: A file of the run is damaged.
    """
    run = RunFolder(folder.parent)
    record = run.record() if run.record_file.is_file() else {}
    operating = read_run_json(folder / OPERATING_POINTS)
    epoch, metrics = _metrics(run, folder)
    dataset = record.get("dataset")
    if isinstance(dataset, dict):
        fingerprint = dataset.get("fingerprint")
    else:
        fingerprint = record.get("dataset_fingerprint")
    versions = record.get("versions")
    return RunFacts(
        kind=_text(record.get("kind")),
        checkpoint=folder.name,
        epoch=epoch,
        seed=_whole(record.get("seed")),
        dataset_fingerprint=_text(fingerprint),
        versions={str(k): str(v) for k, v in versions.items()}
        if isinstance(versions, dict)
        else {},
        metrics=metrics,
        points=_operating_points(operating, folder / OPERATING_POINTS),
        chosen={key: operating[key] for key in CHOSEN if key in operating},
        compression=_scalars(read_compression(run.path)),
        trained_weights=_whole(record.get("trained_weights")),
        training=_training(run, record),
    )


def _training(run: RunFolder, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The training recipe, without the path of its start, which is of the machine it ran on."""
    recipe = record.get("training")
    if record.get("kind") == "train" and run.config_file.is_file():
        recipe = run.config()
    if not isinstance(recipe, dict):
        return None
    model = recipe.get("model")
    if isinstance(model, dict):
        recipe = {**recipe, "model": {k: v for k, v in model.items() if k != "start_from"}}
    return recipe


def _metrics(run: RunFolder, folder: Path) -> tuple[int | None, dict[str, float]]:
    saved = read_run_json(folder / METRICS_FILE)
    if saved:
        return _whole(saved.get("epoch")), _numbers(saved.get("metrics"))
    epoch = _whole(read_run_json(folder / STATE_FILE).get("epoch"))
    return epoch, {} if epoch is None else _row(run.metrics_table, epoch)


def _row(path: Path, epoch: int) -> dict[str, float]:
    """The validation columns of one epoch."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if row.get("epoch") and float(row["epoch"]) == epoch:
                    columns = {k: float(v) for k, v in row.items() if k and v}
                    return _numbers({k: v for k, v in columns.items() if k.startswith("val_")})
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError):
        raise ArtefactError("File of the run is damaged", where=str(path)) from None
    return {}


def _operating_points(document: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """The points of a document; the uncalibrated ones when it is empty."""
    if not document:
        return {name: dict(point) for name, point in UNCALIBRATED.items()}
    points = document.get("points")
    if not isinstance(points, dict) or not all(isinstance(p, dict) for p in points.values()):
        raise ArtefactError(
            "Operating points are malformed",
            expected='{"points": {name: {"threshold": ...}}}',
            where=str(path),
        )
    return points or {name: dict(point) for name, point in UNCALIBRATED.items()}


def _scalars(document: Mapping[str, Any]) -> dict[str, str]:
    """Scalar values of a JSON object; nested objects and lists are left out."""
    return {
        key: f"{value:.6g}" if isinstance(value, float) else str(value)
        for key, value in document.items()
        if isinstance(value, (int, float, str)) and key != "schema"
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    return {
        str(key): float(number)
        for key, number in value.items()
        if isinstance(number, (int, float)) and math.isfinite(number)
    }
