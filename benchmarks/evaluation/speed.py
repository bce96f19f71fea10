"""How long the whole evidence takes: 2,000 bootstrap draws of every metric on 5,000 images.

    python benchmarks/evaluation/speed.py [--images 5000] [--draws 2000]

Bound: 10 s on one core of the development machine.
"""

import argparse
import json
import time

import numpy as np

from evaluation.analysis.catalogue import all_statistics, open_study
from evaluation.metrics.bootstrap import Resampler, estimate_all
from evaluation.study.cases import EvaluationCases, join
from evaluation.study.cohort import LUNG_OPACITY, NORMAL, NOT_NORMAL, Cohort
from evaluation.study.labels import make_labels
from evaluation.study.operating_points import choose
from pneumonia.runtime.model.predictions import Prediction


def make_cases(n_images: int, seed: int = 0) -> EvaluationCases:
    """RSNA-like: 22.5 % positive, noisy hits and about six faint boxes per image."""
    rng = np.random.default_rng(seed)
    boxes, facts, predictions = {}, {}, []
    for index in range(n_images):
        image_id = f"image{index}"
        n = int(rng.integers(1, 3)) if rng.random() < 0.225 else 0
        corner = np.stack([np.arange(n) * 450 + 100.0, rng.uniform(150, 500, n)], axis=1)
        truth = np.concatenate([corner, corner + rng.uniform(150, 330, (n, 2))], axis=1)
        faint_corner = rng.uniform(50, 600, (int(rng.integers(2, 11)), 2))
        faint = np.concatenate(
            [faint_corner, faint_corner + rng.uniform(100, 350, faint_corner.shape)], axis=1
        )
        scores = np.concatenate([rng.beta(4, 3, n), rng.beta(1.2, 8, len(faint))])
        found = np.concatenate([truth + rng.normal(0, 25, truth.shape), faint])
        boxes[image_id] = truth.astype(np.float32)
        predictions.append(Prediction(image_id, found, scores, 1024, 1024))
        name = LUNG_OPACITY if n else (NORMAL if rng.random() < 0.43 else NOT_NORMAL)
        facts[image_id] = {"class": name, "patient": str(index // 2), "view": "AP"}
    return join(make_labels(boxes), predictions, Cohort(facts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--draws", type=int, default=2000)
    arguments = parser.parse_args()
    cases = make_cases(arguments.images)
    start, started = time.perf_counter(), time.process_time()
    points = choose(cases)
    study = open_study(cases, {name: point.threshold for name, point in points.items()})
    statistics = all_statistics(study)
    matched = time.perf_counter()
    resampler = Resampler(cases.patients, cases.positive, arguments.draws)
    estimates = estimate_all(statistics, resampler)
    end = time.perf_counter()
    print(
        json.dumps(
            {
                "images": len(cases),
                "boxes": cases.coverage.n_boxes,
                "draws": arguments.draws,
                "metrics": len(estimates),
                "matching_s": round(matched - start, 2),
                "bootstrap_s": round(end - matched, 2),
                "total_s": round(end - start, 2),
                "processor_s": round(time.process_time() - started, 2),  # without other programs
            }
        )
    )


if __name__ == "__main__":
    main()
