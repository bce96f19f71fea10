"""report.html: the worklist to read; failures first, then the images, most suspicious first.

The pictures are files in `report/` beside the page and are loaded as they come into view: a page
with a thousand embedded pictures could not be opened. Both are made from image and model alone, so
that the same input gives the same bytes.
"""

import base64
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.report.page import html_environment
from evaluation.report.wording import point_name
from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.errors import DISCLAIMER, RESEARCH_ONLY
from pneumonia.runtime.image.preprocess import resize
from pneumonia.runtime.results.facts import (
    INDETERMINATE,
    NEGATIVE,
    POSITIVE,
    Finding,
    result_of,
)
from pneumonia.runtime.storage.bundle import MODEL_CARD, Bundle
from pneumonia.runtime.text import counted
from pneumonia.scoring.image.records import NOT_SCORED, ImageRecord, ScoringModel
from pneumonia.scoring.outputs.protocol import FinishedBatch, PictureWriter, ScoredStudy
from pneumonia.scoring.outputs.tables import FLAG_ORDER, worklist_order
from pneumonia.scoring.outputs.wording import reason_text, warning_text

PAGE = "report.html"
TEMPLATES = Path(__file__).parents[1] / "templates"
MAX_SIDE = 1024
QUALITY = 90
# Sections of the model card a reader of results needs; only these are printed.
CARD_FIRST = ("intended use", "limits", "failures")
MAX_ROWS = 1000  # of failures in the page; the manifest has all
# Signs beside the results, so that they differ on a grey print as well.
MARKS = {POSITIVE: "\u25b2", INDETERMINATE: "\u25c6", NOT_SCORED: "\u2715", NEGATIVE: "\u25cb"}
STYLES = {POSITIVE: "positive", INDETERMINATE: "indeterminate", NOT_SCORED: "failed"}


