import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.analysis.catalogue import MatchedStudy
from evaluation.analysis.evidence import (
    FROZEN,
    StudyEvidence,
    StudyThresholds,
    compute_evidence,
    resolve_thresholds,
)
from evaluation.analysis.paired import SubgroupDelta, compare_studies
from evaluation.analysis.subgroups import SUPPRESSED
from evaluation.hardware.footprint import Footprint
from evaluation.metrics.bootstrap import Estimate, Resampler
from evaluation.report.claim import claim_document, fill_checklist
from evaluation.report.comparison_page import CompareReport, write_compare_report
from evaluation.report.model_card import limits, model_card
from evaluation.report.overlays import BOX_COLOUR, TRUTH_COLOUR, draw_tile
from evaluation.report.page import ExtraFigure, ExtraSection
from evaluation.report.study_page import write_report
from evaluation.report.tables import metrics_document, write_tables
from evaluation.report.wording import NOT_AVAILABLE, interval_text, name_of, number_text, value_text
from evaluation.study.image_files import find_image
from pneumonia.runtime.errors import DISCLAIMER, DataError
from pneumonia.runtime.model.predictions import read_predictions
from tests.evaluation.studies import make_cases, study_cases

CASES = study_cases(21, 70, 90)
RESAMPLER = Resampler(CASES.patients, CASES.positive, 200, 0)


@pytest.fixture(scope="module")
def evidence() -> StudyEvidence:
    return compute_evidence(CASES, resolve_thresholds(CASES), RESAMPLER, {"noise_5": CASES})


