"""The tables of a run: worklist.csv for people, manifest.jsonl and run.json for machines."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pneumonia.runtime.csv_tables import escape_name
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.results.facts import INDETERMINATE, NEGATIVE, POSITIVE
from pneumonia.scoring.image.records import NOT_SCORED, STATUSES, ImageRecord, Model

WORKLIST_COLUMNS = (
    "rank",
    "study_key",
    "key",
    "image_id",
    "accession",
    "study_date",
    "view",
    "flag",
    "max_score",
    "boxes",
    "threshold_name",
    "threshold",
    "model",
    "model_version",
    "model_hash",
    "status",
    "reason",
    "warnings",
    "disclaimer",
)
# Listed first, because an image that could not be scored is not a negative.
FLAG_ORDER = (POSITIVE, INDETERMINATE, NOT_SCORED, NEGATIVE)


def worklist_order(records: Sequence[ImageRecord], model: Model) -> list[ImageRecord]:
    """The records of the worklist, most suspicious first; skipped files are not in it."""
    return sorted(
        (record for record in records if record.status != "skipped"),
        key=lambda record: (
            FLAG_ORDER.index(record.flag(model.threshold)),
            -(record.max_score() or 0.0),
            record.file.relative,
        ),
    )


def worklist_text(records: Sequence[ImageRecord], model: Model) -> str:
    """worklist.csv: one row per image (skipped files are in the manifest only)."""
    rows = worklist_order(records, model)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(WORKLIST_COLUMNS)
    for rank, record in enumerate(rows, start=1):
        writer.writerow([escape_name(str(cell)) for cell in _worklist_row(rank, record, model)])
    return stream.getvalue()


def _worklist_row(rank: int, record: ImageRecord, model: Model) -> tuple[object, ...]:
    found = record.above(model.threshold)
    score = record.max_score()
    return (
        rank,
        record.study_key,
        record.key,
        record.file.image_id,
        record.identity.get("AccessionNumber", ""),
        record.identity.get("StudyDate", ""),
        record.info.get("view") or "",
        record.flag(model.threshold),
        "" if score is None else f"{score:.4f}",
        "" if found is None else len(found.scores),
        model.threshold_name,
        f"{model.threshold:.4f}",
        model.name,
        model.version,
        model.model_hash[:12],
        record.status,
        record.reason,
        " ".join(record.warnings),
        DISCLAIMER,
    )


def manifest_text(records: Sequence[ImageRecord], model: Model) -> str:
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


def totals(records: Sequence[ImageRecord], model: Model) -> dict[str, Any]:
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
