"""Synthetic studies: truths and predictions with known properties, no image needed."""

import numpy as np
from numpy.typing import NDArray

from evaluation.study.cases import EvaluationCases, join
from evaluation.study.cohort import Cohort
from evaluation.study.labels import make_labels
from pneumonia.runtime.label_table import LUNG_OPACITY, NORMAL, NOT_NORMAL
from pneumonia.runtime.model.predictions import Prediction

Boxes = dict[str, NDArray[np.float64]]
SHARE_OF_TWO = 1 - 2614 / 6012  # of RSNA's positive images
Scored = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def synthetic_truths(rng: np.random.Generator, n_positive: int, n_negative: int) -> Boxes:
    """Chest-like truths on a 1024 grid: one box in each lung at most, so that none overlap."""
    truths: Boxes = {}
    for index in range(n_positive):
        n_boxes = 2 if rng.random() < SHARE_OF_TWO else 1
        sides = rng.permutation(2)[:n_boxes]
        rows = []
        for side in sides:
            centre_x = (300, 724)[side] + rng.normal(0, 30)
            centre_y = np.clip(rng.normal(560, 90), 350, 780)
            width = np.clip(rng.lognormal(np.log(217), 0.25), 90, 330)
            height = np.clip(rng.lognormal(np.log(298), 0.4), 90, 560)
            rows.append(
                np.round(
                    [
                        centre_x - width / 2,
                        centre_y - height / 2,
                        centre_x + width / 2,
                        centre_y + height / 2,
                    ]
                )
            )
        truths[f"p{index}"] = np.clip(rows, 0, 1024)
    for index in range(n_negative):
        truths[f"n{index}"] = np.zeros((0, 4))
    return truths


def noisy_predictions(
    rng: np.random.Generator,
    truths: Boxes,
    noise: float = 0.1,
    sensitivity: float = 1.0,
    specificity: float = 1.0,
) -> Scored:
    """Truths with corner noise (s.d. as a share of the side); a box on some negatives."""
    predictions: Scored = {}
    for image_id, boxes in truths.items():
        found = np.zeros((0, 4))
        if len(boxes) and rng.random() < sensitivity:
            side = boxes[:, 2:] - boxes[:, :2]
            found = boxes + rng.normal(0, 1, boxes.shape) * noise * np.tile(side, 2)
            found = np.concatenate(
                [np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])],
                axis=1,
            )
        elif not len(boxes) and rng.random() >= specificity:
            found = np.array([[200.0, 400.0, 420.0, 700.0]])
        predictions[image_id] = found, rng.uniform(0.3, 1.0, len(found))
    return predictions


def realistic_predictions(rng: np.random.Generator, truths: Boxes, floor: float = 0.01) -> Scored:
    """A detector of middling skill with a tail of faint boxes, scores overlapping both classes."""
    predictions: Scored = {}
    for image_id, boxes in truths.items():
        sharp = noisy_predictions(rng, {image_id: boxes}, 0.13)[image_id][0]
        n_faint = rng.integers(0, 5)
        corner = rng.uniform(100, 600, (n_faint, 2))
        faint = np.concatenate([corner, corner + rng.uniform(100, 350, (n_faint, 2))], axis=1)
        scores = np.concatenate(
            [rng.beta(4, 3, len(sharp)), rng.beta(1.2, 8 if not len(boxes) else 6, n_faint)]
        )
        keep = scores >= floor
        predictions[image_id] = np.concatenate([sharp, faint])[keep], scores[keep]
    return predictions


def make_cases(
    truths: Boxes, found: Scored, facts: dict[str, dict[str, str]] | None = None
) -> EvaluationCases:
    """Cases in a 1024 frame from truths and predictions in its pixels."""
    labels = make_labels({i: np.asarray(boxes, np.float32) for i, boxes in truths.items()})
    predictions = [
        Prediction(i, np.asarray(boxes, np.float32), np.asarray(scores, np.float32), 1024, 1024)
        for i, (boxes, scores) in found.items()
    ]
    return join(labels, predictions, Cohort(facts or {}))


def study_cases(seed: int = 0, n_positive: int = 60, n_negative: int = 90) -> EvaluationCases:
    """A realistic study with facts: two images a patient, views, sexes, ages, classes."""
    rng = np.random.default_rng(seed)
    truths = synthetic_truths(rng, n_positive, n_negative)
    facts = {}
    for index, (image_id, boxes) in enumerate(truths.items()):
        kind = LUNG_OPACITY if len(boxes) else (NORMAL, NOT_NORMAL)[index % 2]
        facts[image_id] = {
            "patient": str(index // 2),
            "class": kind,
            "view": ("AP", "PA")[int(rng.random() < (0.3 if len(boxes) else 0.6))],
            "sex": "FM"[index % 2],
            "age": str(int(rng.integers(1, 90))),
        }
    return make_cases(truths, realistic_predictions(rng, truths), facts)
