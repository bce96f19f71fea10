"""Boxes of a DICOM structured report: regions (SCOORD) of its measurement groups (TID 1500)."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence

import pydicom
from pydicom.dataset import Dataset

from data_prep.annotation.exports.structured_report import POSSIBLE, VERDICTS, finding_code
from data_prep.annotation.imports.boxes import ImportedStudies
from data_prep.annotation.workspace.records import Study
from data_prep.reports.findings.concepts import NIL, ConceptBase
from data_prep.reports.findings.scope import PRESENT, UNCERTAIN
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.results import codes

_MOST_ITEMS = 100_000


def import_report(
    data: bytes, into: ImportedStudies, studies: dict[str, Study], base: ConceptBase
) -> None:
    """Read a structured report.

    Args:
        studies: SOP instance UID -> study.

    Raises:
        DataError: Not a structured report, or it refers to no image of the project.
    """
    report = _read(data)
    items = list(_walk(report))
    seen = {uid for item in items for uid in _references(item)} | set(_evidence(report))
    named = {studies[uid].image_id for uid in seen if uid in studies}
    if not named:
        raise DataError("Report refers to no image of this project")
    by_code = {finding_code(node).value: node for node in (*base, NIL)}
    for image_id in named:
        into.study(image_id)
    for item in items:
        if _concept(item) == codes.GROUP.value:
            _add_group(item, into, studies, by_code)
        verdict = {code.value: name for name, code in VERDICTS.items() if name}.get(_value(item))
        if _concept(item) == "VERDICT" and verdict and len(named) == 1:
            into.verdicts[next(iter(named))] = verdict


def _read(data: bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values of the file
        try:
            report = pydicom.dcmread(io.BytesIO(data))
            if report.get("Modality") != "SR" or "ContentSequence" not in report:
                raise ValueError
        except Exception:  # parsers of foreign files may raise any exception
            raise DataError("File is not a DICOM structured report") from None
    return report


def _walk(item: Dataset) -> Iterator[Dataset]:
    """All content items below one, without recursion."""
    pending = list(item.get("ContentSequence") or ())
    count = 0
    while pending:
        count += 1
        if count > _MOST_ITEMS:
            raise DataError("Report has too many items", f"at most {_MOST_ITEMS}")
        found = pending.pop(0)
        yield found
        pending += list(found.get("ContentSequence") or ())


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or ()
    return str(names[0].get("CodeValue", "")) if names else ""


def _value(item: Dataset) -> str:
    values = item.get("ConceptCodeSequence") or ()
    return str(values[0].get("CodeValue", "")) if values else ""


def _references(item: Dataset) -> list[str]:
    return [
        str(reference.get("ReferencedSOPInstanceUID", ""))
        for reference in item.get("ReferencedSOPSequence") or ()
    ]


def _evidence(report: Dataset) -> Iterator[str]:
    for study in report.get("CurrentRequestedProcedureEvidenceSequence") or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            yield from _references(series)


def _add_group(
    group: Dataset, into: ImportedStudies, studies: dict[str, Study], by_code: dict[str, str]
) -> None:
    inner = list(_walk(group))
    code, assertion = NIL, PRESENT
    for item in inner:
        if _concept(item) == codes.FINDING.value and "ConceptCodeSequence" in item:
            meaning = str(item.ConceptCodeSequence[0].get("CodeMeaning", ""))
            code = by_code.get(_value(item)) or into.code(meaning)
        if _value(item) == POSSIBLE.value:
            assertion = UNCERTAIN
    for item in inner:
        if item.get("ValueType") != "SCOORD":
            continue
        uids = [uid for below in _walk(item) for uid in _references(below)]
        study = next((studies[uid] for uid in uids if uid in studies), None)
        box = _bounds(str(item.get("GraphicType", "")), item.get("GraphicData") or ())
        if study is None or box is None:
            into.left_out["unknown_image" if study is None else "region_without_area"] += 1
        else:
            into.add(study, box, code, assertion)


def _bounds(kind: str, data: Sequence[float]) -> tuple[float, float, float, float] | None:
    """Bounding box of a region's points (column, row); None for what has no area."""
    xs, ys = [float(v) for v in data[0::2]], [float(v) for v in data[1::2]]
    if kind == "CIRCLE" and len(xs) == len(ys) == 2:
        radius = math.hypot(xs[1] - xs[0], ys[1] - ys[0])
        return xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
    if kind == "ELLIPSE" and len(xs) == len(ys) == 4:
        cx, cy = (xs[0] + xs[1]) / 2, (ys[0] + ys[1]) / 2
        half_x = math.hypot(xs[1] - xs[0], xs[3] - xs[2]) / 2
        half_y = math.hypot(ys[1] - ys[0], ys[3] - ys[2]) / 2
        return cx - half_x, cy - half_y, cx + half_x, cy + half_y
    if kind == "POLYLINE" and len(xs) == len(ys) >= 3:
        return min(xs), min(ys), max(xs), max(ys)
    return None
