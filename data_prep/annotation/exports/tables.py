"""Consensus in public formats: the official RSNA csv with its class table, and COCO JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.annotation.agreement.consensus import Consensus, StudyTruth, truth_of
from data_prep.annotation.workspace.records import Box, Study
from data_prep.reports.findings.concepts import NIL, ConceptBase
from pneumonia.runtime.csv_tables import csv_text
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.label_table import LABEL_COLUMNS, LABEL_FRAME, LUNG_OPACITY
from pneumonia.runtime.model.boxes import xyxy_to_xywh

SUPER_NIL = "none"


def rsna_csv(truths: Mapping[str, StudyTruth], studies: Mapping[str, Study]) -> str:
    """The official label csv, boxes in the frame of 1024; studies in doubt are left out.

    Args:
        truths: image_id -> truth.
        studies: image_id -> study, for its size.
    """
    rows: list[Sequence[object]] = []
    for image_id, truth in sorted(truths.items()):
        if truth.reason:
            continue
        if not truth.boxes:
            rows.append((image_id, "", "", "", "", 0))
        study = studies[image_id]
        rows += [(image_id, *_frame_xywh(box, study), 1) for box in truth.boxes]
    return csv_text(LABEL_COLUMNS, rows)


def class_csv(truths: Mapping[str, StudyTruth]) -> str:
    """The official class csv: one row per box of a positive image, as in the challenge."""
    rows = [
        (image_id, truth.class_name)
        for image_id, truth in sorted(truths.items())
        if not truth.reason
        for _ in range(max(1, len(truth.boxes)) if truth.class_name == LUNG_OPACITY else 1)
    ]
    return csv_text(("patientId", "class"), rows)


def left_out_csv(truths: Mapping[str, StudyTruth]) -> str:
    """Csv of the studies left out of the csv files and COCO, with the reason for the doubt."""
    rows = [(image_id, truth.reason) for image_id, truth in sorted(truths.items()) if truth.reason]
    return csv_text(("image_id", "reason"), rows)


def _frame_xywh(box: Box, study: Study) -> list[str]:
    scale = np.array([LABEL_FRAME / study.width, LABEL_FRAME / study.height] * 2)
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64) * scale
    return [f"{round(float(side), 2):.10g}" for side in (x1, y1, x2 - x1, y2 - y1)]


def coco_json(
    consensus: Iterable[Consensus], studies: Mapping[str, Study], base: ConceptBase
) -> dict[str, Any]:
    """COCO's object detection format, every finding, boxes in pixels of the source.

    Categories are the codes in use, their supercategory is the group. Boxes of the minority and
    disputed ones are left out; `votes` of `readers` drew a box. Studies whose truth
    is in doubt (disputed, unusable) are left out as from the csv files: without a box they would
    look like negatives. `info.left_out` lists them with the reason.
    """
    doubts: list[dict[str, str]] = []
    chosen: list[Consensus] = []
    for item in sorted(consensus, key=lambda item: item.image_id):
        reason = truth_of(item, base).reason
        if reason:
            doubts.append({"file_name": studies[item.image_id].relative, "reason": reason})
        else:
            chosen.append(item)
    codes = sorted({box.code for item in chosen for box in item.kept})
    category = {code: number for number, code in enumerate(codes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, item in enumerate(chosen, 1):
        study = studies[item.image_id]
        images.append(
            {"id": number, "file_name": study.relative, "width": study.width,
             "height": study.height, "readers": len(item.readers), "source": item.source}
        )  # fmt: skip
        for box in item.kept:
            x, y, width, height = (float(v) for v in xyxy_to_xywh(np.array([box.box_xyxy]))[0])
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category[box.code],
                 "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0,
                 "segmentation": [], "assertion": box.assertion, "votes": len(box.annotators)}
            )  # fmt: skip
    return {
        "info": {"description": DISCLAIMER, "left_out": doubts},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": n, "name": code, "supercategory": _group(base, code)}
            for code, n in category.items()
        ],
    }


def _group(base: ConceptBase, code: str) -> str:
    return SUPER_NIL if code == NIL or code not in base else base.path(code)[0]
