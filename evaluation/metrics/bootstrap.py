"""Uncertainty: the bootstrap over patients, all draws of a block at once.

A draw is a row of weights: how often each image occurs. Patients are drawn with replacement and
images follow their patient. The strata say what a draw keeps fixed: with positive and negative
images as strata every draw holds as many patients of each as the study (case-control design);
with one stratum the prevalence is drawn, too (cohort design). A statistic maps a block of weights
(D, N) to values (D,).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.matching import Float64Array, IntArray
from pneumonia.runtime.progress import Progress

BLOCK_DRAWS = 100  # draws evaluated at once: keeps the weights of 5,000 images in the cache
LEVEL = 0.95
PERCENTILE = "percentile bootstrap over patients"
BCA = "BCa bootstrap over patients"
SHIFTED = "percentile bootstrap over patients, shifted by its bias"
WILSON = "Wilson score interval (no draw differs)"
NONE = "not available"


@dataclass(frozen=True)
class Statistic:
    """A number that can be computed for any weighting of the images.

    Attributes:
        name: Key in metrics.json.
        n: Units it rests on (images, positives, truths ...), for the reader.
        compute: (D, N) weights -> (D,) values, NaN where undefined.
        inflated: Resampling adds noise that the statistic counts as error (ECE): its draws are
            shifted back by their mean excess over the value, and cut at 0.
    """

    name: str
    n: int
    compute: Callable[[Float64Array], Float64Array]
    inflated: bool = False


@dataclass(frozen=True)
class RatioStatistic:
    """A statistic that is a quotient of two sums over images; gets BCa intervals.

    Attributes:
        name: Key in metrics.json.
        n: Units in the denominator.
        numerator: (N,) contribution of each image.
        denominator: (N,) contribution of each image.
    """

    name: str
    n: int
    numerator: Float64Array
    denominator: Float64Array

    def compute(self, weights: Float64Array) -> Float64Array:
        """(D,) numerator / denominator; NaN where the denominator is 0."""
        return divide(weights @ self.numerator, weights @ self.denominator)


AnyStatistic = Statistic | RatioStatistic


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval; NaN = not available.

    Attributes:
        value: On the study itself.
        ci_low, ci_high: Interval.
        n: Units it rests on.
        method: How the interval was made.
    """

    value: float
    ci_low: float
    ci_high: float
    n: int
    method: str


@dataclass(frozen=True)
class Resampler:
    """Draws patients.

    Attributes:
        patients: (N,) patient number of each image.
        strata: (N,) stratum of each image, bool or int >= 0 (`positive`: two strata); a patient
            belongs to the highest stratum of his images.
        draws: Bootstrap draws.
        seed: Of the random numbers; the same seed gives the same draws.
    """

    patients: IntArray
    strata: NDArray[np.bool_] | IntArray
    draws: int = 2000
    seed: int = 0

    def blocks(self) -> Iterator[Float64Array]:
        """Weights (D, N) block by block."""
        names, patient = np.unique(self.patients, return_inverse=True)
        highest = np.zeros(len(names), dtype=np.intp)
        np.maximum.at(highest, patient, np.asarray(self.strata, dtype=np.intp))
        strata = [np.flatnonzero(highest == level) for level in np.unique(highest)[::-1]]
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.draws, BLOCK_DRAWS):
            size = min(BLOCK_DRAWS, self.draws - start)
            counts = np.zeros((size, len(names)))
            for stratum in strata:
                drawn = rng.integers(0, len(stratum), (size, len(stratum)))
                drawn += np.arange(size)[:, None] * len(stratum)
                counts[:, stratum] = np.bincount(
                    drawn.ravel(), minlength=size * len(stratum)
                ).reshape(size, -1)
            yield counts[:, patient]


def divide(numerator: Float64Array, denominator: Float64Array) -> Float64Array:
    """Quotient, NaN where the denominator is not positive."""
    value = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=value, where=np.asarray(denominator > 0))
    return value


