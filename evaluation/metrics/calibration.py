"""Calibration of the image score: whether a score of 0.7 is a 70 % chance.

The image score is the highest box score, 0 without a box. Logits clip it to
[LOGIT_FLOOR, 1 - LOGIT_FLOOR], because an image without boxes has no finite logit.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.bootstrap import AnyStatistic, RatioStatistic, Statistic, divide
from evaluation.metrics.matching import Float64Array

LOGIT_FLOOR = 1e-3
N_BINS = 10
NEWTON_STEPS = 50
SLOPE_LIMIT = 100.0  # beyond this the classes are separated and no finite slope exists


@dataclass(frozen=True)
class ReliabilityBin:
    """One bar of the reliability plot."""

    # low, high: scores of the bin
    low: float
    high: float
    mean_score: float  # mean score of its images
    observed: float  # share of its images that are positive
    n: int  # images


def logit(scores: ArrayLike) -> Float64Array:
    """Log odds of scores clipped to [LOGIT_FLOOR, 1 - LOGIT_FLOOR]."""
    values = np.clip(np.asarray(scores, dtype=np.float64), LOGIT_FLOOR, 1 - LOGIT_FLOOR)
    return np.asarray(np.log(values) - np.log1p(-values))


def sigmoid(values: ArrayLike) -> Float64Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(values, dtype=np.float64))))


def mass_bins(scores: ArrayLike, n_bins: int = N_BINS) -> list[np.ndarray]:
    """Indices of images in bins of (nearly) equal mass; equal scores share a bin.

    Returns:
        At most `n_bins` arrays of indices in ascending score.
    """
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    edges = np.linspace(0, len(values), n_bins + 1).round().astype(int)[1:-1]
    ranked = values[order]
    # an edge inside a run of equal scores moves to the run's end
    cuts = sorted(
        {int(np.searchsorted(ranked, ranked[edge - 1], "right")) for edge in edges if edge}
    )
    return [part for part in np.split(order, cuts) if len(part)]


def reliability(positive: ArrayLike, scores: ArrayLike) -> list[ReliabilityBin]:
    """The reliability plot in equal-mass bins."""
    values = np.asarray(scores, dtype=np.float64)
    label = np.asarray(positive, dtype=np.float64)
    return [
        ReliabilityBin(
            low=float(values[part].min()),
            high=float(values[part].max()),
            mean_score=float(values[part].mean()),
            observed=float(label[part].mean()),
            n=len(part),
        )
        for part in mass_bins(values, N_BINS)
    ]


def expected_calibration_error(
    positive: ArrayLike, scores: ArrayLike, n_bins: int = N_BINS
) -> Statistic:
    """Mean over images of |mean score - observed share| of the image's equal-mass bin."""
    values = np.asarray(scores, dtype=np.float64)
    gap = values - np.asarray(positive, dtype=np.float64)
    table = np.zeros((len(values), max(1, n_bins)))
    for index, part in enumerate(mass_bins(values, n_bins)):
        table[part, index] = gap[part]

    def compute(weights: Float64Array) -> Float64Array:
        return divide(np.abs(weights @ table).sum(axis=1), weights.sum(axis=1))

    return Statistic("calibration.ece", len(values), compute, inflated=True)


