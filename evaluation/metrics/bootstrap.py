"""The bootstrap over patients, a block of draws at once.

A draw is a row of weights: how often each image occurs. Patients are drawn with replacement, with
all their images, within strata: with positive and negative images as strata every draw has as many
patients of each as the study (case-control design); with one stratum the prevalence varies from
draw to draw (cohort design). A statistic maps a block of weights (D, N) to values (D,).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.intervals import LOGIT_T, standard_error, value_interval
from evaluation.metrics.matching import Float64Array, IntArray
from pneumonia.runtime.progress import Progress, report_progress

BLOCK_DRAWS = 100  # draws evaluated at once: keeps the weights of 5,000 images in the cache
SHIFTED = LOGIT_T + ", value and draws corrected for their bias"


@dataclass(frozen=True)
class Statistic:
    """A number that can be computed for any weighting of the images."""

    name: str  # key in metrics.json
    n: int  # units behind it (images, positives, truths ...), shown in the report
    # (D, N) weights -> (D,) values, NaN where undefined
    compute: Callable[[Float64Array], Float64Array]
    # the statistic is too large on few images (ECE counts noise as error, AP ranks too well): its
    # interval is centred at the value minus the mean excess of the draws over it
    inflated: bool = False
    # (N,) masks of images, each of which has to be represented (positives and negatives for an
    # AUROC); the interval counts the patients of the smallest. None = all images
    rests_on: tuple[NDArray[np.bool_], ...] = ()
    # lowest, highest: possible values: 0..1, or 0..inf, or -inf..inf
    lowest: float = 0.0
    highest: float = 1.0


@dataclass(frozen=True)
class RatioStatistic:
    """A statistic that is a quotient of two sums over images."""

    name: str  # key in metrics.json
    n: int  # units in the denominator
    numerator: Float64Array  # (N,) contribution of each image, >= 0
    # (N,) contribution of each image, >= 0; the statistic rests on the images with a positive one
    denominator: Float64Array
    highest: float = 1.0  # highest possible value, 1 or inf; the lowest is 0

    @property
    def lowest(self) -> float:
        """Lowest possible value."""
        return 0.0

    @property
    def rests_on(self) -> tuple[NDArray[np.bool_], ...]:
        """The images with a positive denominator."""
        return (np.asarray(self.denominator > 0),)

    def compute(self, weights: Float64Array) -> Float64Array:
        """(D,) numerator / denominator; NaN where the denominator is 0."""
        return divide(weights @ self.numerator, weights @ self.denominator)


AnyStatistic = Statistic | RatioStatistic


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval; NaN = not available."""

    value: float  # on the study itself
    # ci_low, ci_high: interval
    ci_low: float
    ci_high: float
    n: int  # units (images, boxes ...) behind it
    method: str  # how the interval was computed


@dataclass(frozen=True)
class Resampler:
    """Draws patients."""

    patients: IntArray  # (N,) patient number of each image
    # (N,) stratum of each image, bool or int >= 0 (`positive`: two strata); a patient belongs to
    # the highest stratum of their images
    strata: NDArray[np.bool_] | IntArray
    draws: int = 2000  # bootstrap draws
    seed: int = 0  # seed of the random numbers; the same seed gives the same draws

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
        report_progress(progress, done, resampler.draws, "bootstrap draws")
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
    centre = value
    if isinstance(item, Statistic) and item.inflated and np.isfinite(drawn).any():
        centre = max(0.0, 2 * value - float(np.nanmean(drawn)))
    low, high, method = value_interval(
        centre,
        standard_error(drawn),
        count_patients(item, resampler.patients),
        item.lowest,
        item.highest,
    )
    if centre != value and np.isfinite(low):
        low, high, method = min(low, value), max(high, value), SHIFTED
    return Estimate(value, low, high, item.n, method)


def count_patients(item: AnyStatistic, patients: IntArray) -> int:
    """Number of patients behind a statistic: the minimum over its sets of images."""
    masks = item.rests_on or (np.ones(len(patients), dtype=bool),)
    return min(len(np.unique(patients[mask])) for mask in masks)


def image_weight(item: AnyStatistic, value: float, patients: IntArray) -> float:
    """Change of a statistic when a typical image (or patient) behind it is lost.

    For a quotient of sums: sum(x^2) / sum(x) over patients, divided by the denominator's sum, so
    that larger contributions weigh more. For any other statistic: value / number of patients.
    """
    if not isinstance(item, RatioStatistic):
        return abs(value) / max(1, count_patients(item, patients))
    _, patient = np.unique(patients, return_inverse=True)
    sums = np.bincount(patient, item.numerator)
    total = float(sums.sum())
    typical = float((sums**2).sum()) / total if total > 0 else 1.0
    return typical / max(1e-12, float(item.denominator.sum()))


def _stack(columns: Sequence[Float64Array]) -> Float64Array:
    """Columns (N,) as one (N, C) matrix, so that one matrix product sums them all."""
    return np.stack(columns, axis=1).astype(np.float64) if columns else np.zeros((0, 0))


def finite_or_none(value: float) -> float | None:
    """The value as JSON: NaN and infinities, which JSON does not have, become None."""
    return float(value) if np.isfinite(value) else None


def estimate_json(item: Estimate) -> dict[str, float | int | str | None]:
    """An estimate as JSON values."""
    return {
        "value": finite_or_none(item.value),
        "ci_low": finite_or_none(item.ci_low),
        "ci_high": finite_or_none(item.ci_high),
        "n": int(item.n),
        "method": item.method,
    }
