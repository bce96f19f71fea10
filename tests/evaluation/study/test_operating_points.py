import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.metrics.intervals import share_interval
from evaluation.metrics.rsna import rsna_table
from evaluation.study.class_mix import ClassMix
from evaluation.study.operating_points import (
    between_levels,
    choose,
    document,
    points_file,
    read_platt,
    read_points,
)
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.label_table import NORMAL, NOT_NORMAL
from tests.evaluation.studies import make_cases, study_cases

BOX = np.array([[100.0, 100, 300, 300]])
NONE = np.zeros((0, 4)), np.zeros(0)


def _cases(positive: list[float], negative: list[float]):
    truths, found = {}, {}
    for i, score in enumerate(positive):
        truths[f"p{i}"], found[f"p{i}"] = BOX, (BOX, np.array([score])) if score else NONE
    for i, score in enumerate(negative):
        truths[f"n{i}"] = np.zeros((0, 4))
        found[f"n{i}"] = (BOX, np.array([score])) if score else NONE
    return make_cases(truths, found)


def test_rules_by_hand() -> None:
    # ten positives 0.50 ... 0.95, twenty negatives 0.0 ... 0.57
    points = choose(_cases([0.5 + 0.05 * i for i in range(10)], [0.03 * i for i in range(20)]))
    # 90 % of ten positives: the nine from 0.55 on
    assert 0.54 < points["high_sensitivity"].threshold < 0.55
    assert points["high_sensitivity"].sensitivity == 0.9
    low = share_interval(np.arange(10) < 9, np.ones(10, bool), np.arange(10))[0]
    assert points["high_sensitivity"].sensitivity_low == pytest.approx(low)
    # 95 % of twenty negatives: all but the one at 0.57
    assert 0.54 < points["high_specificity"].threshold <= 0.55
    assert points["high_specificity"].specificity == 0.95
    # Youden: sensitivity 1 at 0.50 leaves 17 / 20 (0.85); 0.9 + 0.95 and 0.8 + 1 are 1.85 and 1.8
    assert points["balanced"].sensitivity + points["balanced"].specificity == pytest.approx(1.85)


