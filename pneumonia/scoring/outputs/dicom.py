"""dicom/: structured report, presentation state and capture of every scored DICOM image."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.results import KIND_OF, ObjectCreation, build_results, file_bytes
from pneumonia.scoring.image.records import UID_CONFLICT, ImageRecord, ScoringModel
from pneumonia.scoring.outputs.protocol import (
    FinishedBatch,
    ScoredStudy,
    remove_file,
    remove_others,
)

FOLDER = "dicom"


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class DicomWriter:
    """Writes `dicom/<key>-sr.dcm`, `-gsps.dcm` and `-sc.dcm`."""

    out: Path  # output folder of the batch
    model: ScoringModel  # what the scores are made with
    kinds: tuple[str, ...]  # keys of KIND_OF
    clock: Callable[[], datetime] = _now  # gives the time at which results are made
    name: str = "dicom"
    needs_header: bool = True

    def path(self, key: str, kind: str) -> str:
        """Path of a result below the output folder."""
        return f"{FOLDER}/{key}-{kind}.dcm"

    def has_all(self, record: ImageRecord) -> bool:
        """Whether the results of every requested kind exist."""
        return all((self.out / self.path(record.key, kind)).is_file() for kind in self.kinds)

    def is_complete(self, record: ImageRecord) -> bool:
        """Whether all results exist, or the image cannot have any."""
        return bool(reason_without_results(record)) or self.has_all(record)

    def files(self, study: ScoredStudy) -> dict[str, bytes]:
        """The results of one image; none for a PNG or JPEG file."""
        record = study.record
        assert record.prediction is not None
        if reason_without_results(record) or study.header is None:
            return {}
        earlier = {kind: self._earlier(record.key, name) for name, kind in KIND_OF.items()}
        creation = ObjectCreation(
            self.clock(),
            study.content_digest,
            {kind: result for kind, result in earlier.items() if result is not None},
        )
        try:
            made = build_results(
                study.header,
                study.pixels,
                record.prediction,
                self.model.facts(),
                [KIND_OF[kind] for kind in self.kinds],
                record.warnings,
                creation,
            )
        except DicomError:
            return {}  # `finish` counts what is missing
        return {self.path(record.key, kind): file_bytes(made[KIND_OF[kind]]) for kind in self.kinds}

    def _earlier(self, key: str, kind: str) -> Dataset | None:
        """The result that an earlier run into this folder left, without its pixels."""
        try:
            path = self.out / self.path(key, kind)
            return pydicom.dcmread(path, stop_before_pixels=True) if path.is_file() else None
        except Exception:  # not written by this software, or damaged
            return None

    def finish(self, batch: FinishedBatch) -> dict[str, Any]:
        """Remove outdated results and kinds no longer requested; count the rest."""
        folder = self.out / FOLDER
        remove_others(folder, batch.referable_keys())
        for path in folder.glob("*-*.dcm"):
            if path.stem.partition("-")[2] in KIND_OF.keys() - set(self.kinds):
                remove_file(path)
        images = [record for record in batch.records if record.status == "scored"]
        missing = [record for record in images if not self.has_all(record)]
        reasons = Counter(
            reason_without_results(record) or "header_not_writable" for record in missing
        )
        return {
            "kinds": list(self.kinds),
            "images": len(images) - len(missing),
            "not_made": dict(sorted(reasons.items())),
        }


def reason_without_results(record: ImageRecord) -> str:
    """The reason why an image cannot have DICOM results; empty when it can."""
    if record.info.get("format") != "dicom":
        return "not_dicom"
    if UID_CONFLICT in record.warnings:
        return UID_CONFLICT
    if not record.info.get("has_instance_uid"):
        return "no_sop_instance"
    return "uid_malformed" if record.info.get("has_malformed_uid") else ""
