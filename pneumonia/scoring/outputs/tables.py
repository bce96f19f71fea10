"""The tables of a run: worklist.csv for people, manifest.jsonl and run.json for machines."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pneumonia.runtime.csv_tables import escape_name
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.results.facts import INDETERMINATE, NEGATIVE, POSITIVE
from pneumonia.scoring.image.records import NOT_SCORED, STATUSES, ImageRecord, ScoringModel

# Column of worklist.csv -> its cell for (rank, record, model).
WORKLIST: dict[str, Callable[[int, ImageRecord, ScoringModel], object]] = {
    "rank": lambda rank, record, model: rank,
    "study_key": lambda rank, record, model: record.study_key,
    "key": lambda rank, record, model: record.key,
    "image_id": lambda rank, record, model: record.file.image_id,
    "accession": lambda rank, record, model: record.identity.get("AccessionNumber", ""),
    "study_date": lambda rank, record, model: record.identity.get("StudyDate", ""),
    "view": lambda rank, record, model: record.info.get("view") or "",
    "flag": lambda rank, record, model: record.flag(model.threshold),
    "max_score": lambda rank, record, model: _score_text(record.max_score()),
    "boxes": lambda rank, record, model: _n_boxes(record, model),
    "threshold_name": lambda rank, record, model: model.threshold_name,
    "threshold": lambda rank, record, model: f"{model.threshold:.4f}",
    "model": lambda rank, record, model: model.name,
    "model_version": lambda rank, record, model: model.version,
    "model_hash": lambda rank, record, model: model.model_hash[:12],
    "status": lambda rank, record, model: record.status,
    "reason": lambda rank, record, model: record.reason,
    "warnings": lambda rank, record, model: " ".join(record.warnings),
    "disclaimer": lambda rank, record, model: DISCLAIMER,
}
# Listed first, because an image that could not be scored is not a negative.
FLAG_ORDER = (POSITIVE, INDETERMINATE, NOT_SCORED, NEGATIVE)


def worklist_order(records: Sequence[ImageRecord], model: ScoringModel) -> list[ImageRecord]:
    """The records of the worklist, most suspicious first; skipped files are not in it."""
    return sorted(
        (record for record in records if record.status != "skipped"),
        key=lambda record: (
            FLAG_ORDER.index(record.flag(model.threshold)),
            -(record.max_score() or 0.0),
            record.file.relative,
        ),
    )


def worklist_text(records: Sequence[ImageRecord], model: ScoringModel) -> str:
    """worklist.csv: one row per image (skipped files are in the manifest only)."""
    rows = worklist_order(records, model)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(WORKLIST)
    for rank, record in enumerate(rows, start=1):
        cells = (cell(rank, record, model) for cell in WORKLIST.values())
        writer.writerow([escape_name(str(cell)) for cell in cells])
    return stream.getvalue()


def _score_text(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def _n_boxes(record: ImageRecord, model: ScoringModel) -> int | str:
    found = record.above(model.threshold)
    return "" if found is None else len(found.scores)


def manifest_text(records: Sequence[ImageRecord], model: ScoringModel) -> str:
    """manifest.jsonl: one line per file found, in the order found."""
    lines = []
    caption = model.caption()
    for record in records:
        line: dict[str, Any] = {
            "path": record.file.relative,
            "status": record.status,
            "reason": record.reason,
            "image_id": record.file.image_id,
            "key": record.key,
            "sha256": record.sha256,
            "bytes": record.n_bytes,
            "reused": record.reused,
            "unchecked": record.is_unchecked,
            "seconds": round(sum(record.timings_ms.values()) / 1000, 4),
            "warnings": list(record.warnings),
            "model": caption,
            "disclaimer": DISCLAIMER,
        }
        if record.file.detail:
            line["detail"] = record.file.detail
        if record.reason == "not_frontal_chest":
            line.update({key: record.info[key] for key in ("modality", "view", "body_part")})
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False))
    return "".join(line + "\n" for line in lines)


def totals(records: Sequence[ImageRecord], model: ScoringModel) -> dict[str, Any]:
    """Counts by status, by flag, by reason."""
    statuses = Counter(record.status for record in records)
    flags = Counter(record.flag(model.threshold) for record in records if record.status == "scored")
    return {
        "files": len(records),
        "statuses": {status: statuses[status] for status in STATUSES},
        "flags": {flag: flags[flag] for flag in (POSITIVE, INDETERMINATE, NEGATIVE)},
        "reasons": dict(sorted(Counter(r.reason for r in records if r.reason).items())),
        "reused": sum(record.reused for record in records),
        "unchecked": sum(record.is_unchecked for record in records),
    }
