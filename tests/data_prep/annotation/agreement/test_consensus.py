"""Votes, fused boxes, truth and errors, worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.annotation.agreement.consensus import (
    common_ancestor,
    consensus_of,
    fuse_boxes,
    group_boxes,
    truth_of,
    vote_code,
)
from data_prep.annotation.agreement.reader_errors import departs_at, finding_fleiss, reader_errors
from data_prep.reports.findings.concepts import NIL, ConceptBase
from tests.data_prep.annotation.readings import FAR, OPACITY_LEFT, OPACITY_RIGHT, box, reading

BASE = ConceptBase.load()
NODES = list(BASE)


@pytest.mark.parametrize(
    ("codes", "winner", "tied"),
    [
        (["Mass", "Opacity", "Opacity"], "Opacity", False),
        ([OPACITY_LEFT, OPACITY_RIGHT], "Opacity/lung/lower lobe", True),
        ([OPACITY_LEFT, "Opacity"], "Opacity", True),
        (["Mass", "Opacity"], "Lungs", True),
        (["Mass", "Cardiomegaly"], NIL, True),
        ([NIL, "Opacity"], NIL, True),
        ([NIL], NIL, False),
        # three of Opacity beat two of Mass although they differ below: no, a vote is on whole codes
        (["Mass", "Mass", OPACITY_LEFT, OPACITY_RIGHT, "Opacity"], "Mass", False),
    ],
)
def test_vote(codes, winner, tied):
    assert vote_code(BASE, codes) == (winner, tied)


@given(st.lists(st.sampled_from(NODES), min_size=1, max_size=4))
def test_common_ancestor_is_above_all_and_order_does_not_matter(codes):
    found = common_ancestor(BASE, codes)
    assert found == common_ancestor(BASE, codes[::-1])
    if found != NIL:
        assert all(found in BASE.path(code) for code in codes)


def test_fused_box_is_the_median():
    assert fuse_boxes([(0, 0, 10, 10), (2, 0, 12, 10), (90, 1, 99, 11)]) == (2, 0, 12, 10)
    assert fuse_boxes([(0, 0, 10, 10), (2, 4, 12, 10)]) == (1, 2, 11, 10)


def test_groups_hold_one_box_of_a_reader():
    readings = [
        reading("ann", box((0, 0, 10, 10)), box((0, 0, 10, 9))),
        reading("bob", box((0, 0, 10, 10)), box(FAR)),
    ]
    groups = group_boxes(readings)
    assert [[name for name, _ in group] for group in groups] == [["ann"], ["ann", "bob"], ["bob"]]


def three(*per_reader, verdicts=(None, None, None)):
    names = ("ann", "bob", "cid")
    return [
        reading(name, *boxes, verdict=verdict)
        for name, boxes, verdict in zip(names, per_reader, verdicts, strict=True)
    ]


def test_majority_of_three():
    wide = (100, 100, 220, 200)
    made = consensus_of(three([box()], [box(wide)], [box(FAR)]), BASE)
    assert (made.source, made.verdict, made.readers) == (
        "majority",
        "opacity",
        ("ann", "bob", "cid"),
    )
    kept, minority = made.boxes
    assert (kept.kept, kept.disputed, kept.box_xyxy) == (True, False, (100, 100, 210, 200))
    assert (minority.kept, minority.disputed) == (False, False)
    truth = truth_of(made, BASE)
    assert (truth.class_name, truth.boxes, truth.reason) == (
        "Lung Opacity", ((100, 100, 210, 200),), "",
    )  # fmt: skip


def test_two_who_differ_are_a_dispute_that_adjudication_settles():
    readings = [reading("ann", box()), reading("bob")]
    made = consensus_of(readings, BASE)
    assert (made.boxes[0].disputed, made.verdict) == (True, "")
    assert truth_of(made, BASE).reason == "box_disputed"
    judged = consensus_of(readings, BASE, reading("adjudication", box(FAR, "Consolidation")))
    assert judged.source == "adjudicated"
    assert truth_of(judged, BASE) == ("Lung Opacity", (FAR,), "")


@pytest.mark.parametrize(
    ("readings", "class_name", "reason"),
    [
        ([reading("ann")], "Normal", ""),
        (
            [reading("ann", box(code="Mass"), verdict="abnormal")],
            "No Lung Opacity / Not Normal",
            "",
        ),
        ([reading("ann", verdict="abnormal")], "No Lung Opacity / Not Normal", ""),
        ([reading("ann", box(assertion="uncertain"))], "", "opacity_uncertain"),
        ([reading("ann", verdict="unusable")], "", "unusable"),
        ([reading("ann"), reading("bob", verdict="abnormal")], "", "verdict_tied"),
        (
            [reading("ann", box()), reading("bob", box(code="Mass"), verdict="abnormal")],
            "",
            "finding_tied",
        ),
        # two words for an opacity: their ancestor is none, yet nobody doubts that there is one
        ([reading("ann", box()), reading("bob", box(code="Pneumonia"))], "Lung Opacity", ""),
        (
            three(
                [box()],
                [box(code="Pneumonia")],
                [box(code="Mass")],
                verdicts=(None, None, "abnormal"),
            ),
            "Lung Opacity",
            "",
        ),
        (
            three(
                [box()],
                [box(code="Cardiomegaly")],
                [box(code="Mass")],
                verdicts=("opacity", "abnormal", "abnormal"),
            ),
            "",
            "finding_tied",
        ),
        ([reading("ann", box()), reading("bob", box(FAR))], "", "box_disputed"),
        (three([box()], [box(FAR)], [box((10, 300, 90, 400))]), "", "no_common_box"),
        (three([box()], [], []), "Normal", ""),
        (
            three([box()], [box()], [box(code="Mass")], verdicts=(None, None, "abnormal")),
            "Lung Opacity",
            "",
        ),
    ],
)
def test_truth(readings, class_name, reason):
    found = truth_of(consensus_of(readings, BASE), BASE)
    assert (found.class_name, found.reason) == (class_name, reason)


def test_no_reader_has_finished():
    assert consensus_of([reading("ann", box(), verdict="")], BASE) is None
    assert consensus_of([], BASE) is None


def test_errors_of_a_reader_by_hand():
    readings = three(
        [box(code=OPACITY_LEFT), box(FAR, "Mass")],
        [box(code=OPACITY_RIGHT)],
        [box(code=OPACITY_RIGHT), box((10, 300, 90, 400), "Mass")],
    )
    made = consensus_of(readings, BASE)
    ann, _, cid = (reader_errors(r.annotator, [(r, made)], BASE) for r in readings)
    assert (ann.n_consensus, ann.hits, ann.missed, ann.extra) == (1, 1, 0, 1)
    assert ann.confused == ((OPACITY_LEFT, OPACITY_RIGHT, 1),)
    assert ann.wrong_at == (0, 0, 0, 0, 1)  # group, heading, lung, lower lobe: same; side: not
    assert (cid.extra, cid.wrong_at, cid.mean_iou) == (1, (), 1.0)
    missing = reader_errors("dan", [(reading("dan", verdict="normal"), made)], BASE)
    assert (missing.missed, missing.mean_iou, missing.wrong_verdict) == (1, None, 1)
    alone = consensus_of(readings[:1], BASE)
    assert reader_errors("ann", [(readings[0], alone)], BASE).n_studies == 0


def test_a_tie_makes_no_reader_wrong():
    readings = [reading("ann", box(code=OPACITY_LEFT)), reading("bob", box(code="Pneumonia"))]
    made = consensus_of(readings, BASE)
    assert (made.boxes[0].code, made.boxes[0].tied) == ("Lungs", True)
    assert made.boxes[0].best == (OPACITY_LEFT, "Pneumonia")
    assert [reader_errors(r.annotator, [(r, made)], BASE).confused for r in readings] == [(), ()]
    cid = reading("cid", box(code="Mass"), verdict="abnormal")
    assert reader_errors("cid", [(cid, made)], BASE).confused == (("Mass", "Lungs", 1),)


def test_departing_level():
    assert departs_at(BASE, OPACITY_LEFT, OPACITY_LEFT) is None
    assert departs_at(BASE, "Opacity", OPACITY_LEFT) == 2
    assert departs_at(BASE, "Cardiomegaly", "Opacity") == 0


def test_fleiss_over_groups_by_hand():
    # two groups of two readers: both "Opacity", and "Mass" against no box
    studies = {"one": [reading("ann", box(), box(FAR, "Mass")), reading("bob", box())]}
    # observed 1/2; shares 1/2, 1/4, 1/4, by chance 3/8: (4 - 3) / (8 - 3)
    assert finding_fleiss(studies, BASE, 1) == pytest.approx(0.2)
    # as groups both say "Lungs": shares 3/4 and 1/4, by chance 5/8: (4 - 5) / (8 - 5)
    assert finding_fleiss(studies, BASE, 0) == pytest.approx(-1 / 3)
    assert finding_fleiss({"one": studies["one"][:1]}, BASE, 0) is None
