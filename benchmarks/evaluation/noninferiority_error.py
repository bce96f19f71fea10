"""How often a model exactly at the margin is called non-inferior; nominal 2.5 %.

    python -m benchmarks.evaluation.noninferiority_error

The RSNA score or the AUROC of a reference and of a candidate that loses exactly the margin, in four
ways: few positives lost wholly, every score a little smaller (AUROC: noisier), more negatives
called, and many changes both ways with a few losses. The verdict is that of `pneumonia compare`,
its standard error by linearisation (AUROC: DeLong) instead of draws, so that thousands of studies
take seconds. The first column is of Student's t without the bound for rare losses.
"""

import numpy as np

from benchmarks.reporting import argument_parser
from evaluation.metrics.intervals import difference_reach

PREVALENCE = 0.225
CALLED_NEGATIVES = 0.1
WAYS = ("positives lost", "scores shrunk", "negatives called", "changes both ways")
POSITIVES_MIN = 10

Scores = tuple[np.ndarray, np.ndarray]


class RsnaPopulation:
    """Score and whether it counts, of every image."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.positive = rng.random(n) < PREVALENCE
        found = self.positive & (rng.random(n) < 0.7)
        self.score = np.where(found, rng.beta(1.2, 1.5, n), 0.0)
        self.counted = self.positive | (rng.random(n) < CALLED_NEGATIVES)
        self.first, self.second = rng.random(n), rng.random(n)

    def outcomes(self) -> Scores:
        """Scores and counted images of the reference."""
        return self.score, self.counted

    def candidate(self, way: str, amount: float) -> Scores:
        """Scores and counted images of a candidate."""
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

    def value(self, outcomes: Scores) -> float:
        """RSNA score."""
        return float(outcomes[0].sum() / outcomes[1].sum())

    def difference(self, index: np.ndarray, other: Scores) -> tuple[float, float, int, float]:
        """Difference and its error, by linearisation of both quotients."""
        a, counted_a = self.score[index], self.counted[index]
        b, counted_b = other[0][index], other[1][index]
        n_a, n_b = counted_a.sum(), counted_b.sum()
        mean_a, mean_b = a.sum() / n_a, b.sum() / n_b
        influence = (b - mean_b * counted_b) / n_b - (a - mean_a * counted_a) / n_a
        weight = max((x**2).sum() / max(x.sum(), 1e-12) / m for x, m in ((a, n_a), (b, n_b)))
        error = float(np.sqrt((influence**2).sum()))
        return float(mean_b - mean_a), error, int(min(n_a, n_b)), float(weight)


class RocPopulation:
    """Highest score of every image."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.positive = rng.random(n) < PREVALENCE
        self.score = rng.normal(size=n) + 1.7 * self.positive
        self.first, self.second = rng.random(n), rng.normal(size=n)

    def outcomes(self) -> Scores:
        """Scores of the reference, twice."""
        return self.score, self.score

    def candidate(self, way: str, amount: float) -> Scores:
        """Scores of a candidate, twice."""
        score = self.score.copy()
        if way == "positives lost":
            score[self.positive & (self.first < amount)] = -10.0
        elif way == "scores shrunk":
            score += 3 * amount * self.second
        elif way == "negatives called":
            score[~self.positive & (self.first < amount)] = 10.0
        else:
            score += 0.1 * self.second
            score[self.positive & (self.first < amount)] = -10.0
        return score, score

    def value(self, outcomes: Scores) -> float:
        """AUROC; no two scores are equal but those of lost or called images."""
        return float(_placements(outcomes[0], self.positive)[0].mean())

    def difference(self, index: np.ndarray, other: Scores) -> tuple[float, float, int, float]:
        """Difference and its error, by placements: DeLong, DeLong and Clarke-Pearson (1988)."""
        positive = self.positive[index]
        a = _placements(self.score[index], positive)
        b = _placements(other[0][index], positive)
        parts = [y - x for x, y in zip(a, b, strict=True)]
        error = float(np.sqrt(sum(part.var() / len(part) for part in parts)))
        n_patients = min(len(part) for part in parts)
        weight = max(a[0].mean(), b[0].mean()) / n_patients
        return float(b[0].mean() - a[0].mean()), error, n_patients, float(weight)


Population = RsnaPopulation | RocPopulation


def _placements(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of negatives below each positive, and of positives above each negative."""
    below, above = np.sort(score[~positive]), np.sort(score[positive])

    def share(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        left = np.searchsorted(others, values, "left")
        return (left + np.searchsorted(others, values, "right")) / (2 * len(others))

    return share(score[positive], below), 1 - share(score[~positive], above)


def candidate_at_margin(population: Population, way: str, margin: float) -> Scores:
    """The candidate whose value is `margin` below the reference, found by bisection."""
    low, high = 0.0, 1.0
    reference = population.value(population.outcomes())
    for _ in range(40):
        middle = (low + high) / 2
        if population.value(population.candidate(way, middle)) - reference < -margin:
            high = middle
        else:
            low = middle
    return population.candidate(way, low)


def errors(
    population: Population, way: str, n: int, margin: float, studies: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Share of studies that call the candidate non-inferior: by plain t, and by our interval."""
    other = candidate_at_margin(population, way, margin)
    plain, ours = 0, 0
    for _ in range(studies):
        index = rng.integers(0, len(population.positive), n)
        if population.positive[index].sum() < POSITIVES_MIN:
            continue
        value, error, n_patients, weight = population.difference(index, other)
        plain += value - difference_reach(error, n_patients, 0.0) > -margin
        ours += value - difference_reach(error, n_patients, weight) > -margin
    return plain / studies, ours / studies


MEASURES = {"rsna": RsnaPopulation, "auroc": RocPopulation}


def main() -> None:
    """Print one table."""
    parser = argument_parser(__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[30, 60, 100, 200, 500, 1000])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--margin", type=float, default=0.02)
    parser.add_argument("--measure", choices=MEASURES, default="rsna")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    population = MEASURES[options.measure](400_000, rng)
    print("| the candidate | patients | plain t, % | ours, % |\n|---|---|---|---|")
    for way in WAYS:
        for n in options.patients:
            plain, ours = errors(population, way, n, options.margin, options.studies, rng)
            print(f"| {way} | {n} | {100 * plain:.1f} | {100 * ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
