"""What the 95 % intervals of the evaluation pages cover, on simulated studies.

    python -m benchmarks.evaluation.interval_coverage --design cohort --out benchmarks/results

A population of patients with one or two images each, resembling one another, is simulated once; its
values are the truth. Studies are samples of its patients, as a cohort or with so many positives
(case-control); every interval is that of `pneumonia evaluate`. Wanted: 93 to 97 %. The last columns
are of percentile intervals from the same draws.
"""

from pathlib import Path

import numpy as np

from benchmarks.reporting import argument_parser, write_results
from evaluation.analysis.catalogue import all_statistics, match_study
from evaluation.analysis.evidence import DESIGNS, make_resampler
from evaluation.metrics.bootstrap import draw_all, summarise
from evaluation.study.cases import EvaluationCases, select
from pneumonia.runtime.label_table import LUNG_OPACITY, NORMAL, NOT_NORMAL
from tests.evaluation.studies import make_cases, noisy_predictions, synthetic_truths

CLASSES = (LUNG_OPACITY, NOT_NORMAL, NORMAL)
SHARES = (0.225, 0.443, 0.332)  # of RSNA stage 2
MEAN_LOGIT = (0.9, -0.6, -1.8)
POINT = {"kaggle": 0.5}
FROC_SHOWN = ("froc.iou_0.40.fp_0.25", "froc.iou_0.40.mean")


def make_population(n_patients: int, seed: int) -> EvaluationCases:
    """Patients of one or two images; class and score of a patient's images resemble one another."""
    rng = np.random.default_rng(seed)
    truths, found, facts = {}, {}, {}
    for patient in range(n_patients):
        usual, effect = rng.choice(3, p=SHARES), 0.7 * rng.normal()
        for image in range(1 + int(rng.random() < 0.5)):
            kind = usual if rng.random() < 0.85 else rng.choice(3, p=SHARES)
            key = f"{patient}_{image}"
            truth = synthetic_truths(rng, 1, 0)["p0"] if kind == 0 else np.zeros((0, 4))
            boxes = noisy_predictions(rng, {key: truth}, 0.13)[key][0] if kind == 0 else truth
            n_false = rng.integers(0, 3)
            corner = rng.uniform(100, 600, (n_false, 2))
            false = np.concatenate([corner, corner + rng.uniform(100, 350, (n_false, 2))], axis=1)
            means = [MEAN_LOGIT[kind]] * len(boxes)
            means += [MEAN_LOGIT[kind] if kind else -1.5] * n_false
            logits = np.array(means) + effect + rng.normal(size=len(means))
            truths[key] = truth
            found[key] = np.concatenate([boxes, false]), 1 / (1 + np.exp(-logits))
            facts[key] = {"patient": str(patient), "class": CLASSES[kind]}
    return make_cases(truths, found, facts)


def sample(
    population: EvaluationCases, n_patients: int, design: str, rng: np.random.Generator
) -> EvaluationCases:
    """A study of so many patients."""
    names, patient = np.unique(population.patients, return_inverse=True)
    if design == "cohort":
        chosen = rng.choice(len(names), n_patients, replace=False)
    else:
        positive = np.zeros(len(names), dtype=bool)
        np.logical_or.at(positive, patient, population.positive)
        n_positive = round(n_patients * positive.mean())
        chosen = np.concatenate(
            [
                rng.choice(np.flatnonzero(positive), n_positive, replace=False),
                rng.choice(np.flatnonzero(~positive), n_patients - n_positive, replace=False),
            ]
        )
    return select(population, np.isin(patient, chosen))


def main() -> None:
    """Simulate and print one table for each size."""
    parser = argument_parser(__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--design", choices=DESIGNS, default="cohort")
    parser.add_argument("--population", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for interval_coverage_DESIGN.json")
    options = parser.parse_args()
    population = make_population(options.population, options.seed)
    ones = np.ones((1, len(population)))
    truth = {
        item.name: float(item.compute(ones)[0])
        for item in all_statistics(match_study(population, POINT))
        if not item.name.startswith("froc") or item.name in FROC_SHOWN
    }
    rng = np.random.default_rng(options.seed)
    rows: list[dict[str, str | int | float]] = []
    for n_patients in options.patients:
        shown: dict[str, list[tuple[bool, bool, float]]] = {name: [] for name in truth}
        for number in range(options.studies):
            cases = sample(population, n_patients, options.design, rng)
            items = [i for i in all_statistics(match_study(cases, POINT)) if i.name in truth]
            resampler = make_resampler(cases, options.design, options.draws, number)
            drawn = draw_all(items, resampler)
            for item in items:
                found = summarise(item, drawn[item.name], resampler)
                if not np.isfinite(found.ci_low):
                    continue
                low, high = np.nanquantile(drawn[item.name], [0.025, 0.975])
                value = truth[item.name]
                shown[item.name].append(
                    (
                        found.ci_low - 1e-12 <= value <= found.ci_high + 1e-12,
                        low <= value <= high,
                        found.ci_high - found.ci_low,
                    )
                )
        print(f"\n{n_patients} patients, {options.studies} studies, {options.design}\n")
        print("| metric | truth | covers, % | mean width | studies | percentile covers, % |")
        print("|---|---|---|---|---|---|", flush=True)
        for name, outcomes in shown.items():
            if outcomes:
                covers, percentile, width = np.mean(np.array(outcomes, dtype=float), axis=0)
                print(f"| {name} | {truth[name]:.3f} | {100 * covers:.1f} | {width:.3f} "
                      f"| {len(outcomes)} | {100 * percentile:.1f} |", flush=True)  # fmt: skip
                rows.append(
                    {
                        "patients": n_patients,
                        "metric": name,
                        "truth": round(truth[name], 4),
                        "covers": round(float(covers), 4),
                        "percentile_covers": round(float(percentile), 4),
                        "mean_width": round(float(width), 4),
                        "studies": len(outcomes),
                    }
                )
    if options.out:
        facts = {"design": options.design, "draws": options.draws, "seed": options.seed}
        path = options.out / f"interval_coverage_{options.design}.json"
        write_results(path, {**facts, "rows": rows})


if __name__ == "__main__":
    main()
