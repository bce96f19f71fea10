import numpy as np
import pytest

from evaluation.analysis.catalogue import match_study
from evaluation.analysis.paired import compare_groups, compare_studies, judge
from evaluation.analysis.subgroups import find_groups
from evaluation.metrics.bootstrap import Estimate, Resampler
from evaluation.study.cases import EvaluationCases
from pneumonia.runtime.errors import DataError
from tests.evaluation.studies import (
    make_cases,
    realistic_predictions,
    study_cases,
    synthetic_truths,
)

POINT = {"kaggle": 0.4}


def _pair(noise: float) -> tuple[EvaluationCases, EvaluationCases]:
    """A study and a copy whose boxes are shifted."""
    cases = study_cases(3, 150, 150)
    found = {
        i: (boxes + noise, scores)
        for i, boxes, scores in zip(cases.ids, cases.boxes, cases.scores, strict=True)
    }
    facts = {i: dict(cases.cohort.facts[i]) for i in cases.ids}
    return cases, make_cases(cases.truth_by_id(), found, facts)


def _compare(first: EvaluationCases, second: EvaluationCases, draws: int = 300):
    studies = {"dense": match_study(first, POINT), "pruned": match_study(second, POINT)}
    return compare_studies(studies, Resampler(first.patients, first.positive, draws, 0))[0]


def test_a_model_against_itself_needs_enough_patients_for_a_verdict() -> None:
    """No difference was seen; how rare losses may be, the number of patients says."""
    cases, _ = _pair(0)
    comparison = _compare(cases, cases)
    for item in comparison.differences.values():
        if np.isfinite(item.delta.value):
            assert item.delta.value == 0
            assert item.delta.ci_low < 0 < item.delta.ci_high
    few = comparison.differences["rsna.kaggle"]
    assert few.verdict == "inconclusive"
    assert comparison.differences["coco.ap50"].verdict == "not judged"
    assert few.patients_needed is not None
    many = study_cases(3, 2 * few.patients_needed, 3 * few.patients_needed)
    enough = _compare(many, many, 100).differences["rsna.kaggle"]
    assert enough.verdict == "non-inferior"
    assert enough.patients_needed < len(np.unique(many.patients))


def test_too_few_patients_or_positives_get_no_verdict() -> None:
    for n_positive, n_negative in ((1, 0), (20, 30), (9, 80)):
        cases = study_cases(2, n_positive, n_negative)
        each = {i: dict(cases.cohort.facts[i]) | {"patient": i} for i in cases.ids}
        cases = make_cases(cases.truth_by_id(), cases.boxes_by_id(), each)
        verdict = _compare(cases, cases, 100).differences["rsna.kaggle"].verdict
        assert (verdict == "too few") == (len(cases) < 30 or n_positive < 10)


def test_a_model_tuned_here_gets_no_verdict_against_a_frozen_one() -> None:
    cases = study_cases(1, 60, 90)
    studies = {"dense": match_study(cases, POINT), "pruned": match_study(cases, POINT)}
    resampler = Resampler(cases.patients, cases.positive, 100, 0)
    for tuned, judged in (({"pruned": True}, False), ({"dense": True, "pruned": True}, True)):
        item = compare_studies(studies, resampler, tuned_here=tuned)[0].differences
        assert (item["rsna.kaggle"].verdict == "inconclusive") == judged
        assert judged or item["rsna.kaggle"].verdict.startswith("not judged: one threshold")
        assert item["image.auroc"].verdict == "inconclusive"  # needs no threshold


def test_a_worse_model_is_inferior_and_the_difference_is_exact() -> None:
    first, second = _pair(60)
    item = _compare(first, second).differences["rsna.kaggle"]
    assert item.delta.value == pytest.approx(item.value.value - item.reference.value)
    assert item.delta.ci_high < -0.02
    assert item.verdict == "inferior"


def test_pairing_narrows_the_interval() -> None:
    first, second = _pair(12)
    item = _compare(first, second).differences["rsna.kaggle"]
    paired = item.delta.ci_high - item.delta.ci_low
    unpaired = np.hypot(
        item.value.ci_high - item.value.ci_low, item.reference.ci_high - item.reference.ci_low
    )
    assert paired < 0.7 * unpaired


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [
        ("rsna.kaggle", -0.019, 0.01, "non-inferior"),
        ("rsna.kaggle", -0.021, 0.01, "inconclusive"),
        ("rsna.kaggle", -0.05, -0.021, "inferior"),
        ("calibration.ece", -0.01, 0.019, "non-inferior"),
        ("calibration.ece", 0.021, 0.03, "inferior"),
        ("rsna.kaggle", float("nan"), float("nan"), "not judged"),
    ],
)
def test_verdicts(metric: str, low: float, high: float, verdict: str) -> None:
    assert judge(metric, Estimate(0.0, low, high, 9, ""), 0.02) == verdict


def test_deltas_by_group() -> None:
    first, second = _pair(40)
    studies = {"dense": match_study(first, POINT), "pruned": match_study(second, POINT)}
    groups, _ = find_groups(first)
    resampler = Resampler(first.patients, first.positive, 200, 0)
    rows = compare_groups(studies, "kaggle", groups, resampler)["pruned"]
    assert {(row.facet, row.name) for row in rows} == {(g.facet, g.name) for g in groups}
    female = next(row for row in rows if row.name == "F" and row.metric == "rsna")
    mask = next(group.mask for group in groups if group.name == "F")
    expected = [_rsna_at_prevalence(study, mask) for study in studies.values()]
    assert female.delta.value == pytest.approx(expected[1] - expected[0])
    assert female.delta.ci_high < 0


def _rsna_at_prevalence(study, mask: np.ndarray) -> float:
    """The group's score when its positives and negatives weigh as in the whole study."""
    positive = study.cases.positive
    scores = study.table.image_scores(0.4)
    share, own = positive.mean(), positive[mask].mean()
    weights = np.where(positive, share / own, (1 - share) / (1 - own)) * mask
    counted = np.isfinite(scores)
    return float((weights * np.nan_to_num(scores)).sum() / (weights * counted).sum())


def test_other_images_are_refused() -> None:
    rng = np.random.default_rng(0)
    truths = synthetic_truths(rng, 5, 5)
    first = make_cases(truths, realistic_predictions(rng, truths))
    fewer = dict(list(truths.items())[1:])
    second = make_cases(fewer, realistic_predictions(rng, fewer))
    with pytest.raises(DataError, match="1 ids in one"):
        _compare(first, second)
    with pytest.raises(DataError, match="two or more"):
        compare_studies({"a": match_study(first, POINT)}, Resampler(first.patients, first.positive))
