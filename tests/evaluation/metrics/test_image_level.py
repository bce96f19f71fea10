import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as peer_curve

from evaluation.metrics.image_level import auprc, auroc, image_scores, roc_curve

COARSE = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.9])), min_size=2, max_size=40
)


def test_hand_computed_auroc() -> None:
    # pairs (positive, negative): 0.9 beats both, 0.5 ties with 0.5 and beats 0.1 -> 3.5 of 4
    assert auroc([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.1])[0] == 3.5 / 4


@given(COARSE, st.integers(0, 1000))
def test_agrees_with_scikit_learn(rows: list[tuple[bool, float]], seed: int) -> None:
    positive, scores = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(rows))).astype(float)
    ours_roc, ours_pr = auroc(positive, scores, weights), auprc(positive, scores, weights)
    for draw, weight in enumerate(weights):
        if weight[positive].sum() == 0 or weight[~positive].sum() == 0:
            assert np.isnan(ours_pr[draw])
            assert np.isnan(ours_roc[draw])
            continue
        used = weight > 0
        peers = {"y_true": positive[used], "y_score": scores[used], "sample_weight": weight[used]}
        assert ours_pr[draw] == pytest.approx(average_precision_score(**peers))
        assert ours_roc[draw] == pytest.approx(roc_auc_score(**peers))


@given(COARSE)
def test_curve_agrees_with_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    positive, scores = (np.array(column) for column in zip(*rows, strict=True))
    assume(positive.any() and not positive.all())
    peer = peer_curve(positive, scores, drop_intermediate=False)
    for ours, expected in zip(roc_curve(positive, scores), peer, strict=True):
        np.testing.assert_allclose(ours, expected)


def test_an_image_without_boxes_scores_zero() -> None:
    assert image_scores({"a": [0.2, 0.7], "b": []}) == {"a": 0.7, "b": 0.0}
