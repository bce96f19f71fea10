"""torchmetrics as a second judge of the image-level numbers.

Spans: evaluation.metrics.bootstrap, evaluation.metrics.calibration, evaluation.metrics.image_level,
evaluation.study.operating_points.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.analysis.catalogue import match_study, point_statistics
from evaluation.metrics.bootstrap import Resampler, estimate_all
from evaluation.metrics.calibration import calibration_statistics, expected_calibration_error
from evaluation.metrics.image_level import auprc, auroc, roc_curve
from evaluation.study.operating_points import choose
from tests.evaluation.studies import study_cases

torch = pytest.importorskip("torch")
judge = pytest.importorskip(
    "torchmetrics.functional.classification", reason="torchmetrics is not installed"
)

ROWS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])),
    min_size=4,
    max_size=60,
).filter(lambda rows: 0 < sum(positive for positive, _ in rows) < len(rows))


def _tensors(positive, scores):
    return torch.tensor(scores, dtype=torch.float64), torch.tensor(positive, dtype=torch.int64)


@given(ROWS)
def test_areas_with_many_ties(rows: list[tuple[bool, float]]) -> None:
    positive, scores = (list(column) for column in zip(*rows, strict=True))
    tensors = _tensors(positive, scores)
    assert auroc(positive, scores)[0] == pytest.approx(float(judge.binary_auroc(*tensors)))
    peer = float(judge.binary_average_precision(*tensors))
    assert auprc(positive, scores)[0] == pytest.approx(peer)


def test_curve() -> None:
    cases = study_cases(3)
    alarms, hits, levels = roc_curve(cases.positive, cases.image_score)
    peer_alarms, peer_hits, peer_levels = judge.binary_roc(
        *_tensors(cases.positive, cases.image_score)
    )
    np.testing.assert_allclose(alarms, peer_alarms, atol=1e-7)
    np.testing.assert_allclose(hits, peer_hits, atol=1e-7)
    np.testing.assert_allclose(levels[1:], peer_levels[1:])  # its first one is 1, ours is infinite


def test_operating_points() -> None:
    cases = study_cases(3)
    points = choose(cases)
    levels = {name: point.threshold for name, point in points.items()}
    study = match_study(cases, levels)
    resampler = Resampler(cases.patients, cases.positive, 100, 0)
    tensors = _tensors(cases.positive, cases.image_score)
    judges = {
        "sensitivity": judge.binary_recall,
        "specificity": judge.binary_specificity,
        "ppv": judge.binary_precision,
        "npv": judge.binary_negative_predictive_value,
    }
    assert len(points) == 4
    for name, threshold in levels.items():
        ours = estimate_all(point_statistics(study, name, threshold), resampler)
        for metric, peer in judges.items():
            # thresholds stand between scores: > and >= are the same
            expected = float(peer(*tensors, threshold=threshold))
            assert ours[f"{name}.{metric}"].value == pytest.approx(expected)


def test_calibration_error_where_bins_of_equal_mass_have_equal_width() -> None:
    n = 1000
    scores = (np.arange(n) + 0.5) / n
    positive = np.random.default_rng(0).random(n) < scores**2
    tensors = _tensors(positive, scores)
    once = np.ones((1, n))
    ece = expected_calibration_error(positive, scores, 10).compute(once)[0]
    assert ece == pytest.approx(float(judge.binary_calibration_error(*tensors, n_bins=10)), 1e-6)
    brier = calibration_statistics(positive, scores)[0].compute(once)[0]
    from torchmetrics.functional import mean_squared_error

    assert brier == pytest.approx(float(mean_squared_error(tensors[0], tensors[1].double())))
