import numpy as np
import pytest

from evaluation.study.cases import join, select
from evaluation.study.cohort import Cohort
from evaluation.study.labels import make_labels
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import NORMAL, NOT_NORMAL
from pneumonia.runtime.model.predictions import Prediction
from tests.evaluation.studies import make_cases

BOXES = {
    "a": np.float32([[100, 200, 300, 400]]),
    "b": np.zeros((0, 4), np.float32),
}


def _found(image_id: str, boxes: list, scores: list, width: int = 512, height: int = 256):
    return Prediction(image_id, np.float32(boxes).reshape(-1, 4), np.float32(scores), width, height)


def test_boxes_are_scaled_to_the_labels_frame_and_sorted() -> None:
    cases = join(
        make_labels(BOXES),
        [_found("b", [], []), _found("a", [[1, 2, 3, 4], [50, 50, 150, 100]], [0.25, 0.5])],
    )
    assert cases.ids == ("a", "b")  # the labels' order
    # 1024 / 512 in x, 1024 / 256 in y; highest score first
    assert cases.boxes[0].tolist() == [[100, 200, 300, 400], [2, 8, 6, 16]]
    assert cases.image_score.tolist() == [0.5, 0.0]
    assert cases.positive.tolist() == [True, False]


def test_a_frame_per_image_leaves_boxes_alone() -> None:
    labels = make_labels({"a": np.float32([[10, 20, 300, 200]])}, frame=None)
    cases = join(labels, [_found("a", [[10, 20, 300, 200]], [0.5])])
    assert cases.boxes[0].tolist() == [[10, 20, 300, 200]]


def test_a_truth_outside_its_frame_names_the_option() -> None:
    labels = make_labels({"a": np.float32([[10, 20, 900, 200]])}, frame=None)
    with pytest.raises(DataError, match="--frame"):
        join(labels, [_found("a", [], [])])


def test_ids_missing_on_one_side() -> None:
    labels = make_labels(BOXES)
    with pytest.raises(DataError, match=r"1 of 2 missing.*--only-scored"):
        join(labels, [_found("a", [], [])])
    cases = join(labels, [_found("a", [], []), _found("stranger", [], [])], only_scored=True)
    coverage = cases.coverage
    assert (coverage.n_missing, coverage.n_unlabelled, coverage.n_evaluated) == (1, 1, 1)
    with pytest.raises(DataError, match="share no image"):
        join(labels, [_found("stranger", [], [])])
    with pytest.raises(DataError, match="twice"):
        join(labels, [_found("a", [], []), _found("a", [], []), _found("b", [], [])])
    assert join(labels, [_found("b", [], [])], subset=["b"]).ids == ("b",)


def test_boxes_outside_the_image_are_counted_and_kept() -> None:
    cases = join(
        make_labels({"a": BOXES["a"]}),
        [_found("a", [[-20, 0, 10, 10], [0, 0, 512.5, 256], [0, 0, 600, 20]], [0.5, 0.4, 0.3])],
    )
    assert cases.coverage.n_boxes_outside == 2
    assert cases.boxes[0][0, 0] == -40


def test_patients_and_classes() -> None:
    facts = {"a": {"patient": "7"}, "b": {"patient": "7", "class": NORMAL}, "c": {}}
    labels = make_labels({**BOXES, "c": np.zeros((0, 4), np.float32)})
    found = [_found(i, [], []) for i in "abc"]
    cases = join(labels, found, Cohort(facts))
    assert cases.patients.tolist() == [0, 0, 1]
    assert not cases.coverage.patients_known
    assert not cases.classes_known
    facts["c"] = {"patient": "8", "class": NOT_NORMAL}
    known = join(labels, found, Cohort(facts))
    assert known.coverage.patients_known
    assert known.classes_known
    assert known.negatives_of_class(NOT_NORMAL).tolist() == [False, False, True]
    assert select(known, known.positive).ids == ("a",)


@pytest.mark.parametrize("score", [-0.01, 1.01, 87.0])
def test_what_is_no_probability_is_refused_without_identifiers(score: float) -> None:
    box = np.array([[0.0, 0, 9, 9]])
    with pytest.raises(DataError, match=r"outside 0\.\.1.*on 1 images") as caught:
        make_cases({"Jane Doe": box, "b": box}, {
            "Jane Doe": (box, np.array([score])), "b": (box, np.array([1.0])),
        })  # fmt: skip
    assert "Jane" not in str(caught.value)
