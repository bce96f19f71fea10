"""The record of each file, and its stored form: one study JSON per scored image."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.image_names import IMAGE_SUFFIXES
from pneumonia.runtime.json_files import find_json_object
from pneumonia.runtime.model.boxes import as_boxes
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results.facts import INDETERMINATE, NEGATIVE, POSITIVE, ResultFacts
from pneumonia.scoring.image.find import FoundFile

SCHEMA = "pneumonia.study/1"
NOT_SCORED = "not scored"
STATUSES = ("scored", "skipped", "rejected", "failed", "pending")
FAILURES = ("rejected", "failed")
_MEDIA_NAME = re.compile(r"(?=.*\d)[A-Z0-9_]{1,8}|[0-9.]+")
UID_CONFLICT = "instance_uid_conflict"  # a warning


@dataclass(frozen=True)
class ScoringModel:
    """The model and settings that produced a score."""

    name: str  # model name of the bundle
    model_hash: str  # hex identity of the model
    threshold_name: str  # operating point
    threshold: float  # its score
    engine: str  # name of the engine
    settings_hash: str  # hex digest of everything that changes an output
    version: str = "unknown"  # release of this software that exported the model

    def facts(self) -> ResultFacts:
        """Facts about the model for DICOM and FHIR results."""
        return ResultFacts(
            self.name, self.version, self.model_hash, self.threshold_name, self.threshold
        )

    def caption(self) -> str:
        """One line for pictures and tables."""
        return self.facts().caption()


@dataclass(frozen=True)
class ImageRecord:
    """Status and result of one file."""

    file: FoundFile  # the file
    key: str  # salted hash of its place in the input: names its JSON and overlay
    status: str  # one of STATUSES
    reason: str = ""  # machine-readable reason of any status but `scored`
    study_key: str = ""  # salted hash of the study UID, or of the file where there is none
    sha256: str = ""  # of the file's bytes
    n_bytes: int = 0  # size of the file
    prediction: Prediction | None = None  # boxes above the score floor, None unless scored
    # facts of the image (runtime.image.radiograph)
    info: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()  # codes of warnings about the image
    timings_ms: dict[str, float] = field(default_factory=dict)  # durations by step
    # UIDs, accession number and study date, only when the user asked for them
    identity: dict[str, str] = field(default_factory=dict)
    reused: bool = False  # taken over from an earlier run on the same bytes
    instance_key: str = ""  # salted hash of the SOP Instance UID; empty where there is none
    # salted hash of patient and study as the server described them; empty for local files
    revision_key: str = ""
    # salted hash of the image's pixels and identity, however the file is encoded; empty for
    # pictures
    content_key: str = ""

    @property
    def is_not_an_image(self) -> bool:
        """Whether the file was refused and, by its name, is unlikely to be a damaged image.

        On patient CDs these are programs, icons and licences. Names of DICOM files on media (up to
        eight capitals, digits and `_`, with a digit), UIDs, and names that end like an image's
        (`.dcm`, `.png`, ...) are taken for images.
        """
        name = self.file.relative.rsplit("/", 1)[-1]
        looks_like_image = _MEDIA_NAME.fullmatch(name) or name.lower().endswith(IMAGE_SUFFIXES)
        return self.reason == "not_dicom" and self.n_bytes > 0 and not looks_like_image

    def conflicts_with(self, other: "ImageRecord") -> bool:
        """Whether both have one SOP Instance UID, but other pixels or another identity."""
        is_same_uid = bool(self.instance_key) and self.instance_key == other.instance_key
        return is_same_uid and self.content_key != other.content_key

    @property
    def is_unchecked(self) -> bool:
        """Whether the result is of an earlier run, and the server's image may have changed."""
        return self.reused and not self.file.path

    def max_score(self) -> float | None:
        """Highest score of any box; 0 without a box, None when not scored."""
        if self.prediction is None:
            return None
        return float(self.prediction.scores.max(initial=0.0))

    def above(self, threshold: float) -> Prediction | None:
        """The prediction with only its boxes at or above a threshold."""
        if self.prediction is None:
            return None
        keep = self.prediction.scores >= np.float32(threshold)
        return self.prediction._replace(
            boxes=self.prediction.boxes[keep], scores=self.prediction.scores[keep]
        )

    def flag(self, threshold: float) -> str:
        """The result a clinician sees: POSITIVE, NEGATIVE, INDETERMINATE or NOT_SCORED.

        A damaged image without a box above the threshold is INDETERMINATE, not NEGATIVE.
        """
        found = self.above(threshold)
        if found is None:
            return NOT_SCORED
        if len(found.scores):
            return POSITIVE
        return INDETERMINATE if "degraded" in self.warnings else NEGATIVE


