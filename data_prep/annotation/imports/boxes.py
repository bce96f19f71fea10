"""Boxes of RSNA csv and COCO files, brought to the pixels of the studies."""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data_prep.annotation.workspace.records import (
    ABNORMAL,
    BOX_ASSERTIONS,
    MIN_SIDE,
    NORMAL,
    Box,
    Study,
)
from data_prep.importing.box_files.coco import read_coco
from data_prep.importing.box_files.rows import Frame
from data_prep.reports.findings.concepts import NIL, ConceptBase
from data_prep.reports.findings.scope import PRESENT
from pneumonia.runtime.csv_tables import read_table
from pneumonia.runtime.label_table import LABEL_FRAME, read_label_rows
from pneumonia.runtime.label_table import LUNG_OPACITY as CLASS_OPACITY
from pneumonia.runtime.label_table import NORMAL as CLASS_NORMAL
from pneumonia.runtime.label_table import NOT_NORMAL as CLASS_NOT_NORMAL

_CLASS_VERDICTS = {CLASS_NORMAL: NORMAL, CLASS_NOT_NORMAL: ABNORMAL}


class ImportedBox(NamedTuple):
    """A box of a file: xyxy in pixels of the study, code of the concept base or NIL, assertion."""

    box_xyxy: Box
    code: str
    assertion: str = PRESENT


class ImportedStudies:
    """Boxes and verdicts that a file has for the studies of a project.

    Args:
        studies: The readable studies.

    Attributes:
        boxes: image_id -> boxes; empty for a study that the file lists without one.
        verdicts: image_id -> `normal`, `abnormal` or `unusable`, where the file states it.
        left_out: Number of rows that were not taken over, by reason.
    """

    def __init__(self, studies: Iterable[Study], base: ConceptBase) -> None:
        self.boxes: dict[str, list[ImportedBox]] = {}
        self.verdicts: dict[str, str] = {}
        self.left_out: Counter[str] = Counter()
        self._base = base
        self._by_name: dict[str, Study | None] = {}
        known = list(studies)
        for study in known:
            self._by_name.update({study.image_id: study, study.relative: study})
        for study in known:
            self._add_stem(Path(study.relative).stem, study)
        self._codes = {form.casefold(): code for form, code in base.all_aliases()}
        self._codes.update((node.casefold(), node) for node in base)
        if base.opacity:
            self._codes[CLASS_OPACITY.casefold()] = base.opacity[0]

    def _add_stem(self, stem: str, study: Study) -> None:
        """Register a file's stem as a name of its study; None when two files have the stem."""
        if self._by_name.setdefault(stem, study) != study:
            self._by_name[stem] = None

    def find(self, name: str) -> Study | None:
        """The study that a file names by image id, path or stem; None when unknown or ambiguous."""
        return self._by_name.get(name) or self._by_name.get(Path(name).stem)

    def study(self, name: str) -> Study | None:
        """Note that the file lists a study; None, and counted, when unknown or ambiguous."""
        found = self.find(name)
        if found is None:
            self.left_out["unknown_image"] += 1
        else:
            self.boxes.setdefault(found.image_id, [])
        return found

    def code(self, name: str) -> str:
        """The code of a class name, alias or node, whatever the case; else NIL."""
        code = self._codes.get(" ".join(name.replace("_", " ").split()).casefold())
        return code or self._codes.get(name.casefold(), NIL)

    def add(self, study: Study, box_xyxy: Iterable[float], code: str, assertion: str) -> None:
        """Add a box in pixels of the study; the part outside the image is cut off."""
        x1, y1, x2, y2 = box_xyxy
        box = max(0.0, x1), max(0.0, y1), min(float(study.width), x2), min(float(study.height), y2)
        finite = all(map(math.isfinite, (x1, y1, x2, y2)))
        if not finite or min(box[2] - box[0], box[3] - box[1]) < MIN_SIDE:
            self.left_out["box_without_area"] += 1
            return
        known = assertion if assertion in BOX_ASSERTIONS else PRESENT
        self.boxes[study.image_id].append(ImportedBox(box, code, known))


def import_rsna(data: bytes, into: ImportedStudies) -> None:
    """Read the official label csv, boxes in the frame of 1024.

    Raises:
        DataError: Not a csv of that kind.
    """
    opacity = into.code(CLASS_OPACITY)
    with _as_file(data) as path:
        for row in read_label_rows(path):
            if row.fault:
                into.left_out[row.fault] += 1
                continue
            study = into.study(row.image_id)
            if study is not None and row.box_xyxy is not None:
                box = _scaled(row.box_xyxy, (LABEL_FRAME, LABEL_FRAME), study)
                into.add(study, box, opacity, PRESENT)


def import_classes(data: bytes, into: ImportedStudies) -> None:
    """Read the official class csv: verdicts of the studies without an opacity.

    Raises:
        DataError: Not a csv of that kind.
    """
    with _as_file(data) as path:
        for _, row in read_table(path, ("patientId", "class")):
            study = into.study(row["patientId"].strip())
            verdict = _CLASS_VERDICTS.get(row["class"].strip())
            if study is not None and verdict:
                into.verdicts[study.image_id] = verdict


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """The bytes as a file, for readers that need a path."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(data)
        file.flush()
        yield file.name


def import_coco(data: bytes, into: ImportedStudies) -> None:
    """Read COCO's detection format; boxes are scaled where the file gives another image size.

    Raises:
        DataError: Not COCO.
    """
    with _as_file(data) as path:
        rows = read_coco(Path(path)).rows
    for row in rows:
        if row.fault:
            into.left_out[row.fault] += 1
        elif row.box_xyxy is None:
            into.study(row.image)
        elif study := into.find(row.image):
            size = (study.width, study.height)
            box = _scaled(row.box_xyxy, row.frame or size, study)
            into.add(study, box, into.code(row.category), row.assertion)


def _scaled(box_xyxy: Sequence[float], frame: Frame, study: Study) -> tuple[float, ...]:
    """A box from a frame of this width and height to pixels of the study."""
    scales = (study.width / frame[0], study.height / frame[1]) * 2
    return tuple(side * scale for side, scale in zip(box_xyxy, scales, strict=True))