def draw_all(
    statistics: Sequence[AnyStatistic], resampler: Resampler, progress: Progress | None = None
) -> dict[str, Float64Array]:
    """Every statistic on every draw: name -> (draws,)."""
    ratios = [item for item in statistics if isinstance(item, RatioStatistic)]
    others = [item for item in statistics if not isinstance(item, RatioStatistic)]
    sums = _stack([part for item in ratios for part in (item.numerator, item.denominator)])
    values: dict[str, list[Float64Array]] = {item.name: [] for item in statistics}
    done = 0
    for weights in resampler.blocks():
        if ratios:
            totals = weights @ sums
            for index, ratio in enumerate(ratios):
                values[ratio.name].append(divide(totals[:, 2 * index], totals[:, 2 * index + 1]))
        for item in others:
            values[item.name].append(item.compute(weights))
        done += len(weights)
        if progress is not None:
            progress(done, resampler.draws, "bootstrap draws")
    return {name: np.concatenate([*parts, np.zeros(0)]) for name, parts in values.items()}


def estimate_all(
    statistics: Sequence[AnyStatistic], resampler: Resampler, progress: Progress | None = None
) -> dict[str, Estimate]:
    """Value and interval of every statistic."""
    drawn = draw_all(statistics, resampler, progress)
    return {item.name: summarise(item, drawn[item.name], resampler) for item in statistics}


def summarise(item: AnyStatistic, drawn: Float64Array, resampler: Resampler) -> Estimate:
    """Value and interval of one statistic from its draws."""
    once = np.ones((1, len(resampler.patients)))
    value = float(item.compute(once)[0])
    finite = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(finite) < max(1, len(drawn) // 2):
        return Estimate(value, float("nan"), float("nan"), item.n, NONE)
    if isinstance(item, RatioStatistic):
        if finite.min() == finite.max() and value in (0.0, 1.0) and item.n > 0:
            return Estimate(value, *wilson(value * item.n, item.n), item.n, WILSON)
        low, high = _bca(item, value, finite, resampler.patients)
        return Estimate(value, low, high, item.n, BCA)
    if item.inflated:
        finite = np.maximum(0.0, finite - (finite.mean() - value))
        return Estimate(value, *percentile_interval(finite), item.n, SHIFTED)
    return Estimate(value, *percentile_interval(finite), item.n, PERCENTILE)


def percentile_interval(drawn: Float64Array) -> tuple[float, float]:
    """Central 95 % of the draws; NaN without draws."""
    finite = drawn[np.isfinite(drawn)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson score interval of a proportion of n."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)


def _stack(columns: Sequence[Float64Array]) -> Float64Array:
    """Columns as one (N, C) matrix, so that one product sums them all."""
    return np.stack(columns, axis=1).astype(np.float64) if columns else np.zeros((0, 0))


def _bca(
    item: RatioStatistic, value: float, drawn: Float64Array, patients: IntArray
) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987), jackknife over patients."""
    normal = NormalDist()
    below = (np.sum(drawn < value) + 0.5 * np.sum(drawn == value)) / len(drawn)
    if not 0.0 < below < 1.0:
        return percentile_interval(drawn)
    _, patient = np.unique(patients, return_inverse=True)
    without = divide(
        item.numerator.sum() - np.bincount(patient, item.numerator),
        item.denominator.sum() - np.bincount(patient, item.denominator),
    )
    spread = np.nanmean(without) - without
    spread = spread[np.isfinite(spread)]
    scale = float((spread**2).sum()) ** 1.5
    acceleration = float((spread**3).sum()) / (6 * scale) if scale > 0 else 0.0
    bias = normal.inv_cdf(float(below))
    ends = []
    for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        shifted = bias + normal.inv_cdf(tail)
        ends.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    low, high = np.quantile(drawn, ends)
    return float(low), float(high)


def estimate_json(item: Estimate) -> dict[str, float | int | str | None]:
    """An estimate as JSON values; NaN becomes None."""

    def clean(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        "value": clean(item.value),
        "ci_low": clean(item.ci_low),
        "ci_high": clean(item.ci_high),
        "n": int(item.n),
        "method": item.method,
    }