class _Page(HTMLParser):
    """Checks that tags nest, and gathers what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.links += [values[k] for k in ("src", "href", "xlink:href") if values.get(k)]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "img", "br"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _check(text: str) -> _Page:
    """Self-contained, well-formed, every internal link leads somewhere, ids are unique."""
    page = _Page(text)
    for link in page.links:
        assert link.startswith(("#", "data:")), link
        if link.startswith("#"):
            assert link[1:] in page.ids, link
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\((?!#|['\"]?#)", text)
    assert "<script" not in text
    assert text.count(DISCLAIMER) >= 2
    return page


def test_the_page_is_self_contained_and_holds_the_numbers(
    tmp_path: Path, evidence: StudyEvidence
) -> None:
    write_report(tmp_path / "report.html", evidence)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    _check(text)
    for metric in ("image.auroc", "coco.ap50", "rsna.kaggle", "calibration.brier"):
        item = evidence.estimates[metric]
        assert value_text(item) in text
        assert interval_text(item) in text
    assert "Optimistic" in text  # the thresholds were chosen on these images
    assert "suppressed" in text
    assert "noise, s.d. 5 grey levels" in text


def test_frozen_thresholds_are_not_called_optimistic(tmp_path: Path) -> None:
    points = resolve_thresholds(CASES).points
    frozen = resolve_thresholds(CASES, points, platt=(1.0, 0.0))
    assert frozen.origin == FROZEN
    found = compute_evidence(CASES, frozen, RESAMPLER)
    write_report(tmp_path / "report.html", found)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Optimistic" not in text
    assert "Platt" in text
    assert "calibration.ece_platt" in found.estimates


def test_ids_and_captions_are_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    box = np.array([[10.0, 10, 400, 400]])
    empty = np.zeros((0, 4)), np.zeros(0)
    cases = make_cases({evil: empty[0], "b": box}, {evil: (box, np.array([0.9])), "b": empty})
    found = compute_evidence(cases, resolve_thresholds(cases, threshold=0.5), Resampler(
        cases.patients, cases.positive, 100, 0))  # fmt: skip
    extra = [ExtraSection(evil, [ExtraFigure(_png(), evil)], evil)]
    write_report(tmp_path / "report.html", found, extra=extra)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x") >= 4
    _check(text)


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_the_smallest_study_gives_a_page(tmp_path: Path) -> None:
    empty = np.zeros((0, 4)), np.zeros(0)
    cases = make_cases({"a": empty[0]}, {"a": empty})
    with pytest.raises(DataError, match="--threshold"):
        resolve_thresholds(cases)
    resampler = Resampler(cases.patients, cases.positive, 100, 0)
    found = compute_evidence(cases, resolve_thresholds(cases, threshold=0.5), resampler)
    write_report(tmp_path / "report.html", found)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    _check(text)
    assert "not available" in text
    words = re.sub(r"<svg.*?</svg>|<style.*?</style>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b", words, flags=re.IGNORECASE)
    write_tables(found, tmp_path)
    assert "not available" in model_card(found)


def test_tables_agree_with_the_evidence(tmp_path: Path, evidence: StudyEvidence) -> None:
    write_tables(evidence, tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert names == {
        "metrics.json", "predictions.csv", "submission.csv", "pr.csv", "froc.csv", "roc.csv",
        "calibration.csv", "subgroups.csv", "operating_points.csv", "robustness.csv",
        "failures/counts.csv", "failures/images.csv", "failures/worst.csv",
    }  # fmt: skip
    back = {item.image_id: item for item in read_predictions(str(tmp_path / "predictions.csv"))}
    assert list(back) == list(CASES.ids)
    for image_id, boxes, scores in zip(CASES.ids, CASES.boxes, CASES.scores, strict=True):
        np.testing.assert_allclose(back[image_id].boxes, boxes, rtol=1e-6)
        np.testing.assert_allclose(back[image_id].scores, scores, rtol=1e-6)


def test_every_metric_carries_its_uncertainty(evidence: StudyEvidence) -> None:
    document = metrics_document(evidence)
    assert document["schema"] == "pneumonia.metrics/1"
    assert set(document["metrics"]) == set(evidence.estimates)
    for name, row in document["metrics"].items():
        assert list(row) == ["value", "ci_low", "ci_high", "n", "method", "seed"], name
        assert row["value"] is None or np.isfinite(row["value"])


def test_every_metric_has_a_name_for_the_reader(evidence: StudyEvidence) -> None:
    names = {metric: name_of(metric) for metric in evidence.estimates}
    assert len(set(names.values())) == len(names)
    assert not [metric for metric, name in names.items() if name == metric]


def test_checklist_is_complete_and_never_blank(evidence: StudyEvidence) -> None:
    items = fill_checklist(evidence)
    assert [item.number for item in items] == list(range(1, 43))
    assert all(item.answer for item in items)
    answers = {item.number: item.answer for item in items}
    assert answers[42] == NOT_AVAILABLE
    assert "noise_5" in answers[30]
    assert claim_document(items)["reported"] == sum(a != NOT_AVAILABLE for a in answers.values())


def test_limits_name_what_is_missing(evidence: StudyEvidence) -> None:
    lines = " ".join(limits(evidence))
    assert "optimistic" in lines
    assert "Fewer than 100" in lines
    assert "Patients are not known" not in lines


def test_compare_page(tmp_path: Path, evidence: StudyEvidence) -> None:
    study = evidence.study
    thresholds = resolve_thresholds(CASES)
    comparisons = compare_studies({"dense": study, "pruned": study}, RESAMPLER)
    report = CompareReport(
        {"dense": study, "pruned": study},
        comparisons,
        {"dense": Footprint(61_523_734, 32_800_000_000, 246_000_000, 410.0),
         "pruned": Footprint(1_709_000, 910_000_000, 6_900_000)},
        {"dense": thresholds, "pruned": thresholds},
        "kaggle",
        200,
        0,
        extra=[ExtraSection("Training", [ExtraFigure(_png(), "loss")])],
    )  # fmt: skip
    write_compare_report(tmp_path / "compare.html", report)
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    _check(text)
    assert "36.0\N{MULTIPLICATION SIGN} fewer parameters" in text
    assert "61.5 M" in text
    assert "410.00 ms" in text
    assert "not available" in text  # the pruned model's latency
    assert "non-inferior" in text
    assert "data:image/png;base64" in text


def _delta(name: str, value: float, low: float, high: float, metric: str = "rsna") -> SubgroupDelta:
    method = "paired" if np.isfinite(value) else SUPPRESSED
    item = Estimate(value, low, high, 40, method)
    survives = low > 0 or high < 0  # here every interval that excludes zero is clear enough
    return SubgroupDelta("view", name, 90, 40, metric, item, 0.0001 if survives else 0.5, survives)


def _group_page(path: Path, study: MatchedStudy, groups: list[SubgroupDelta]) -> str:
    comparison = compare_studies({"dense": study, "pruned": study}, RESAMPLER)[0]
    thresholds = dict.fromkeys(("dense", "pruned"), resolve_thresholds(CASES))
    studies = {"dense": study, "pruned": study}
    comparisons = [replace(comparison, groups=groups)]
    write_compare_report(
        path, CompareReport(studies, comparisons, {}, thresholds, "kaggle", 200, 0)
    )
    text = path.read_text(encoding="utf-8")
    _check(text)
    return text


def test_groups_that_lose_are_named_at_the_top(tmp_path: Path, evidence: StudyEvidence) -> None:
    groups = [
        _delta("AP", -0.063, -0.097, -0.031),
        _delta("PA", -0.2, -0.5, 0.01),  # may be chance
        _delta("lateral", 0.05, 0.02, 0.08),
        _delta("oblique", -0.1, -0.15, -0.05, "sensitivity"),
    ]
    text = _group_page(tmp_path / "c.html", evidence.study, groups)
    summary = text[text.index('id="summary"') : text.index('id="cost"')]
    warning = summary[summary.index("Some groups lose more") :]
    minus = "−"
    assert f"view oblique: Sensitivity {minus}10.0 pp ({minus}15.0 to {minus}5.0); " in warning
    assert f"view AP: RSNA score {minus}0.063 ({minus}0.097 to {minus}0.031)." in warning
    assert "view PA" not in warning
    assert "lateral" not in warning
    assert "4 differences were tested" in text
    assert "Too few images" not in text


def test_a_loss_that_the_number_of_groups_explains_is_not_named(
    tmp_path: Path, evidence: StudyEvidence
) -> None:
    chance = replace(_delta("AP", -0.06, -0.1, -0.01), p_value=0.02, survives=False)
    text = _group_page(tmp_path / "c.html", evidence.study, [chance])
    assert "Some groups lose more" not in text


def test_the_first_page_answers_four_questions(tmp_path: Path, evidence: StudyEvidence) -> None:
    write_report(tmp_path / "r.html", evidence)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    summary = text[text.index('id="summary"') : text.index('id="how-to-read"')]
    before_numbers = summary[: summary.index('class="cards"')]
    for question in ("On whom?", "Against what truth?", "How well", "What must it not be used for"):
        assert question in before_numbers
    assert "that are not normal and" in before_numbers
    assert "not a medical device" in before_numbers
    assert "RSNA stage 2 (22.5 % opacity" in summary
    point = evidence.thresholds.primary
    at_mix = evidence.at_mix.estimates[f"{point}.specificity"]
    assert value_text(at_mix, True) in summary
    document = metrics_document(evidence)["at_mix"]
    assert document["metrics"][f"{point}.specificity"]["value"] == at_mix.value
    assert "RSNA stage 2" in model_card(evidence)


def test_without_classes_results_hold_for_this_set_only(tmp_path: Path) -> None:
    facts = {i: {k: v for k, v in CASES.cohort.facts[i].items() if k != "class"} for i in CASES.ids}
    cases = make_cases(CASES.truth_by_id(), CASES.boxes_by_id(), facts)
    found = compute_evidence(cases, resolve_thresholds(cases), RESAMPLER)
    assert found.at_mix is None
    write_report(tmp_path / "r.html", found)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "valid for this set only" in text[: text.index('class="cards"')]
    assert "Valid for this set only" in text
    assert metrics_document(found)["at_mix"] is None
    assert "cannot be separated" in model_card(found)


def test_groups_that_are_all_too_small_are_folded_away(
    tmp_path: Path, evidence: StudyEvidence
) -> None:
    nan = float("nan")
    text = _group_page(tmp_path / "c.html", evidence.study, [_delta("AP", nan, nan, nan)])
    assert "Too few images" in text
    assert "Some groups lose more" not in text
    few = study_cases(3, 12, 12)
    found = compute_evidence(
        few, resolve_thresholds(few), Resampler(few.patients, few.positive, 100, 0)
    )
    write_report(tmp_path / "r.html", found)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    _check(text)
    assert "groups cannot be compared" in text


def test_tile_shows_truth_and_box_where_they_are() -> None:
    picture = draw_tile(
        np.full((512, 256), 90, np.uint8),
        (256, 512),
        np.array([[50.0, 100, 150, 300]]),
        np.array([[60.0, 350, 200, 500]]),
        np.array([0.5]),
    )
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    scale = image.shape[0] / 512
    assert image.shape[:2] == (420, 210)

    def near(y: float, x: float, colour: tuple[int, int, int]) -> bool:
        patch = image[
            int(y * scale) - 3 : int(y * scale) + 4, int(x * scale) - 3 : int(x * scale) + 4
        ]
        return bool((np.abs(patch - np.array(colour)).sum(axis=2) < 90).any())

    assert near(200, 50, TRUTH_COLOUR)
    assert near(350, 61, BOX_COLOUR)
    assert not near(200, 100, TRUTH_COLOUR)


def test_an_id_never_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    assert find_image(tmp_path / "in", "a") == tmp_path / "in" / "a.png"
    assert find_image(tmp_path / "in", "../b") is None
    assert find_image(tmp_path / "in", "") is None


def test_numbers_as_text() -> None:
    assert number_text(0.82814, share=True) == "82.8 %"
    assert number_text(-0.00001, sign=True) == "0.000"
    assert number_text(-0.012, share=True, sign=True) == "\N{MINUS SIGN}1.2 pp"
    item = Estimate(0.5, 0.25, 0.75, 4, "")
    assert interval_text(item, share=True) == "25.0 to 75.0"
    assert value_text(None) == "not available"


def test_primary_point() -> None:
    points = resolve_thresholds(CASES).points
    assert StudyThresholds(points, FROZEN).primary == "kaggle"
    assert StudyThresholds({"given": points["balanced"]}, FROZEN).primary == "given"
