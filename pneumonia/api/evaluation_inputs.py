"""What `evaluate` and `compare` read: predictions, labels, facts, subsets, frozen thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from evaluation.study.box_scale import read_box_scale
from evaluation.study.cases import EvaluationCases, join
from evaluation.study.class_mix import RSNA_MIX, ClassMix
from evaluation.study.cohort import read_cohort
from evaluation.study.labels import read_labels
from evaluation.study.operating_points import OperatingPoint, read_platt, read_points
from evaluation.study.submission import is_submission, read_submission
from pneumonia.runtime.errors import ArtefactError, DataError
from pneumonia.runtime.json_files import find_json_object
from pneumonia.runtime.label_table import LABEL_FRAME
from pneumonia.runtime.model.predictions import Prediction, read_predictions
from pneumonia.runtime.output_folders import refuse_other_kinds
from pneumonia.runtime.text import counted

SCORE_SCHEMA = "pneumonia.score/1"  # of the run.json that `score` puts beside predictions.csv

# of a dataset, of scored images, of a run and of a model: a report would replace such files
_OTHER_KINDS = ("dataset.json", "manifest.jsonl", "run.json", "spec.json")


def refuse_other_folder(out: Path) -> None:
    """Refuse to write a report into a bundle, a run, a dataset or the output of `score`.

    Raises:
        OutputError: The folder is one of these.
    """
    refuse_other_kinds(str(out), _OTHER_KINDS, "an earlier report")


@dataclass(frozen=True)
class StudyOptions:
    """Options that `evaluate` and `compare` share."""

    classes: Path | None = None  # csv with patientId, class (official class info)
    images: Path | None = None  # csv of patient, view, sex, age per image
    # side of the labels' frame in pixels; None for the pixels of each image
    frame: float | None = LABEL_FRAME
    subset: Path | None = None  # file of image ids, one per line; only those count
    only_scored: bool = False  # leave out labelled images without a score
    points: Path | None = None  # frozen thresholds: operating_points.json, or a bundle
    threshold: float | None = None  # one threshold, 0 to 1, in place of frozen or chosen ones
    image_folder: Path | None = None  # radiographs, to show cases
    mix: ClassMix = RSNA_MIX  # mix of classes that results are weighted to as well
    # `cohort` (images chosen with their prevalence) or `case-control`; intervals follow
    design: Literal["cohort", "case-control"] = "cohort"
    draws: int = 2000  # bootstrap draws
    seed: int = 0  # seed of the draws

    def read_cases(self, predictions: Path, labels: Path) -> EvaluationCases:
        """Read and join labels, predictions (predictions.csv or a submission) and facts.

        Raises:
            DataError: Equal boxes of an image; see the readers and `evaluation.study.cases.join`.
        """
        truth = read_labels(labels, self.frame)
        found = (
            read_submission(predictions, self.frame or LABEL_FRAME)
            if is_submission(predictions)
            else read_predictions(str(predictions))
        )
        _refuse_repeated(found, predictions)
        facts = [path for path in (self.classes, self.images) if path is not None]
        return join(
            truth,
            found,
            read_cohort(*facts),
            None if self.subset is None else read_subset(self.subset),
            self.only_scored,
        )


def _refuse_repeated(found: Sequence[Prediction], predictions: Path) -> None:
    """Refuse equal boxes with equal scores: the challenge counts the second as a false alarm."""
    repeated = 0
    for image in found:
        rows = np.column_stack([image.scores, image.boxes])
        repeated += len(np.unique(rows, axis=0)) < len(rows)
    if repeated:
        raise DataError(
            "Boxes of an image are repeated",
            expected="each box once",
            found=counted(repeated, "image") + " with equal rows",
            where=str(predictions),
            fix="Remove the equal rows; two files joined into one may both hold an image",
        )


class FrozenPoints(NamedTuple):
    """What operating_points.json fixes."""

    points: Mapping[str, OperatingPoint] | None = None  # name -> point; None = nothing is frozen
    # slope and intercept of the Platt scaling, None = not available
    platt: tuple[float, float] | None = None
    box_scale: float = 1.0  # how boxes are resized before they are judged
    model_hash: str | None = None  # hash of the model they belong to, None = not recorded
    # digest of the images on which they were chosen, None = not recorded
    image_set: str | None = None


def read_frozen(source: Path) -> FrozenPoints:
    """Read operating_points.json, or that of a bundle or run.

    Raises:
        ArtefactError: Not readable, or a value out of its range.
    """
    points, document = read_points(source)
    owner, selected_on = document.get("model_hash"), document.get("selected_on")
    image_set = selected_on.get("image_set") if isinstance(selected_on, dict) else None
    return FrozenPoints(
        points,
        read_platt(document),
        read_box_scale(document, str(source)),
        owner if isinstance(owner, str) else None,
        image_set if isinstance(image_set, str) else None,
    )


def check_scored_by(predictions: Path, model_hash: str) -> None:
    """Refuse predictions whose own run.json names another model; without one nothing is checked.

    Raises:
        ArtefactError: They were made by another model.
    """
    record = find_json_object(str(predictions.parent / "run.json"))
    if record.get("schema") != SCORE_SCHEMA:
        return
    model = record.get("model")
    made_by = model.get("model_hash") if isinstance(model, dict) else None
    if isinstance(made_by, str) and made_by != model_hash:
        raise ArtefactError(
            "Predictions were made by another model than the bundle's",
            expected=f"model_hash {model_hash[:12]}...",
            found=f"{made_by[:12]}...",
            where=str(predictions),
        )


def read_subset(path: Path) -> list[str]:
    """Image ids, one per line; a path counts as its file stem, empty lines are skipped.

    Raises:
        DataError: Not readable, or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("Subset cannot be read", found=str(error), where=str(path)) from None
    ids = [_stem(line.strip()) for line in lines if line.strip()]
    if not ids:
        raise DataError("Subset names no image", where=str(path))
    return ids


def _stem(text: str) -> str:
    """`full/images/ID.png` -> `ID`; a bare id may hold dots."""
    name = text.replace("\\", "/").rpartition("/")[2]
    for suffix in (".png", ".jpg", ".jpeg", ".dcm"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
