"""Consensus of several readers: vote on boxes and findings, fuse boxes, apply adjudications.

* Boxes of different readers belong together when they overlap; a reader has one box in a group.
* A group counts when more than half of the readers of the study drew it. Exactly half is a
  dispute, which only an adjudication settles.
* The finding is the one with most votes; among equals, their deepest common ancestor, else NIL.
  A box whose finding is tied still counts as an opacity if more than half of its readers chose an
  opacity: pneumonia and consolidation are the same to a detector.
* The fused box is the median of each edge: with three readers it is robust to one outlier.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from data_prep.annotation.agreement.pairwise import path_of
from data_prep.annotation.workspace.records import (
    ABNORMAL,
    ADJUDICATION,
    NORMAL,
    OPACITY,
    UNUSABLE,
    Annotation,
    Box,
    Reading,
    is_opacity,
)
from data_prep.reports.findings.concepts import NIL, ConceptBase
from data_prep.reports.findings.scope import PRESENT, UNCERTAIN
from pneumonia.runtime.label_table import LUNG_OPACITY as CLASS_OPACITY
from pneumonia.runtime.label_table import NORMAL as CLASS_NORMAL
from pneumonia.runtime.label_table import NOT_NORMAL as CLASS_NOT_NORMAL
from pneumonia.runtime.model.boxes import as_boxes, iou_matrix

GROUP_IOU = 0.4  # the challenge's lowest threshold; readers' edges differ by about 1 cm
SINGLE, MAJORITY, ADJUDICATED = "single", "majority", "adjudicated"


class Vote(NamedTuple):
    """The outcome of a vote."""

    code: str  # winning code; on a tie the deepest common ancestor of the best codes, or NIL
    tied: bool  # whether several codes share the highest number of votes


class ConsensusBox(NamedTuple):
    """A fused box of one group of overlapping reader boxes."""

    box_xyxy: Box  # median of each edge, pixels of the source
    code: str  # see `vote_code`
    assertion: str  # `present` when more than half of its readers say so, else `uncertain`
    annotators: tuple[str, ...]  # names of the readers who drew it
    codes: tuple[str, ...]  # code that each of them gave it, in the order of `annotators`
    n_readers: int  # number of readers who finished the study; 1 for an adjudication
    tied: bool = False  # whether the vote on the finding was tied

    @property
    def kept(self) -> bool:
        """Whether more than half of the readers drew it."""
        return 2 * len(self.annotators) > self.n_readers

    @property
    def best(self) -> tuple[str, ...]:
        """The findings with most votes; several when the vote is tied."""
        return best_codes(self.codes)

    @property
    def disputed(self) -> bool:
        """Whether exactly half of the readers drew it."""
        return 2 * len(self.annotators) == self.n_readers


class Consensus(NamedTuple):
    """Combined result of all finished readings of one study."""

    image_id: str  # image id of the study
    boxes: tuple[ConsensusBox, ...]  # one box per group, including groups that only a minority drew
    verdict: str  # majority verdict; empty on a tie
    source: str  # `single`, `majority` or `adjudicated`
    readers: tuple[str, ...]  # names of the readers who finished the study

    @property
    def kept(self) -> tuple[ConsensusBox, ...]:
        """The boxes of the majority."""
        return tuple(box for box in self.boxes if box.kept)


class StudyTruth(NamedTuple):
    """Training target of one study."""

    class_name: str  # `Lung Opacity`, `No Lung Opacity / Not Normal`, `Normal`; empty when in doubt
    boxes: tuple[Box, ...]  # xyxy boxes of opacities, pixels of the source
    # code for why the truth is in doubt, for example `finding_tied`; empty otherwise
    reason: str = ""


def common_ancestor(base: ConceptBase, codes: Sequence[str]) -> str:
    """The deepest node above (or equal to) all codes; NIL when there is none."""
    found = NIL
    for step in zip(*(path_of(base, code) for code in codes), strict=False):
        if len(set(step)) != 1:
            break
        found = step[0]
    return found


def best_codes(codes: Sequence[str]) -> tuple[str, ...]:
    """The codes with most votes, in alphabetical order; several on a tie."""
    counts = Counter(codes)
    most = max(counts.values())
    return tuple(sorted(code for code, n in counts.items() if n == most))


def vote_code(base: ConceptBase, codes: Sequence[str]) -> Vote:
    """Majority vote; a tie goes to the deepest common ancestor of the best."""
    best = best_codes(codes)
    if len(best) == 1:
        return Vote(best[0], False)
    return Vote(common_ancestor(base, best), True)


def fuse_boxes(boxes: Sequence[Box]) -> Box:
    """Median of each edge of xyxy boxes; never without area when none of them is."""
    x1, y1, x2, y2 = (float(median(side)) for side in zip(*boxes, strict=True))
    return x1, y1, x2, y2


def group_boxes(readings: Sequence[Reading]) -> list[list[tuple[str, Annotation]]]:
    """Group overlapping boxes of several readers, joining pairs by descending IoU.

    Args:
        readings: Readings of one study, one per reader.

    Returns:
        Groups of (annotator, annotation), at most one of each annotator, from left to right.
    """
    items = [(r.annotator, item) for r in readings for item in r.annotations]
    boxes = as_boxes([item.box_xyxy for _, item in items])
    table = iou_matrix(boxes, boxes)
    group_of = list(range(len(items)))
    members = {i: [i] for i in range(len(items))}
    pairs = sorted(
        (-float(table[i, j]), i, j)
        for i in range(len(items))
        for j in range(i + 1, len(items))
        if items[i][0] != items[j][0] and table[i, j] >= GROUP_IOU
    )
    for _, i, j in pairs:
        a, b = group_of[i], group_of[j]
        names_a = {items[k][0] for k in members[a]}
        if a == b or names_a & {items[k][0] for k in members[b]}:
            continue
        members[a] += members.pop(b)
        for k in members[a]:
            group_of[k] = a
    groups = [[items[k] for k in sorted(chosen)] for chosen in members.values()]
    return sorted(groups, key=lambda group: fuse_boxes([item.box_xyxy for _, item in group]))


def consensus_of(
    readings: Sequence[Reading],
    base: ConceptBase,
    adjudication: Reading | None = None,
) -> Consensus | None:
    """Consensus of the finished readings of one study.

    Args:
        readings: Readings of one study; unfinished ones are ignored.
        adjudication: Reading of the adjudicator; when finished, it replaces the vote.

    Returns:
        None when no reader has finished.
    """
    finished = sorted((r for r in readings if r.finished), key=lambda r: r.annotator)
    names = tuple(r.annotator for r in finished)
    if adjudication is not None and adjudication.finished:
        judged = [
            ConsensusBox(a.box_xyxy, a.code, a.assertion, (ADJUDICATION,), (a.code,), 1)
            for a in adjudication.annotations
        ]
        image_id = adjudication.image_id
        return Consensus(image_id, tuple(judged), adjudication.verdict, ADJUDICATED, names)
    if not finished:
        return None
    boxes = tuple(_consensus_box(group, len(finished), base) for group in group_boxes(finished))
    verdicts = Counter(r.verdict for r in finished).most_common()
    tied = len(verdicts) > 1 and verdicts[0][1] == verdicts[1][1]
    source = SINGLE if len(finished) == 1 else MAJORITY
    return Consensus(finished[0].image_id, boxes, "" if tied else verdicts[0][0], source, names)


def _consensus_box(
    group: Sequence[tuple[str, Annotation]], n_readers: int, base: ConceptBase
) -> ConsensusBox:
    codes = tuple(item.code for _, item in group)
    vote = vote_code(base, codes)
    sure = sum(item.assertion == PRESENT for _, item in group)
    return ConsensusBox(
        box_xyxy=fuse_boxes([item.box_xyxy for _, item in group]),
        code=vote.code,
        assertion=PRESENT if 2 * sure > len(group) else UNCERTAIN,
        annotators=tuple(name for name, _ in group),
        codes=codes,
        n_readers=n_readers,
        tied=vote.tied,
    )


def truth_of(consensus: Consensus, base: ConceptBase) -> StudyTruth:
    """Training target of a study; a doubtful consensus gives no class, no boxes and a reason."""
    reason = _doubt(consensus, base)
    if reason:
        return StudyTruth("", (), reason)
    boxes = tuple(box.box_xyxy for box in consensus.kept if shows_opacity(box, base))
    if boxes:
        return StudyTruth(CLASS_OPACITY, boxes)
    normal = consensus.verdict == NORMAL and not consensus.kept
    return StudyTruth(CLASS_NORMAL if normal else CLASS_NOT_NORMAL, ())


def shows_opacity(box: ConsensusBox, base: ConceptBase) -> bool:
    """Whether a box counts as opacity: by its code or, on a tie, by the majority of its codes."""
    opaque = sum(is_opacity(base, code) for code in box.codes)
    return is_opacity(base, box.code) or (box.tied and 2 * opaque > len(box.codes))


def _doubt(consensus: Consensus, base: ConceptBase) -> str:
    def called(box: ConsensusBox) -> bool:
        return any(is_opacity(base, code) for code in box.codes)

    if consensus.verdict == UNUSABLE:
        return "unusable"
    if any(box.disputed and called(box) for box in consensus.boxes):
        return "box_disputed"
    if any(box.tied and called(box) and not shows_opacity(box, base) for box in consensus.kept):
        return "finding_tied"
    opacities = [box for box in consensus.kept if shows_opacity(box, base)]
    if any(box.assertion == UNCERTAIN for box in opacities):
        return "opacity_uncertain"
    if not consensus.verdict:
        return "verdict_tied"
    if consensus.verdict == OPACITY and not opacities:
        return "no_common_box"
    if consensus.verdict in (NORMAL, ABNORMAL) and opacities:
        return "verdict_tied"
    return ""