def fit_platt(positive: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """Slope and intercept of logit P = intercept + slope * logit(score), by maximum likelihood.

    A perfectly calibrated score has slope 1 and intercept 0. Fit on validation images only.

    Returns:
        (slope, intercept); NaN when there is one class only or the classes are separated.
    """
    x = logit(scores)
    y = np.asarray(positive, dtype=np.float64)
    undefined = float("nan"), float("nan")
    if not 0 < y.sum() < len(y):
        return undefined
    beta = np.zeros(2)
    design = np.stack([x, np.ones_like(x)], axis=1)
    for _ in range(NEWTON_STEPS):
        gradient, hessian = _derivatives(design, y, beta)
        if np.linalg.cond(hessian) > 1e12:
            return undefined
        step = np.linalg.solve(hessian, gradient)
        # a bounded step: Newton's method overshoots where the likelihood is steep
        beta = beta + step * min(1.0, 4.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(beta).max() > SLOPE_LIMIT:
            return undefined
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[0]), float(beta[1])


def fit_temperature(positive: ArrayLike, scores: ArrayLike) -> float:
    """Temperature T > 0 of P = sigmoid(logit(score) / T) by maximum likelihood (golden section).

    Returns:
        T in 0.05..20; NaN when there is one class only.
    """
    x = logit(scores)
    y = np.asarray(positive, dtype=np.float64)
    if not 0 < y.sum() < len(y):
        return float("nan")

    def loss(log_t: float) -> float:
        z = x / np.exp(log_t)
        return float(np.mean(np.logaddexp(0.0, z) - y * z))

    low, high = np.log(0.05), np.log(20.0)
    ratio = (np.sqrt(5.0) - 1) / 2
    for _ in range(80):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def calibration_statistics(positive: ArrayLike, scores: ArrayLike) -> list[AnyStatistic]:
    """Brier score, equal-mass ECE, calibration slope and intercept.

    Slope and intercept of a draw are one Newton step from the study's fit (Davison and Hinkley,
    1997, 7.1) instead of a full fit per draw, which is slower.
    """
    values = np.asarray(scores, dtype=np.float64)
    label = np.asarray(positive, dtype=np.float64)
    n = len(values)
    brier = RatioStatistic("calibration.brier", n, (values - label) ** 2, np.ones(n))
    slope, intercept = fit_platt(label, values)
    groups = (label > 0, label <= 0)
    fit = _OneStep(logit(values), label, np.array([slope, intercept]))
    return [
        brier,
        expected_calibration_error(label, values),
        Statistic(
            "calibration.slope", n, fit.slope, rests_on=groups, lowest=-np.inf, highest=np.inf
        ),
        Statistic(
            "calibration.intercept",
            n,
            fit.intercept,
            rests_on=groups,
            lowest=-np.inf,
            highest=np.inf,
        ),
    ]


def recalibrated_statistics(
    positive: ArrayLike, scores: ArrayLike, slope: float, intercept: float
) -> list[AnyStatistic]:
    """Brier score and ECE after Platt scaling with values fitted on other (validation) images."""
    fitted = sigmoid(intercept + slope * logit(scores))
    brier, ece = calibration_statistics(positive, fitted)[:2]
    return [
        replace(brier, name="calibration.brier_platt"),
        replace(ece, name="calibration.ece_platt"),
    ]


def _derivatives(
    design: Float64Array, y: Float64Array, beta: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Gradient (2,) and Fisher information (2, 2) of the log likelihood."""
    p = sigmoid(design @ beta)
    information = design.T @ (design * (p * (1 - p))[:, None])
    return design.T @ (y - p), information


class _OneStep:
    """Slope and intercept of weighted draws, one Newton step from the study's fit.

    Args:
        x: (N,) logits.
        y: (N,) labels.
        beta: (2,) slope and intercept of the study; NaN makes every draw NaN.
    """

    def __init__(self, x: Float64Array, y: Float64Array, beta: Float64Array) -> None:
        p = sigmoid(beta[0] * x + beta[1])
        spread = p * (1 - p)
        self.beta = beta
        columns = [x * (y - p), y - p, x * x * spread, x * spread, spread]
        self.sums = np.stack(columns, axis=1)  # (N, 5)

    def slope(self, weights: Float64Array) -> Float64Array:
        """(D,) slopes."""
        g0, g1, h00, h01, h11 = (weights @ self.sums).T
        return np.asarray(self.beta[0] + divide(h11 * g0 - h01 * g1, h00 * h11 - h01 * h01))

    def intercept(self, weights: Float64Array) -> Float64Array:
        """(D,) intercepts."""
        g0, g1, h00, h01, h11 = (weights @ self.sums).T
        return np.asarray(self.beta[1] + divide(h00 * g1 - h01 * g0, h00 * h11 - h01 * h01))
