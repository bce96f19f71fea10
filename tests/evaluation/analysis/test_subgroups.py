import numpy as np
import pytest

from evaluation.analysis.catalogue import match_study
from evaluation.analysis.subgroups import (
    NOT_APPLICABLE,
    SUPPRESSED,
    evaluate_groups,
    find_groups,
    group_statistics,
)
from evaluation.metrics.bootstrap import Resampler
from evaluation.metrics.rsna import rsna_score
from evaluation.study.cases import EvaluationCases, select
from tests.evaluation.studies import make_cases, study_cases

CASES = study_cases(11, 120, 150)
STUDY = match_study(CASES, {"kaggle": 0.4})
RESAMPLER = Resampler(CASES.patients, CASES.positive, 200, 0)
GROUPS, LEFT_OUT = find_groups(CASES)
RESULTS = {
    (item.facet, item.name): item for item in evaluate_groups(STUDY, "kaggle", GROUPS, RESAMPLER)
}


def test_groups_of_a_facet_do_not_overlap() -> None:
    for facet in {group.facet for group in GROUPS}:
        masks = np.stack([group.mask for group in GROUPS if group.facet == facet])
        assert masks.sum(axis=0).max() == 1
        base = next(group.base for group in GROUPS if group.facet == facet)
        assert (masks.any(axis=0) & ~base).sum() == 0


def test_a_groups_value_is_that_of_its_images_alone() -> None:
    group = next(group for group in GROUPS if group.name == "PA")
    alone = select(CASES, group.mask)
    item = RESULTS["view", "PA"]
    called = alone.image_score >= 0.4
    assert item.n == len(alone)
    assert item.values["sensitivity"].value == pytest.approx(called[alone.positive].mean())
    everyone = (CASES.image_score >= 0.4)[CASES.positive].mean()
    gap = item.gaps["sensitivity"]
    assert gap.value == pytest.approx(called[alone.positive].mean() - everyone)
    assert gap.ci_low <= gap.value <= gap.ci_high


def test_scores_of_groups_are_compared_at_a_common_prevalence() -> None:
    """A group made rarer by repeating its negatives keeps its score."""
    cases = study_cases(5, 120, 120)
    truths, found, facts = {}, {}, {}
    for index, image_id in enumerate(cases.ids):
        known = dict(cases.cohort.facts[image_id])
        in_pa = known["view"] == "PA"
        for copy in range(3 if in_pa and not cases.positive[index] else 1):
            key = f"{image_id}-{copy}"
            truths[key], facts[key] = cases.truths[index], known | {"patient": key}
            found[key] = cases.boxes[index], cases.scores[index]
    scores = []
    for item in (cases, make_cases(truths, found, facts)):
        study = match_study(item, {"kaggle": 0.4})
        group = next(group for group in find_groups(item)[0] if group.name == "PA")
        half = np.ones(len(item), bool) if item is cases else _balanced(item)
        statistic = group_statistics(study, "kaggle", group.mask, half)["rsna"]
        scores.append(float(statistic.compute(np.ones((1, len(item))))[0]))
    assert scores[1] == pytest.approx(scores[0])
    alone = select(CASES, next(group.mask for group in GROUPS if group.name == "PA"))
    plain = rsna_score(alone.truth_by_id(), alone.boxes_by_id(), 0.4).value
    assert RESULTS["view", "PA"].values["rsna"].value != pytest.approx(plain, abs=1e-4)


def _balanced(cases: EvaluationCases) -> np.ndarray:
    """As many negatives as positives."""
    mask = cases.positive.copy()
    mask[np.flatnonzero(~cases.positive)[: int(mask.sum())]] = True
    return mask


def test_gaps_that_survive_correction_are_few_and_have_small_p_values() -> None:
    kept = [(item, metric) for item in RESULTS.values() for metric in item.survives]
    compared = sum(len(item.p_values) for item in RESULTS.values())
    assert compared > 20
    for item, metric in kept:
        assert item.p_values[metric] <= 0.05
    assert len(kept) <= sum(p <= 0.05 for item in RESULTS.values() for p in item.p_values.values())


def test_small_cells_are_suppressed_and_senseless_ones_marked() -> None:
    ages = {name: item for (facet, name), item in RESULTS.items() if facet == "age"}
    few = [item for item in ages.values() if item.n_positive < 30]
    assert few
    for item in few:
        assert np.isnan(item.values["sensitivity"].value)
        assert item.values["sensitivity"].method == SUPPRESSED
    one = RESULTS["number of opacities", "1"]
    assert one.values["specificity"].method == NOT_APPLICABLE
    assert np.isfinite(one.values["sensitivity"].value)
    normal = RESULTS["kind of negative", "Normal"]
    assert np.isfinite(normal.values["specificity"].value)
    assert normal.values["auroc"].method == NOT_APPLICABLE


def test_gaps_of_positives_refer_to_positives() -> None:
    """Thirds of the opacity area have a mean gap near zero, not one against all images."""
    gaps = [RESULTS["opacity area", name].gaps["rsna"].value for name in
            ("1 small third", "2 middle third", "3 large third")]  # fmt: skip
    assert np.mean(gaps) == pytest.approx(0.0, abs=1e-9)


def test_implausible_ages_are_counted() -> None:
    box = np.zeros((0, 4)), np.zeros(0)
    facts = {f"i{k}": {"age": age} for k, age in enumerate(["30", "70", "414", ""])}
    cases = make_cases(dict.fromkeys(facts, box[0]), dict.fromkeys(facts, box), facts)
    groups, left_out = find_groups(cases)
    assert {group.name for group in groups} == {"18-39", "65+"}
    assert left_out["age"] == 2


def test_a_fact_with_one_value_is_no_facet() -> None:
    box = np.zeros((0, 4)), np.zeros(0)
    cases = make_cases(
        dict.fromkeys("ab", box[0]), dict.fromkeys("ab", box), {"a": {"view": "AP"}, "b": {}}
    )
    assert find_groups(cases) == ([], {})
