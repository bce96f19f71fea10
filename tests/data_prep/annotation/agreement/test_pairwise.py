"""Agreement statistics against values worked out by hand, and against scikit-learn."""

import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from data_prep.annotation.agreement.pairwise import (
    cohen_kappa,
    compare_all,
    compare_pair,
    fleiss_kappa,
    label_at,
    level_agreement,
    match_boxes,
    percent_agreement,
    verdict_fleiss,
)
from data_prep.reports.findings.concepts import NIL, ConceptBase
from pneumonia.runtime.errors import DataError
from tests.data_prep.annotation.readings import BOX, FAR, OPACITY_LEFT, OPACITY_RIGHT, box, reading

BASE = ConceptBase.load()


def test_percent_by_hand():
    assert percent_agreement(["a", "b", "a"], ["a", "a", "a"]) == pytest.approx(2 / 3)
    assert percent_agreement([], []) is None
    with pytest.raises(DataError):
        percent_agreement(["a"], [])


def test_cohen_by_hand():
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 0.7, by chance 0.5
    a = ["y"] * 25 + ["n"] * 25
    b = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa(["y", "n"], ["n", "y"]) == pytest.approx(-1.0)
    assert cohen_kappa(["y", "n"], ["y", "n"]) == pytest.approx(1.0)


def test_kappa_is_undefined_where_chance_explains_all():
    assert cohen_kappa(["y", "y"], ["y", "y"]) is None
    assert cohen_kappa([], []) is None
    assert cohen_kappa(["y", "y"], ["n", "n"]) == 0.0
    assert fleiss_kappa([["y", "y"], ["y", "y"]]) is None
    assert fleiss_kappa([["y"]]) is None
    assert fleiss_kappa([]) is None


LABELS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30
)


@given(LABELS)
def test_cohen_is_scikit_learns(pairs):
    a, b = zip(*pairs, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = cohen_kappa_score(a, b)
    ours = cohen_kappa(a, b)
    assert (ours is None and math.isnan(theirs)) or ours == pytest.approx(theirs)


# Fleiss 1971: ten subjects, fourteen raters, five diagnoses
FLEISS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


def test_fleiss_of_the_published_example():
    items = [[k for k, n in enumerate(row) for _ in range(n)] for row in FLEISS]
    assert fleiss_kappa(items) == pytest.approx(0.210, abs=0.0005)


def test_fleiss_of_two_raters_by_hand():
    # observed 3/4; shares 3/8 and 5/8, by chance 34/64: (48 - 34) / (64 - 34) = 7/15
    assert fleiss_kappa(["aa", "ab", "bb", "bb"]) == pytest.approx(7 / 15)


def test_fleiss_leaves_out_items_of_one_rater():
    assert fleiss_kappa(["aa", "ab", "bb", "bb", "a"]) == pytest.approx(7 / 15)


def test_boxes_are_matched_best_first():
    a = [(0, 0, 10, 10), (0, 0, 10, 8)]
    b = [(0, 0, 10, 8)]
    assert [(m.a, m.b, m.iou) for m in match_boxes(a, b)] == [(1, 0, 1.0)]
    assert [(m.a, m.b) for m in match_boxes(a[:1], [(0, 0, 10, 5)], 0.5)] == [(0, 0)]
    assert match_boxes(a[:1], [(0, 0, 10, 4.9)], 0.5) == []
    assert match_boxes([], b) == match_boxes(a, []) == []
    assert match_boxes([(0, 0, 1, 1)], [(5, 5, 6, 6)], 0.0) == []  # apart is never the same


@given(st.lists(st.integers(0, 5), max_size=5), st.lists(st.integers(0, 5), max_size=5))
def test_matching_is_symmetric_and_one_to_one(xs, ys):
    a, b = ([(x, 0, x + 2, 2) for x in values] for values in (xs, ys))
    there, back = match_boxes(a, b, 0.3), match_boxes(b, a, 0.3)
    assert len(there) == len(back)
    assert len({m.a for m in there}) == len({m.b for m in there}) == len(there)


def test_labels_are_cut_to_a_level():
    cut = [label_at(BASE, OPACITY_LEFT, level) for level in range(6)]
    assert cut[:3] == ["Lungs", "Opacity", "Opacity/lung"]
    assert cut[4] == cut[5] == OPACITY_LEFT
    assert label_at(BASE, NIL, 3) == NIL


def test_levels_agree_down_to_where_codes_part():
    rows = level_agreement([(OPACITY_LEFT, OPACITY_RIGHT), ("Cardiomegaly", "Cardiomegaly")], BASE)
    assert [row.percent for row in rows] == [1.0, 1.0, 1.0, 1.0, 0.5]
    assert rows[0].kappa == 1.0
    assert all(row.percent is None for row in level_agreement([], BASE))


def test_a_pair_by_hand():
    a = {r.image_id: r for r in (
        reading("ann", box(BOX, OPACITY_LEFT), box(FAR, "Mass"), image="one"),
        reading("ann", image="two"),
        reading("ann", image="only ann"),
    )}  # fmt: skip
    b = {r.image_id: r for r in (
        reading("bob", box((100, 100, 200, 180), OPACITY_RIGHT), image="one"),
        reading("bob", image="two", verdict="abnormal"),
    )}  # fmt: skip
    found = compare_pair(a, b, BASE)
    assert found.annotators == ("ann", "bob")
    assert (found.n_studies, found.verdict_percent) == (2, 0.5)
    assert found.boxes == (2, 1)
    assert (found.n_matched, found.box_f1) == (1, pytest.approx(2 / 3))
    assert found.mean_iou == pytest.approx(0.8)
    assert [level.percent for level in found.levels] == [1, 1, 1, 1, 0]


def test_two_who_saw_nothing_have_no_box_figure():
    found = compare_pair({"one": reading("ann")}, {"one": reading("bob")}, BASE)
    assert (found.box_f1, found.mean_iou, found.verdict_percent) == (None, None, 1.0)
    assert found.verdict_kappa is None


def test_unfinished_readings_do_not_count():
    open_one = reading("cid", box(), verdict="")
    pairs = compare_all([reading("bob"), reading("ann"), open_one], BASE)
    assert [pair.annotators for pair in pairs] == [("ann", "bob")]
    assert verdict_fleiss([reading("ann"), open_one]) is None
    assert compare_all([reading("ann")], BASE) == []
    with pytest.raises(DataError):
        compare_pair({}, {"one": reading("ann")}, BASE)
