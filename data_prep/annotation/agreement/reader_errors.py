"""Each reader against the consensus, and agreement over box groups."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from data_prep.annotation.agreement.consensus import GROUP_IOU, SINGLE, Consensus, group_boxes
from data_prep.annotation.agreement.pairwise import (
    boxes_of,
    fleiss_kappa,
    label_at,
    match_boxes,
    path_of,
)
from data_prep.annotation.workspace.records import Reading
from data_prep.reports.findings.concepts import ConceptBase

NO_BOX = "(no box)"


class ReaderErrors(NamedTuple):
    """One annotator against the consensus of studies with several readers or an adjudication."""

    annotator: str  # name of the annotator
    n_studies: int  # studies compared
    n_consensus: int  # boxes of the consensus
    hits: int  # consensus boxes that the annotator drew
    missed: int  # consensus boxes that the annotator did not draw
    extra: int  # boxes of the annotator that match no consensus box
    mean_iou: float | None  # mean IoU of the hits
    # number of hits with another code, by the first hierarchy level that differs
    wrong_at: tuple[int, ...]
    # (annotator's finding, consensus' finding, hits), the most frequent first
    confused: tuple[tuple[str, str, int], ...]
    wrong_verdict: int  # studies whose verdict differs from the consensus


def reader_errors(
    annotator: str,
    pairs: Iterable[tuple[Reading, Consensus]],
    base: ConceptBase,
) -> ReaderErrors:
    """Count the differences between one annotator and the consensus.

    Args:
        pairs: The annotator's readings with the consensus of the same study. Consensus of a single
            reader is left out: a single reader always agrees with itself.
    """
    n_studies = n_consensus = extra = wrong_verdict = 0
    overlaps: list[float] = []
    wrong: Counter[tuple[str, str]] = Counter()
    for reading, consensus in pairs:
        if consensus.source == SINGLE or not reading.finished:
            continue
        truth = consensus.kept
        matches = match_boxes(
            boxes_of(reading.annotations), [box.box_xyxy for box in truth], GROUP_IOU
        )
        n_studies += 1
        n_consensus += len(truth)
        extra += len(reading.annotations) - len(matches)
        overlaps += [match.iou for match in matches]
        wrong_verdict += bool(consensus.verdict) and reading.verdict != consensus.verdict
        for match in matches:
            own, box = reading.annotations[match.a].code, truth[match.b]
            if own not in box.best:  # on a tie each of the best findings counts as right
                wrong[own, box.code] += 1
    levels: Counter[int] = Counter()
    for (own, common), n in wrong.items():
        levels[departs_at(base, own, common) or 0] += n
    return ReaderErrors(
        annotator=annotator,
        n_studies=n_studies,
        n_consensus=n_consensus,
        hits=len(overlaps),
        missed=n_consensus - len(overlaps),
        extra=extra,
        mean_iou=sum(overlaps) / len(overlaps) if overlaps else None,
        wrong_at=tuple(levels[level] for level in range(max(levels, default=-1) + 1)),
        confused=tuple(
            (*pair, n) for pair, n in sorted(wrong.items(), key=lambda w: (-w[1], w[0]))
        ),
        wrong_verdict=wrong_verdict,
    )


def departs_at(base: ConceptBase, code: str, truth: str) -> int | None:
    """The first hierarchy level (0 = group) at which two codes differ; None for equal codes."""
    if code == truth:
        return None
    a, b = path_of(base, code), path_of(base, truth)
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return same


def finding_fleiss(
    studies: Mapping[str, Sequence[Reading]], base: ConceptBase, level: int
) -> float | None:
    """Fleiss' kappa of findings over box groups; a reader without a box counts as `(no box)`.

    Args:
        studies: image_id -> readings.
        level: Depth to which codes are cut, 0 = group.
    """
    items = []
    for readings in studies.values():
        finished = [r for r in readings if r.finished]
        if len(finished) < 2:
            continue
        for group in group_boxes(finished):
            labels = [label_at(base, item.code, level) for _, item in group]
            items.append(labels + [NO_BOX] * (len(finished) - len(group)))
    return fleiss_kappa(items)
