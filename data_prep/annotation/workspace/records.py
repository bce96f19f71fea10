"""Records of an annotation project: studies, annotators, boxes with a finding, readings.

The web application creates them and the store saves them; agreement, consensus and exports depend
on these records only.
"""

import math
import re
import unicodedata
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from data_prep.reports.findings.concepts import NIL, ConceptBase
from data_prep.reports.findings.scope import PRESENT, UNCERTAIN
from pneumonia.runtime.errors import DataError

ANNOTATOR, MANAGER = "annotator", "manager"
ADJUDICATION = "adjudication"  # annotator of the readings that settle a dispute
BOX_ASSERTIONS = (PRESENT, UNCERTAIN)  # an absent finding has no box
REPEAT = "#2"  # suffix of the annotator of a second reading; names contain no `#`
OPACITY, ABNORMAL, NORMAL, UNUSABLE = "opacity", "abnormal", "normal", "unusable"
VERDICTS = (OPACITY, ABNORMAL, NORMAL, UNUSABLE)
DRAWN = "drawn"
MIN_SIDE = 2.0  # pixels of the source; smaller boxes are refused as accidental
MAX_BOXES = 200
MAX_COMMENT = 2000  # characters
MAX_MENTIONS = 1000  # decisions on a report
_NAME = re.compile(r"[^\W_][\w .'\u2019-]{0,39}")  # José, O'Brien

Box = tuple[float, float, float, float]


class Study(NamedTuple):
    """A radiograph to be read, or a file that cannot be read as one."""

    key: int  # number in this workspace; used in URLs and logs, which must not contain file names
    image_id: str  # name of the image in every export
    relative: str  # path below the studies' folder
    width: int = 0  # columns of the source image in pixels
    height: int = 0  # rows of the source image in pixels
    reason: str = ""  # code for why it cannot be read; empty when it can


class Annotator(NamedTuple):
    """A person who may log in."""

    name: str  # chosen by the site; appears in exports
    role: str = ANNOTATOR  # `annotator` or `manager`


class Annotation(NamedTuple):
    """One box with its finding."""

    annotation_id: str  # unique within a reading
    box_xyxy: Box  # edges in pixels of the source image
    code: str = ""  # node of the concept base, NIL, or empty while it has no type yet
    coarse: str = ""  # the coarse type that was chosen first; empty before that
    assertion: str = PRESENT  # `present` or `uncertain`
    # `drawn`, `model:N` (N-th box of the model) or `reader:NAME:ID` (adjudication)
    origin: str = DRAWN
    # characters `[start, end)` of the report from which the code was taken
    mention: tuple[int, int] | None = None
    changed_at: str = ""  # UTC, ISO 8601


class MentionLink(NamedTuple):
    """A reader's decision on one mention of the report."""

    start: int  # first character of the mention in the report
    end: int  # one past the last
    code: str  # node of the concept base, or NIL for words that denote no finding
    assertion: str = PRESENT  # `present`, `uncertain`, `absent` (the report denies it) or `prior`

    @property
    def span(self) -> tuple[int, int]:
        """Characters `[start, end)` of the report."""
        return self.start, self.end


class Reading(NamedTuple):
    """One annotator's reading of one study."""

    image_id: str  # image id of the study
    annotator: str  # name of the annotator
    annotations: tuple[Annotation, ...] = ()  # boxes
    verdict: str = ""  # one of VERDICTS once the reader has finished; empty before
    rejected: tuple[str, ...] = ()  # origins of rejected suggestions, such as `model:0`
    active_s: float = 0.0  # seconds of active work, without pauses
    changed_at: str = ""  # UTC, ISO 8601
    comment: str = ""  # free text about the study
    # decisions on mentions of the report; the linker's hold for all others
    mentions: tuple[MentionLink, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the reader has given a verdict."""
        return self.verdict != ""


def checked_name(name: str) -> str:
    """Check an annotator's name and return it.

    Raises:
        DataError: Empty, longer than 40 characters, with characters that are not allowed, or
            reserved.
    """
    name = unicodedata.normalize("NFC", " ".join(name.split()))
    if not _NAME.fullmatch(name) or name.casefold() in (ADJUDICATION, MANAGER):
        raise DataError(
            "Annotator's name cannot be used",
            expected="1 to 40 letters, digits, blanks or . _ - ', beginning with a letter or digit",
        )
    return name


def is_opacity(base: ConceptBase, code: str) -> bool:
    """Whether a code is a lung opacity in the sense of the RSNA challenge."""
    return code in base and base.means_opacity(code)


def verdict_of(base: ConceptBase, annotations: tuple[Annotation, ...], chosen: str) -> str:
    """Verdict implied by the boxes; without boxes, the verdict chosen by the reader."""
    if any(is_opacity(base, item.code) for item in annotations):
        return OPACITY
    return ABNORMAL if annotations else chosen


def check_reading(reading: Reading, study: Study, base: ConceptBase) -> None:
    """Check that a reading is consistent.

    Raises:
        DataError: A box outside the image or without area, an unknown code, assertion or verdict,
            an id twice, too many boxes, or a verdict that the boxes contradict.
    """
    ids = [item.annotation_id for item in reading.annotations]
    if len(ids) > MAX_BOXES or len(set(ids)) != len(ids):
        raise DataError("Reading has too many boxes, or one of them twice", found=str(len(ids)))
    for item in reading.annotations:
        _check_annotation(item, study, base)
    if not reading.verdict:
        return
    if reading.verdict not in VERDICTS:
        raise DataError("Unknown verdict", ", ".join(VERDICTS), repr(reading.verdict[:40]))
    if any(not item.code for item in reading.annotations):
        raise DataError("A box has no finding yet", fix="Choose one, or NIL, or delete the box")
    implied = verdict_of(base, reading.annotations, reading.verdict)
    if implied != reading.verdict or (implied == OPACITY and not reading.annotations):
        raise DataError("Verdict contradicts the boxes", found=repr(reading.verdict))


def _check_annotation(item: Annotation, study: Study, base: ConceptBase) -> None:
    x1, y1, x2, y2 = item.box_xyxy
    inside = min(x1, y1) >= 0 and x2 <= study.width and y2 <= study.height
    if not all(map(math.isfinite, item.box_xyxy)) or not inside:
        raise DataError("Box lies outside the image", f"0..{study.width}, 0..{study.height}")
    if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
        raise DataError("Box has no area", expected=f"sides of {MIN_SIDE:g} pixels or more")
    if item.code and item.code != NIL and item.code not in base:
        raise DataError("Concept is not in the base", found=repr(item.code[:80]))
    if item.coarse and item.coarse not in base.roots():
        raise DataError("Coarse type is not in the base", found=repr(item.coarse[:80]))
    if item.assertion not in BOX_ASSERTIONS:
        raise DataError("Unknown assertion", ", ".join(BOX_ASSERTIONS), repr(item.assertion[:40]))


ANNOTATION = TypeAdapter(Annotation)


def annotation_json(item: Annotation) -> dict[str, Any]:
    """An annotation as a JSON object for database and page; ANNOTATION validates one."""
    return {**item._asdict(), "box_xyxy": list(item.box_xyxy)}
