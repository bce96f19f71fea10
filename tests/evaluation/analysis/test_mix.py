"""Results at a stated mix: against a study that holds the mix, and against peers' weights."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation.analysis.catalogue import MatchedStudy, match_study
from evaluation.analysis.mix import (
    compare_at_mix,
    estimate_at_mix,
    mix_statistics,
    study_statistics,
)
from evaluation.metrics.bootstrap import Resampler
from evaluation.study.cases import EvaluationCases
from evaluation.study.class_mix import (
    RSNA_MIX,
    ClassMix,
    class_strata,
    mix_weights,
    parse_mix,
    why_no_mix,
)
from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.runtime.label_table import LUNG_OPACITY, NORMAL, NOT_NORMAL
from tests.evaluation.studies import (
    Boxes,
    make_cases,
    realistic_predictions,
    study_cases,
    synthetic_truths,
)

THRESHOLDS = {"kaggle": 0.4}


def class_study(n_opacity: int, n_not_normal: int, n_normal: int, seed: int = 0) -> EvaluationCases:
    """Each image its own patient; not normal images carry more and higher false boxes."""
    rng = np.random.default_rng(seed)
    truths: Boxes = synthetic_truths(rng, n_opacity, n_not_normal + n_normal)
    names = [LUNG_OPACITY] * n_opacity + [NOT_NORMAL] * n_not_normal + [NORMAL] * n_normal
    found = realistic_predictions(rng, truths)
    for image_id, name in zip(truths, names, strict=True):
        if name == NOT_NORMAL:
            boxes, scores = found[image_id]
            found[image_id] = boxes, np.sqrt(scores)
    facts = {i: {"class": name} for i, name in zip(truths, names, strict=True)}
    return make_cases(truths, found, facts)


def once(study: MatchedStudy, items: list) -> dict[str, float]:
    ones = np.ones((1, len(study.cases)))
    return {item.name: float(item.compute(ones)[0]) for item in items}


def repeated(cases: EvaluationCases, times: dict[str, int]) -> EvaluationCases:
    """The study with every image of a class repeated."""
    truths, found, facts = {}, {}, {}
    for index, image_id in enumerate(cases.ids):
        name = cases.fact("class")[index]
        for copy in range(times[name]):
            key = f"{image_id}-{copy}"
            truths[key] = cases.truths[index]
            found[key] = cases.boxes[index], cases.scores[index]
            facts[key] = {"class": name}
    return make_cases(truths, found, facts)


def test_equals_the_study_in_which_images_are_repeated_to_the_mix():
    cases = class_study(12, 4, 18)
    larger = repeated(cases, {LUNG_OPACITY: 1, NOT_NORMAL: 6, NORMAL: 1})  # 12 : 24 : 18
    study, other = (match_study(item, THRESHOLDS) for item in (cases, larger))
    found = once(study, mix_statistics(study, ClassMix(12, 24, 18)))
    expected = once(other, study_statistics(other))
    assert len(found) == len(expected) >= 15
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert found["kaggle.specificity"] != pytest.approx(
        once(study, study_statistics(study))["kaggle.specificity"], abs=0.01
    )


def test_agrees_with_the_sample_weights_of_scikit_learn():
    cases = study_cases(3)
    study = match_study(cases, THRESHOLDS)
    found = once(study, mix_statistics(study, RSNA_MIX))
    weights = mix_weights(class_strata(cases), RSNA_MIX)
    positive, scores = cases.positive, cases.image_score
    assert found["image.auroc"] == pytest.approx(
        roc_auc_score(positive, scores, sample_weight=weights)
    )
    assert found["image.auprc"] == pytest.approx(
        average_precision_score(positive, scores, sample_weight=weights)
    )


def test_specificity_at_the_mix_is_the_weighted_mean_of_the_classes():
    study = match_study(class_study(20, 15, 40), THRESHOLDS)
    result = estimate_at_mix(study, draws=100)
    by_class = once(study, study_statistics(study))
    expected = (
        8851 * by_class["kaggle.specificity_normal"]
        + 11821 * by_class["kaggle.specificity_not_normal"]
    ) / (8851 + 11821)
    assert result.estimates["kaggle.specificity"].value == pytest.approx(expected)
    for name in ("sensitivity", "specificity_normal", "specificity_not_normal"):
        found = result.estimates[f"kaggle.{name}"].value
        assert found == pytest.approx(by_class[f"kaggle.{name}"])
    assert result.effective_images < 75


def test_the_own_mix_of_a_study_changes_nothing():
    study = match_study(class_study(10, 20, 30), THRESHOLDS)
    result = estimate_at_mix(study, ClassMix(10, 20, 30), draws=100)
    for name, value in once(study, study_statistics(study)).items():
        assert result.estimates[name].value == pytest.approx(value)
    assert result.effective_images == pytest.approx(60)


def test_difference_of_a_model_to_itself_is_zero():
    study = match_study(class_study(15, 15, 15), THRESHOLDS)
    resampler = Resampler(study.cases.patients, class_strata(study.cases), 100, seed=0)
    (compared,) = compare_at_mix({"a": study, "b": study}, RSNA_MIX, resampler)
    assert compared.model == "b"
    assert set(compared.differences) == set(estimate_at_mix(study, draws=100).estimates)
    for row in compared.differences.values():
        assert row.delta.value == 0.0
        assert row.delta.ci_low < 0.0 < row.delta.ci_high  # rare losses may not have been met


def test_interval_holds_patients_together():
    """Ten copies of every image under one patient tell no more than one image."""
    cases = class_study(12, 12, 12)
    ten = repeated(cases, {LUNG_OPACITY: 10, NOT_NORMAL: 10, NORMAL: 10})
    for image_id in ten.ids:
        ten.cohort.facts[image_id]["patient"] = image_id.rpartition("-")[0]
    grouped = make_cases(ten.truth_by_id(), ten.boxes_by_id(), dict(ten.cohort.facts))
    widths = []
    for item in (cases, ten, grouped):
        auroc = estimate_at_mix(match_study(item, THRESHOLDS), draws=500).estimates["image.auroc"]
        widths.append(auroc.ci_high - auroc.ci_low)
    assert widths[2] == pytest.approx(widths[0], rel=0.1)
    assert widths[1] < 0.5 * widths[0]


def test_mix_is_read_from_text():
    assert parse_mix("rsna") == RSNA_MIX
    assert parse_mix("1:2:1").shares == pytest.approx([0.25, 0.5, 0.25])
    assert "22.5 % opacity" in RSNA_MIX.text
    for text in ("", "1:2", "1:2:x", "0:1:1", "1:0:0", "-1:2:2", "1:nan:1", "inf:1:1"):
        with pytest.raises(ConfigError, match="Mix of classes"):
            parse_mix(text)


def test_needs_the_class_of_every_negative_and_an_image_of_every_class():
    unknown = study_cases(1)
    for facts in unknown.cohort.facts.values():
        facts.pop("class")
    with pytest.raises(DataError, match="not known"):
        class_strata(unknown)
    with pytest.raises(DataError, match="no image of a class"):
        mix_weights(class_strata(class_study(5, 0, 5)), RSNA_MIX)
    mix_weights(class_strata(class_study(5, 0, 5)), ClassMix(1, 0, 1))
    assert "not known" in why_no_mix(unknown, RSNA_MIX)
    assert why_no_mix(class_study(5, 5, 5), RSNA_MIX) == ""
