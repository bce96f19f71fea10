import numpy as np
import pytest

from evaluation.metrics.rsna import rsna_score
from evaluation.study.box_scale import CANDIDATES, read_box_scale, scale_boxes, tune_box_scale
from evaluation.study.operating_points import document
from pneumonia.runtime.errors import ArtefactError, ConfigError, DataError
from tests.evaluation.studies import make_cases, study_cases

NONE = np.zeros((0, 4)), np.zeros(0)


def _drawn_too_large(factor: float):
    """Predictions concentric with the truth, `factor` times as wide and high."""
    truths, found = {}, {}
    for index in range(6):
        box = np.array([[300.0, 300 + 20 * index, 500, 600 + 20 * index]])
        centre = np.tile((box[:, :2] + box[:, 2:]) / 2, 2)
        truths[f"p{index}"] = box
        found[f"p{index}"] = centre + (box - centre) * factor, np.array([0.9])
    truths["n"], found["n"] = NONE[0], NONE
    return make_cases(truths, found)


def test_boxes_keep_their_centre_and_truths_stay() -> None:
    cases = make_cases(
        {"a": np.array([[0.0, 0, 8, 8]]), "b": NONE[0]},
        {"a": (np.array([[100.0, 200, 300, 600]]), np.array([0.5])), "b": NONE},
    )
    scaled = scale_boxes(cases, 0.5)
    assert scaled.boxes[0].tolist() == [[150.0, 300.0, 250.0, 500.0]]
    assert scaled.boxes[1].shape == (0, 4)
    assert scaled.truths is cases.truths
    assert scaled.scores is cases.scores
    assert scale_boxes(cases, 1.0) is cases


def test_tuning_undoes_boxes_drawn_too_large() -> None:
    # 1 / 0.8 too large: IoU 0.64 without, 1 with scale 0.8; every scale from IoU > 0.75 on ties
    # at the full score, and of those the one nearest to 1 is taken: 0.875 gives
    # (1.25 * 0.875) ** -2 = 0.836, 0.9 gives 0.790, 0.925 gives 0.748 <= 0.75
    cases = _drawn_too_large(1.25)
    best = tune_box_scale(cases)
    assert (best.scale, best.rsna_score) == (0.9, 1.0)
    assert best.unscaled == pytest.approx(5 / 8)  # IoU 0.64: hits at 0.40 to 0.60
    scaled = scale_boxes(cases, best.scale)
    assert rsna_score(scaled.truth_by_id(), scaled.boxes_by_id()).value == 1.0


def test_no_scale_is_better_than_the_tuned_one() -> None:
    cases = study_cases(5)
    best = tune_box_scale(cases)
    assert best.scale in CANDIDATES
    assert best.rsna_score >= best.unscaled
    assert best.unscaled == document(cases)["points"]["kaggle"]["rsna_score"]


def test_boxes_that_fit_are_left_alone() -> None:
    assert tune_box_scale(_drawn_too_large(1.0)).scale == 1.0


@pytest.mark.parametrize("scale", [0.0, 0.49, 1.51, -1.0, float("nan"), float("inf")])
def test_senseless_factors_are_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match=r"expected 0\.5\.\.1\.5"):
        scale_boxes(study_cases(1), scale)


def test_nothing_to_tune_on() -> None:
    with pytest.raises(DataError, match="0 boxes"):
        tune_box_scale(make_cases({"a": NONE[0]}, {"a": NONE}))


def test_the_scale_is_frozen_only_when_it_is_not_one() -> None:
    cases = study_cases(2)
    assert "box_scale" not in document(cases)
    assert read_box_scale(document(cases), "x") == 1.0
    frozen = document(scale_boxes(cases, 0.875), box_scale=0.875)
    assert read_box_scale(frozen, "x") == 0.875


@pytest.mark.parametrize("value", ["0.9", None, True, 7, float("nan")])
def test_a_damaged_scale_names_its_file(value: object) -> None:
    with pytest.raises(ArtefactError, match=r"Box scale is not valid.*points\.json"):
        read_box_scale({"box_scale": value}, "points.json")