def add_conflict_warnings(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The records, with a warning on different images that have the same SOP Instance UID.

    Results refer to an instance by its UID alone, so that the image would be ambiguous. Copies of
    one image are not a conflict, even in another encoding.
    """
    images: dict[str, set[str]] = {}
    for record in records:
        if record.status == "scored" and record.instance_key:
            images.setdefault(record.instance_key, set()).add(record.content_key)
    return [
        replace(record, warnings=(*record.warnings, UID_CONFLICT))
        if record.status == "scored" and len(images.get(record.instance_key, ())) > 1
        else record
        for record in records
    ]


def salted_key(salt: str, *parts: str) -> str:
    """A salted hash, 16 hex digits, that is an identifier within this output folder only."""
    return hashlib.sha256("\0".join([salt, *parts]).encode("utf-8")).hexdigest()[:16]


def _boxes_mm(boxes: Sequence[Sequence[float]], spacing: list[float] | None) -> Any:
    """Boxes in millimetres from the image's corner; spacing is (row, column)."""
    if spacing is None:
        return None
    sides = [spacing[1], spacing[0]] * 2
    return [[round(edge * side, 3) for edge, side in zip(box, sides, strict=True)] for box in boxes]


def study_document(
    record: ImageRecord, model: ScoringModel, versions: dict[str, str]
) -> dict[str, Any]:
    """The study JSON of a scored image; the same image and model give the same document."""
    assert record.prediction is not None
    prediction = record.prediction
    boxes = [[float(edge) for edge in box] for box in prediction.boxes]
    return {
        "schema": SCHEMA,
        "disclaimer": DISCLAIMER,
        "key": record.key,
        "study_key": record.study_key,
        "image_id": record.file.image_id,
        "instance_key": record.instance_key,
        "revision_key": record.revision_key,
        "content_key": record.content_key,
        "identity": record.identity,
        "sha256": record.sha256,
        "bytes": record.n_bytes,
        "width": prediction.width,
        "height": prediction.height,
        "preprocessing": record.info,
        "warnings": list(record.warnings),
        "flag": record.flag(model.threshold),
        "max_score": record.max_score(),
        "boxes_xyxy": boxes,
        "boxes_above_threshold": [
            bool(s >= np.float32(model.threshold)) for s in prediction.scores
        ],
        "boxes_xyxy_mm": _boxes_mm(boxes, record.info.get("spacing_mm")),
        "scores": [float(score) for score in prediction.scores],
        "operating_point": {"name": model.threshold_name, "threshold": model.threshold},
        "model": {"name": model.name, "version": model.version, "hash": model.model_hash},
        "engine": model.engine,
        "settings_hash": model.settings_hash,
        "versions": versions,
        "timings_ms": record.timings_ms,
    }


def read_study(
    path: Path, file: FoundFile, key: str, model: ScoringModel, revision_key: str = ""
) -> ImageRecord | None:
    """The record an earlier run left; None if model, a setting or the server's study differs."""
    try:
        document = find_json_object(str(path))
        same = (
            document["schema"] == SCHEMA
            and document["image_id"] == file.image_id
            and document["model"]["hash"] == model.model_hash
            and document["settings_hash"] == model.settings_hash
            and document["revision_key"] == revision_key
        )
        if not same:
            return None
        return ImageRecord(
            file=file,
            key=key,
            status="scored",
            study_key=str(document["study_key"]),
            sha256=str(document["sha256"]),
            n_bytes=int(document["bytes"]),
            prediction=Prediction(
                file.image_id,
                as_boxes(document["boxes_xyxy"]),
                np.array(document["scores"], dtype=np.float32),
                int(document["width"]),
                int(document["height"]),
            ),
            info=dict(document["preprocessing"]),
            warnings=tuple(document["warnings"]),
            timings_ms=dict(document["timings_ms"]),
            reused=True,
            instance_key=str(document["instance_key"]),
            revision_key=revision_key,
            content_key=str(document["content_key"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