@dataclass(frozen=True)
class ReportWriter(PictureWriter):
    """Writes report.html and `report/<key>.jpg`."""

    name = "report"
    suffix = ".jpg"

    bundle: Bundle  # holds the model card and the operating points

    def files(self, study: ScoredStudy) -> dict[str, bytes]:
        """The picture, without boxes: the page draws them, so that they can be hidden."""
        if not self.is_wanted(study.record):
            return {}
        height, width = study.pixels.shape
        scale = min(1.0, MAX_SIDE / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        stream = io.BytesIO()
        picture = Image.fromarray(resize(study.pixels, *size))
        picture.save(stream, "JPEG", quality=QUALITY, comment=RESEARCH_ONLY)
        return {self.path(study.record.key): stream.getvalue()}

    def finish(self, batch: FinishedBatch) -> dict[str, Any]:
        """Write the page; remove pictures it does not show."""
        n_shown = self.keep_wanted(batch)
        write_text(str(self.out / PAGE), self.page(batch))
        return {"page": PAGE, "pictures": n_shown}

    def page(self, batch: FinishedBatch) -> str:
        """The page's text."""
        from markupsafe import Markup

        filters = {"reason": reason_text, "words": point_name, "counted": counted}
        environment = html_environment(TEMPLATES, filters)
        style, script = (
            (TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
        )
        return environment.get_template("report.html.j2").render(
            disclaimer=DISCLAIMER,
            style=Markup(style),
            style_hash=_digest(style),
            script=Markup(script),
            script_hash=_digest(script),
            max_side=MAX_SIDE,
            max_rows=MAX_ROWS,
            marks=MARKS,
            flag_order=FLAG_ORDER,
            model=self.model,
            caption=self.model.caption(),
            **self._contents(batch),
        )

    def _contents(self, batch: FinishedBatch) -> dict[str, Any]:
        records = batch.records
        others = [record for record in records if record.is_not_an_image]
        listed = [record for record in records if not record.is_not_an_image]
        ordered = worklist_order(listed, self.model)
        rows = [_row(rank, record, self.model) for rank, record in enumerate(ordered, start=1)]
        cases = [
            self._case(row, record)
            for row, record in zip(rows, ordered, strict=True)
            if record.status == "scored"
            and (self.is_wanted(record) or row["flag"] in (POSITIVE, INDETERMINATE))
        ]
        skipped = [record for record in records if record.status == "skipped"]
        reasons = Counter(record.reason for record in skipped)
        points, columns = _operating_points(self.bundle.operating_points)
        card = Path(self.bundle.file(MODEL_CARD)).read_text(encoding="utf-8", errors="replace")
        card_first, card_rest = card_parts(card)
        return {
            "n_files": len(records),
            "flags": Counter(row["flag"] for row in rows) | Counter(dict.fromkeys(MARKS, 0)),
            "failures": [record for record in ordered if record.status != "scored"],
            "others": others,
            "pending": sum(record.status == "pending" for record in records),
            "skipped": skipped,
            "skipped_reasons": sorted(reasons.items(), key=lambda item: (-item[1], item[0])),
            "rows": rows,
            "identifiers": any(record.identity for record in records),
            "cases": cases,
            "case_keys": {case["row"]["key"] for case in cases},
            "has_pictures": any(case["picture"] for case in cases),
            "points": points,
            "point_columns": columns,
            "versions": list(batch.document["versions"].items()),
            "measured_on": measured_on(batch.document.get("operating_points_selected_on") or {}),
            "card_first": card_first,
            "card_rest": card_rest,
        }

    def _case(self, row: dict[str, Any], record: ImageRecord) -> dict[str, Any]:
        assert record.prediction is not None
        spacing = record.info.get("spacing_mm")
        found = result_of(record.prediction, self.model.threshold, spacing, record.warnings)
        width, height = record.prediction.width, record.prediction.height
        font_px = max(width, height) / 32
        return {
            "row": row,
            "width": width,
            "height": height,
            "picture": self.path(record.key) if self.is_wanted(record) else "",
            "font_px": f"{font_px:.1f}",
            "has_mm": spacing is not None,
            "findings": [_finding(finding, font_px) for finding in found.findings],
        }


def _digest(text: str) -> str:
    """SHA-256 of a text in base64, as a content security policy writes it."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _row(rank: int, record: ImageRecord, model: ScoringModel) -> dict[str, Any]:
    """A row of the worklist."""
    flag = record.flag(model.threshold)
    found, score = record.above(model.threshold), record.max_score()
    notes = [warning_text(code) for code in record.warnings]
    if record.status != "scored":
        notes.insert(0, record.reason.replace("_", " "))
    return {
        "rank": rank,
        "key": record.key,
        "flag": flag,
        "mark": MARKS[flag],
        "style": STYLES.get(flag, "negative"),
        "score": "" if score is None else f"{score:.3f}",
        "regions": "" if found is None else len(found.scores),
        "name": record.file.image_id,
        "accession": record.identity.get("AccessionNumber", ""),
        "date": record.identity.get("StudyDate", ""),
        "view": record.info.get("view") or "",
        "study_key": record.study_key,
        "notes": "; ".join(notes),
    }


def _finding(finding: Finding, font_px: float) -> dict[str, Any]:
    """A box as the page draws and lists it."""
    x1, y1, x2, y2 = finding.box_xyxy
    made: dict[str, Any] = {
        "score": f"{finding.score:.2f}",
        "x": f"{x1:.1f}",
        "y": f"{y1:.1f}",
        "w": f"{x2 - x1:.1f}",
        "h": f"{y2 - y1:.1f}",
        "label_x": f"{x1 + font_px * 0.15:.1f}",
        # above the box, or inside where there is no room above
        "label_y": f"{y1 - font_px * 0.25 if y1 > 1.3 * font_px else y1 + font_px:.1f}",
        "edges": [f"{edge:.1f}" for edge in finding.box_xyxy],
    }
    if finding.size_mm is not None:
        made["width_mm"], made["height_mm"] = (f"{side:.1f}" for side in finding.size_mm)
    return made


def _operating_points(
    points: dict[str, dict[str, Any]],
) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Rows and columns of the table: every value of the bundle that is not a mapping."""
    columns: list[str] = []
    for point in points.values():
        columns += [
            name
            for name, value in point.items()
            if name not in columns and not isinstance(value, dict)
        ]
    rows = [
        (name, [_fact(point.get(column)) for column in columns]) for name, point in points.items()
    ]
    return rows, columns


def measured_on(selected_on: dict[str, Any]) -> str:
    """`42 images of 26 patients, 21 positive`; empty when the bundle does not say."""
    counts = [(selected_on.get("images"), "image"), (selected_on.get("patients"), "patient")]
    text = " of ".join(counted(count, noun) for count, noun in counts if isinstance(count, int))
    positive = selected_on.get("positive")
    return f"{text}, {positive} positive" if text and isinstance(positive, int) else text


def card_parts(card: str) -> tuple[str, str]:
    """The sections that explain results, and the others; a section starts with `## Title`."""
    _, *sections = re.split(r"(?m)^(?=## )", card)
    first = [text for text in sections if text[3:].lower().startswith(CARD_FIRST)]
    rest = [text for text in sections if text not in first]
    if not first:
        return card, ""
    return "".join(first), "".join(rest)


def _fact(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_fact(item) for item in value)
    return str(value)
