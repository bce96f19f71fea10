"""Reader agreement: percent, Cohen's and Fleiss' kappa, boxes by IoU, per hierarchy level.

Source: Cohen, Educ Psychol Meas 20 (1960) 37-46; Fleiss, Psychol Bull 76 (1971) 378-382. A figure
that is undefined for its data (no items, or expected agreement 1) is None, never 0 or 1.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from data_prep.annotation.workspace.records import Annotation, Box, Reading
from data_prep.reports.findings.concepts import ConceptBase
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.model.boxes import as_boxes, iou_matrix

IOU_THRESHOLD = 0.5
LEVELS = 5  # group, heading, and the first three qualifiers

Label = Hashable


class BoxMatch(NamedTuple):
    """Match of box index `a` in one list with box index `b` in the other; `iou` in 0..1."""

    a: int
    b: int
    iou: float


class LevelAgreement(NamedTuple):
    """Agreement on the findings of matched boxes, codes cut to a depth."""

    level: int  # 0 = group (coarse type), 1 = heading, 2 = with the first qualifier, ...
    n: int  # matched boxes
    percent: float | None  # share with the same label, 0..1
    kappa: float | None  # Cohen's kappa


class PairAgreement(NamedTuple):
    """Two annotators compared on the studies that both have finished."""

    annotators: tuple[str, str]  # their names
    n_studies: int  # studies both have finished
    verdict_percent: float | None  # share of studies with the same verdict, 0..1
    verdict_kappa: float | None  # Cohen's kappa of the verdicts
    boxes: tuple[int, int]  # number of boxes of each annotator
    n_matched: int  # pairs of boxes with IoU at or above the threshold
    box_f1: float | None  # 2 n_matched / (boxes of both); None when neither has a box
    mean_iou: float | None  # mean IoU of the matched pairs; None without any
    # agreement on the findings of matched boxes, per depth of the hierarchy
    levels: tuple[LevelAgreement, ...]


def percent_agreement(a: Sequence[Label], b: Sequence[Label]) -> float | None:
    """Share of items with the same label, 0..1; None without items.

    Raises:
        DataError: The lists differ in length.
    """
    if len(a) != len(b):
        raise DataError("Raters have different numbers of items", f"{len(a)}", f"{len(b)}")
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a) if a else None


def cohen_kappa(a: Sequence[Label], b: Sequence[Label]) -> float | None:
    """Cohen's kappa of two raters, (p_o - p_e) / (1 - p_e).

    Returns:
        None without items, and where both give every item the same label (p_e = 1): then
        agreement beyond chance is not defined.

    Raises:
        DataError: The lists differ in length.
    """
    observed = percent_agreement(a, b)
    if observed is None:
        return None
    first, second = Counter(a), Counter(b)
    both = sum(first[label] * second[label] for label in first)
    if both == len(a) ** 2:
        return None
    expected = both / len(a) ** 2
    return (observed - expected) / (1 - expected)


def fleiss_kappa(items: Iterable[Sequence[Label]]) -> float | None:
    """Fleiss' kappa of many raters.

    Args:
        items: The labels of each item, in any order. Items with fewer than two
            labels are left out. With unequal numbers of labels each item counts the same, both for
            agreement and for chance; with equal numbers this is Fleiss' formula.

    Returns:
        None without items, or when all labels are the same.
    """
    tables = [Counter(labels) for labels in items if len(labels) >= 2]
    if not tables:
        return None
    shares: dict[Label, float] = {}
    observed = 0.0
    for table in tables:
        n = table.total()
        observed += sum(k * (k - 1) for k in table.values()) / (n * (n - 1)) / len(tables)
        for label, k in table.items():
            shares[label] = shares.get(label, 0.0) + k / n / len(tables)
    if len(shares) == 1:
        return None
    expected = sum(share * share for share in shares.values())
    return (observed - expected) / (1 - expected)


def match_boxes(
    a: Sequence[Box], b: Sequence[Box], iou_threshold: float = IOU_THRESHOLD
) -> list[BoxMatch]:
    """Pair boxes one to one, the best overlap first.

    Args:
        a: xyxy boxes of one reader.
        b: xyxy boxes of the other.
        iou_threshold: Smallest IoU of a pair, 0..1.

    Returns:
        By descending IoU; ties in the order of the lists.
    """
    table = iou_matrix(as_boxes(a), as_boxes(b))
    pairs = [
        BoxMatch(i, j, float(table[i, j]))
        for i in range(len(a))
        for j in range(len(b))
        if table[i, j] > 0 and table[i, j] >= iou_threshold
    ]
    taken_a: set[int] = set()
    taken_b: set[int] = set()
    matches = []
    for match in sorted(pairs, key=lambda pair: (-pair.iou, pair.a, pair.b)):
        if match.a not in taken_a and match.b not in taken_b:
            taken_a.add(match.a)
            taken_b.add(match.b)
            matches.append(match)
    return matches


def path_of(base: ConceptBase, code: str) -> tuple[str, ...]:
    """Path from the root to a code; for a code not in the base (NIL), the code alone."""
    return base.path(code) if code in base else (code,)


def label_at(base: ConceptBase, code: str, level: int) -> str:
    """Code truncated to a hierarchy level, 0 = group; a shallower code is returned unchanged."""
    return path_of(base, code)[: level + 1][-1]


def level_agreement(
    pairs: Sequence[tuple[str, str]], base: ConceptBase
) -> tuple[LevelAgreement, ...]:
    """Agreement of pairs of codes, cut to each depth of the hierarchy."""
    found = []
    for level in range(LEVELS):
        a = [label_at(base, first, level) for first, _ in pairs]
        b = [label_at(base, second, level) for _, second in pairs]
        found.append(LevelAgreement(level, len(pairs), percent_agreement(a, b), cohen_kappa(a, b)))
    return tuple(found)


def boxes_of(annotations: Sequence[Annotation]) -> list[Box]:
    """Boxes of the annotations, in the same order."""
    return [item.box_xyxy for item in annotations]


def compare_pair(
    a: Mapping[str, Reading],
    b: Mapping[str, Reading],
    base: ConceptBase,
    iou_threshold: float = IOU_THRESHOLD,
) -> PairAgreement:
    """Compare two annotators.

    Args:
        a: image_id -> finished reading of the first annotator.
        b: image_id -> finished reading of the second.

    Raises:
        DataError: One of the mappings is empty.
    """
    if not a or not b:
        raise DataError("An annotator without a finished reading cannot be compared")
    names = (next(iter(a.values())).annotator, next(iter(b.values())).annotator)
    common = sorted(set(a) & set(b))
    verdicts = [a[name].verdict for name in common], [b[name].verdict for name in common]
    n_boxes = [0, 0]
    overlaps: list[float] = []
    codes: list[tuple[str, str]] = []
    for name in common:
        first, second = a[name].annotations, b[name].annotations
        n_boxes[0] += len(first)
        n_boxes[1] += len(second)
        for match in match_boxes(boxes_of(first), boxes_of(second), iou_threshold):
            overlaps.append(match.iou)
            codes.append((first[match.a].code, second[match.b].code))
    total = sum(n_boxes)
    return PairAgreement(
        annotators=names,
        n_studies=len(common),
        verdict_percent=percent_agreement(*verdicts),
        verdict_kappa=cohen_kappa(*verdicts),
        boxes=(n_boxes[0], n_boxes[1]),
        n_matched=len(overlaps),
        box_f1=2 * len(overlaps) / total if total else None,
        mean_iou=sum(overlaps) / len(overlaps) if overlaps else None,
        levels=level_agreement(codes, base),
    )


def compare_all(
    readings: Iterable[Reading], base: ConceptBase, iou_threshold: float = IOU_THRESHOLD
) -> list[PairAgreement]:
    """Compare every pair of annotators with finished studies, in order of their names."""
    tables: dict[str, dict[str, Reading]] = {}
    for reading in readings:
        if reading.finished:
            tables.setdefault(reading.annotator, {})[reading.image_id] = reading
    return [
        compare_pair(tables[a], tables[b], base, iou_threshold)
        for a, b in combinations(sorted(tables), 2)
    ]


def verdict_fleiss(readings: Iterable[Reading]) -> float | None:
    """Fleiss' kappa of the verdicts of all studies that two or more readers have finished."""
    items: dict[str, list[str]] = {}
    for reading in readings:
        if reading.finished:
            items.setdefault(reading.image_id, []).append(reading.verdict)
    return fleiss_kappa(items.values())
