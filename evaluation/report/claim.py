"""The CLAIM checklist, filled from the artefacts; "not available" for items they do not answer."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.analysis.catalogue import FROC_PRIMARY_IOU
from evaluation.analysis.evidence import StudyEvidence
from evaluation.report.wording import NOT_AVAILABLE

SCHEMA = "pneumonia.claim/1"
ITEMS_FILE = Path(__file__).parent / "templates" / "claim_items.json"


@dataclass(frozen=True)
class ClaimItem:
    """One of the 42 items."""

    number: int  # 1..42
    topic: str  # section of the checklist
    asks: str  # what is to be reported
    answer: str  # the answer from the artefacts, or `not available`
    section: str = ""  # anchor in report.html with the details; empty = none

    @property
    def reported(self) -> bool:
        """Whether there is an answer."""
        return self.answer != NOT_AVAILABLE


def fill_checklist(evidence: StudyEvidence) -> list[ClaimItem]:
    """All 42 items, each with its answer or `not available`."""
    answers = _answers(evidence)
    items = json.loads(ITEMS_FILE.read_text(encoding="utf-8"))["items"]
    return [
        ClaimItem(number, topic, asks, *answers.get(number, (NOT_AVAILABLE, "")))
        for number, topic, asks in items
    ]


def claim_document(items: list[ClaimItem]) -> dict[str, Any]:
    """The content of claim.json."""
    source = json.loads(ITEMS_FILE.read_text(encoding="utf-8"))["source"]
    return {
        "schema": SCHEMA,
        "source": source,
        "reported": sum(item.reported for item in items),
        "items": [{**asdict(item), "reported": item.reported} for item in items],
    }


def _answers(evidence: StudyEvidence) -> dict[int, tuple[str, str]]:
    """Item -> (answer, anchor), for those that the artefacts answer."""
    coverage = evidence.study.cases.coverage
    n_positive = int(evidence.study.cases.positive.sum())
    facts = evidence.provenance.facts
    answers = {
        1: ("Detection of lung opacities in frontal chest radiographs by a convolutional network "
            "(deep learning)", "top"),
        5: ("Retrospective evaluation on stored radiographs", "cohort"),
        6: ("Measure detection and image-level accuracy against expert boxes", "summary"),
        7: ("Input files with checksums", "provenance"),
        10: (f"{coverage.n_evaluated:,} of {coverage.n_labelled:,} labelled images evaluated",
             "cohort"),
        13: (f"{coverage.n_missing:,} labelled images were not scored, "
             f"{coverage.n_unlabelled:,} scored images had no label; both left out", "cohort"),
        14: ("Boxes of the labels file (RSNA format); an image is positive when it has a box",
             "how-to-read"),
        23: (", ".join(f"{k} {v}" for k, v in evidence.provenance.versions.items()), "provenance"),
        28: ("RSNA score, COCO AP, FROC, AUROC, AUPRC, sensitivity, specificity, predictive "
             f"values, calibration; hits at IoU {FROC_PRIMARY_IOU:g} unless stated", "detection"),
        29: (f"95 % intervals from {evidence.draws:,} bootstrap draws of patients, seed "
             f"{evidence.seed}", "how-to-read"),
        33: ("Counts of labelled, scored, missing and evaluated images", "cohort"),
        34: ("Class, view, sex and age of the evaluated images as far as known", "cohort"),
        36: (f"Accuracy with intervals on {n_positive:,} positive and "
             f"{coverage.n_evaluated - n_positive:,} negative images", "operating-points"),
        37: ("Error types and the worst cases", "failures"),
        38: ("Limits of this evaluation", "limits"),
        39: ("Research use only; not a medical device", "limits"),
    }  # fmt: skip
    if evidence.robustness:
        names = ", ".join(row.name for row in evidence.robustness[1:])
        answers[30] = (f"Perturbed images: {names}", "robustness")
    if not evidence.thresholds.is_optimistic:
        answers[26] = ("Operating points were fixed before this evaluation", "operating-points")
    return {**answers, **_model_answers(facts)}


def _model_answers(facts: Mapping[str, str]) -> dict[int, tuple[str, str]]:
    """Answers that need the model's bundle."""
    answers = {}
    if facts.get("network"):
        answers[22] = (facts["network"], "provenance")
    if facts.get("preprocessing"):
        answers[9] = (facts["preprocessing"], "provenance")
    if facts.get("training"):
        answers[25] = (facts["training"], "provenance")
    return answers
