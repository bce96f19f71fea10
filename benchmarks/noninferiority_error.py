"""How often a model exactly at the margin is called non-inferior; nominal 2.5 %.

    python benchmarks/noninferiority_error.py

The RSNA score of a reference and of a candidate that loses exactly the margin, in four ways: few
positives lost wholly, every score a little smaller, more negatives called, and many changes both
ways with a few losses. The verdict is that of `pneumonia compare`, its standard error by
linearisation instead of draws, so that thousands of studies take seconds. The first column is of
Student's t without the bound for rare losses.
"""

import argparse

import numpy as np

from evaluation.metrics.intervals import difference_reach

PREVALENCE = 0.225
CALLED_NEGATIVES = 0.1
WAYS = ("positives lost", "scores shrunk", "negatives called", "changes both ways")
POSITIVES_MIN = 10


class Population:
    """Score and whether it counts, of every image, for reference and candidate.

    Args:
        n: Images.
        rng: Random numbers.
    """

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.positive = rng.random(n) < PREVALENCE
        found = self.positive & (rng.random(n) < 0.7)
        self.score = np.where(found, rng.beta(1.2, 1.5, n), 0.0)
        self.counted = self.positive | (rng.random(n) < CALLED_NEGATIVES)
        self.first, self.second = rng.random(n), rng.random(n)

    def candidate(self, way: str, amount: float) -> tuple[np.ndarray, np.ndarray]:
        """Scores and counted images of a candidate that is worse by `amount`."""
        score, counted = self.score.copy(), self.counted.copy()
        if way == "positives lost":
            score[self.first < amount] = 0.0
        elif way == "scores shrunk":
            score *= np.clip(1 - 2 * amount * self.second, 0, 1)
        elif way == "negatives called":
            counted |= ~self.positive & (self.first < amount)
        else:
            changed = self.positive & (self.first < 0.3)
            moved = np.clip(self.score + 0.3 * (self.second - 0.5), 0, 1)
            score[changed] = moved[changed]
            score[self.first > 1 - amount] = 0.0
        return score, counted

    def at_margin(self, way: str, margin: float) -> tuple[np.ndarray, np.ndarray]:
        """The candidate whose score is `margin` below the reference, found by bisection."""
        low, high = 0.0, 1.0
        reference = self.score.sum() / self.counted.sum()
        for _ in range(40):
            middle = (low + high) / 2
            score, counted = self.candidate(way, middle)
            if score.sum() / counted.sum() - reference < -margin:
                high = middle
            else:
                low = middle
        return self.candidate(way, low)


def errors(
    population: Population, way: str, n: int, margin: float, studies: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Share of studies that call the candidate non-inferior: by plain t, and by our interval."""
    score, counted = population.at_margin(way, margin)
    plain, ours = [], []
    for _ in range(studies):
        index = rng.integers(0, len(score), n)
        if population.positive[index].sum() < POSITIVES_MIN:
            plain.append(False)
            ours.append(False)
            continue
        a, b = population.score[index], score[index]
        n_a, n_b = population.counted[index].sum(), counted[index].sum()
        mean_a, mean_b = a.sum() / n_a, b.sum() / n_b
        influence = (b - mean_b * counted[index]) / n_b
        influence -= (a - mean_a * population.counted[index]) / n_a
        error = float(np.sqrt((influence**2).sum()))
        weight = max((x**2).sum() / max(x.sum(), 1e-12) / m for x, m in ((a, n_a), (b, n_b)))
        n_patients = int(min(n_a, n_b))
        difference = mean_b - mean_a
        plain.append(difference - difference_reach(error, n_patients, 0.0) > -margin)
        ours.append(difference - difference_reach(error, n_patients, float(weight)) > -margin)
    return float(np.mean(plain)), float(np.mean(ours))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[30, 60, 100, 200, 500, 1000])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--margin", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    population = Population(400_000, rng)
    print("| the candidate | patients | plain t, % | ours, % |\n|---|---|---|---|")
    for way in WAYS:
        for n in options.patients:
            plain, ours = errors(population, way, n, options.margin, options.studies, rng)
            print(f"| {way} | {n} | {100 * plain:.1f} | {100 * ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
