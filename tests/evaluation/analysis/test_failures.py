import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.analysis.failures import (
    BOX_TYPES,
    MOST_SHOWN,
    TRUTH_TYPES,
    classify,
    count_errors,
    find_errors,
)
from evaluation.analysis.failures import worst_cases as find_worst
from tests.evaluation.studies import make_cases, study_cases

TRUTH = [100.0, 100, 200, 200]
OTHER = [220.0, 100, 320, 200]


@pytest.mark.parametrize(
    ("truths", "boxes", "truth_types", "box_types"),
    [
        ([TRUTH], [TRUTH], ["found"], ["hit"]),
        ([TRUTH], [], ["missed"], []),
        ([TRUTH], [[400, 400, 500, 500]], ["missed"], ["beside"]),
        ([TRUTH], [TRUTH, [105, 105, 205, 205]], ["found"], ["hit", "duplicate"]),
        # IoU 50 * 100 / 15,000 = 1/3
        ([TRUTH], [[150, 100, 250, 200]], ["mislocalised"], ["mislocalised"]),
        ([TRUTH, OTHER], [[100, 80, 320, 320]], ["merged", "merged"], ["merged"]),
        ([TRUTH], [[100, 100, 130, 200], [150, 100, 180, 200]], ["split"], ["split", "split"]),
        ([TRUTH, OTHER], [TRUTH], ["found", "missed"], ["hit"]),
    ],
)
def test_types_by_hand(
    truths: list, boxes: list, truth_types: list[str], box_types: list[str]
) -> None:
    found = classify(np.array(truths), np.array(boxes, dtype=float).reshape(-1, 4))
    assert [list(part) for part in found] == [truth_types, box_types]


@given(st.integers(0, 500))
def test_everything_has_exactly_one_type(seed: int) -> None:
    cases = study_cases(seed, 4, 4)
    errors = find_errors(cases, 0.2)
    counts = count_errors(errors)
    assert sum(counts["truths"].values()) == cases.n_truths.sum()
    assert sum(counts["boxes"].values()) == sum((s >= 0.2).sum() for s in cases.scores)
    for item in errors:
        assert set(item.truth_types) <= set(TRUTH_TYPES)
        assert set(item.box_types) <= set(BOX_TYPES)
        assert item.truth_types.count("found") == item.box_types.count("hit")


def test_false_boxes_by_kind_of_negative() -> None:
    box = np.array([TRUTH]), np.array([0.9])
    empty = np.zeros((0, 4))
    facts = {"a": {"class": "Normal"}, "b": {"class": "No Lung Opacity / Not Normal"}, "c": {}}
    cases = make_cases(dict.fromkeys("abc", empty), dict.fromkeys("abc", box), facts)
    types = [item.box_types for item in find_errors(cases, 0.5)]
    assert types == [("on_normal",), ("on_not_normal",), ("on_negative",)]


def test_worst_cases_come_worst_first() -> None:
    cases = study_cases(5)  # 14 missed, 2 false alarms
    worst = find_worst(cases, 0.5)
    scores, positive = cases.image_score, cases.positive
    missed = [scores[i] for i in worst.missed]
    assert missed == sorted(scores[positive & (scores < 0.5)])[:MOST_SHOWN]
    assert [scores[i] for i in worst.alarms] == sorted(
        scores[~positive & (scores >= 0.5)], reverse=True
    )[:MOST_SHOWN]
    assert all(positive[i] and scores[i] >= 0.5 for i in worst.misplaced)