@pytest.mark.parametrize("gap", [-0.3, -0.05, 0.0, 0.05, 0.3])
def test_high_sensitivity_is_never_the_less_sensitive_point(gap: float) -> None:
    """Also where the classes separate, and both promises leave a range of thresholds."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        positive = np.clip(rng.normal(0.5 + gap, 0.1, 30), 0.01, 1).tolist()
        negative = np.clip(rng.normal(0.5 - gap, 0.1, 40), 0.01, 1).tolist()
        points = choose(_cases(positive, negative))
        if not {"high_sensitivity", "high_specificity"} <= set(points):
            continue
        sensitive, specific = points["high_sensitivity"], points["high_specificity"]
        assert sensitive.threshold <= specific.threshold
        assert sensitive.sensitivity >= specific.sensitivity
        assert sensitive.specificity <= specific.specificity
        assert sensitive.sensitivity >= 0.9
        assert specific.specificity >= 0.95
        merged = sensitive.threshold == specific.threshold
        assert ("one threshold reaches both" in sensitive.rule) is merged
        assert ("one threshold reaches both" in specific.rule) is merged


def test_separate_classes_have_one_point_without_an_error() -> None:
    points = choose(_cases([0.7, 0.8, 0.9, 0.95], [0.1, 0.2, 0.3, 0.05]))
    for name in ("high_sensitivity", "high_specificity", "balanced"):
        assert 0.3 < points[name].threshold < 0.7
        assert (points[name].sensitivity, points[name].specificity) == (1, 1)


def test_kaggle_is_the_maximum_of_the_sweep() -> None:
    cases = study_cases(4)
    point = choose(cases)["kaggle"]
    every = np.unique(np.concatenate(cases.scores))
    swept = rsna_table(cases.truth_by_id(), cases.boxes_by_id()).sweep(every)
    assert point.rsna_score == pytest.approx(swept.max(), abs=0.003)


def test_thresholds_stand_between_scores() -> None:
    cases = study_cases(1)
    levels = np.unique(cases.image_score)
    for point in choose(cases).values():
        assert np.abs(levels - point.threshold).min() > 1e-6
    assert between_levels(np.array([0.2, 0.6, 0.6, 0.0]), 9).tolist() == [0.1, 0.4]


def test_what_cannot_be_reached_is_left_out() -> None:
    blind = choose(_cases([0.9, 0.0, 0.0], [0.1, 0.2]))
    assert "high_sensitivity" not in blind
    assert "balanced" in blind
    no_negative = choose(_cases([0.9, 0.8], []))
    assert list(no_negative) == ["kaggle"]
    assert choose(_cases([0.0], [0.0])) == {}


def test_round_trip(tmp_path: Path) -> None:
    cases = study_cases(2)
    write_json(str(tmp_path / "operating_points.json"), document(cases, "abc"))
    points, content = read_points(tmp_path)
    assert points == choose(cases)
    assert content["model_hash"] == "abc"
    assert content["selected_on"]["images"] == len(cases)
    slope, intercept = read_platt(content) or (0, 0)
    assert (slope, intercept) == (
        content["calibration"]["platt_slope"],
        content["calibration"]["platt_intercept"],
    )
    assert read_platt({"calibration": {"platt_slope": None, "platt_intercept": 1.0}}) is None
    assert json.loads(json.dumps(document(cases))) == document(cases)


@pytest.mark.parametrize("text", ["{", "[]", '{"points": []}', '{"points": {"a": {}}}',
                                  '{"points": {"a": {"threshold": 1.5}}}',
                                  '{"points": {"a": {"threshold": true}}}',
                                  '{"points": {"a": {"threshold": NaN}}}'])  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "points.json"
    path.write_text(text)
    with pytest.raises(ArtefactError, match=r"points\.json"):
        read_points(path)


def test_points_of_a_run_are_those_of_its_best_checkpoint(tmp_path: Path) -> None:
    assert points_file(tmp_path) is None
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_points(tmp_path)
    for folder, threshold in (("last", 0.75), ("best", 0.25)):
        (tmp_path / folder).mkdir()
        points = {"points": {"kaggle": {"threshold": threshold}}}
        write_json(str(tmp_path / folder / "operating_points.json"), points)
    assert read_points(tmp_path)[0]["kaggle"].threshold == 0.25


def test_points_of_a_bundle_may_hold_other_records(tmp_path: Path) -> None:
    path = tmp_path / "operating_points.json"
    path.write_text('{"points": {"kaggle": {"threshold": 0.25, "split": "val", "n_images": 3}}}')
    assert read_points(path)[0]["kaggle"].threshold == 0.25


def test_points_are_described_by_class_and_at_the_mix() -> None:
    cases = study_cases(4, 40, 60)
    for point in choose(cases).values():
        called = cases.image_score >= point.threshold
        normal, not_normal = cases.negatives_of_class(NORMAL), cases.negatives_of_class(NOT_NORMAL)
        assert point.specificity_normal == pytest.approx(1 - called[normal].mean())
        assert point.specificity_not_normal == pytest.approx(1 - called[not_normal].mean())
        expected = (
            8851 * (1 - called[normal].mean()) + 11821 * (1 - called[not_normal].mean())
        ) / (8851 + 11821)
        assert point.specificity_at_mix == pytest.approx(expected)
        hits = 6012 * called[cases.positive].mean()
        assert point.ppv_at_mix == pytest.approx(hits / (hits + 20672 * (1 - expected)))
        assert point.mix == "RSNA stage 2"
    records = document(cases, mix=ClassMix(1, 1, 1, "thirds"))["points"]
    assert {record["mix"] for record in records.values()} == {"thirds"}
    unknown = document(make_cases(cases.truth_by_id(), cases.boxes_by_id()))["points"]
    assert not any("mix" in record or "ppv_at_mix" in record for record in unknown.values())


def test_thresholds_at_a_mix_are_those_of_copied_images() -> None:
    cases = study_cases(4, 40, 60)
    copies = np.where(cases.negatives_of_class(NOT_NORMAL) & ~cases.positive, 3, 1)
    truths, found = cases.truth_by_id(), cases.boxes_by_id()
    names = [(name, f"{name}-{k}") for name, n in zip(cases.ids, copies, strict=True)
             for k in range(n)]  # fmt: skip
    copied = make_cases({b: truths[a] for a, b in names}, {b: found[a] for a, b in names})
    counts = [
        int(copies[mask].sum())
        for mask in (
            cases.positive,
            cases.negatives_of_class(NOT_NORMAL) & ~cases.positive,
            cases.negatives_of_class(NORMAL),
        )
    ]
    mix = ClassMix(*map(float, counts), "copied")
    weighted, plain = choose(cases, mix, at_mix=True), choose(copied)
    assert {n: p.threshold for n, p in weighted.items()} == pytest.approx(
        {n: p.threshold for n, p in plain.items()}
    )
    as_they_come = choose(cases, mix)
    assert weighted["kaggle"].rsna_score_at_mix >= as_they_come["kaggle"].rsna_score_at_mix
    assert document(cases, mix=mix, at_mix=True)["selected_on"]["mix"] == "copied"
    assert "mix" not in document(cases, mix=mix)["selected_on"]
