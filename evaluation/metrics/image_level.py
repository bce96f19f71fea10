"""Image-level discrimination of radiographs with and without an opacity.

One call evaluates many bootstrap draws: `weights` (D, N) is how often each image occurs in each
draw, and the result is (D,).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.bootstrap import divide
from evaluation.metrics.matching import Float64Array


def image_scores(scores: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Score of an image = its highest box score, 0 when it has no box."""
    return {
        image_id: float(np.max(np.asarray(values, dtype=np.float64), initial=0.0))
        for image_id, values in scores.items()
    }


def auroc(
    positive: ArrayLike, scores: ArrayLike, weights: Float64Array | None = None
) -> Float64Array:
    """Area under the ROC curve; a tie between a positive and a negative counts one half.

    Args:
        positive: (N,) bool.
        scores: (N,) any real score, higher = more suspicious.
        weights: (D, N) occurrences; None = each image once.

    Returns:
        (D,); NaN where a draw lacks positives or negatives.
    """
    with_label, without, _ = _grouped_weights(positive, scores, weights)
    below = np.cumsum(without, axis=1) - without  # negatives of lower score
    wins = (with_label * (below + 0.5 * without)).sum(axis=1)
    return divide(wins, with_label.sum(axis=1) * without.sum(axis=1))


def auprc(
    positive: ArrayLike, scores: ArrayLike, weights: Float64Array | None = None
) -> Float64Array:
    """Average precision: sum over score levels of (recall gained) * precision.

    Args and result as for `auroc`; also NaN without negatives, where it would be 1 for any score.
    """
    with_label, without, _ = _grouped_weights(positive, scores, weights)
    gained = with_label[:, ::-1]  # now in descending score
    hits = np.cumsum(gained, axis=1)
    called = hits + np.cumsum(without[:, ::-1], axis=1)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    value = divide((gained * precision).sum(axis=1), hits[:, -1])
    return np.where(without.sum(axis=1) > 0, value, np.nan)


def roc_curve(
    positive: ArrayLike, scores: ArrayLike, weights: Float64Array | None = None
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Points of the ROC curve; `weights` (N,) of the images, None = 1 each.

    Returns:
        (false positive rate, sensitivity, threshold), each (levels + 1,), from the strictest
        threshold (inf: nothing called) to the laxest; an image is called when score >= threshold.
    """
    rows = None if weights is None else weights[None]
    with_label, without, levels = _grouped_weights(positive, scores, rows)
    hits = np.concatenate([[0.0], np.cumsum(with_label[0, ::-1])])
    alarms = np.concatenate([[0.0], np.cumsum(without[0, ::-1])])
    thresholds = np.concatenate([[np.inf], levels[::-1]])
    return divide(alarms, alarms[-1:]), divide(hits, hits[-1:]), thresholds


def _grouped_weights(
    positive: ArrayLike, scores: ArrayLike, weights: Float64Array | None
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Weights of positives and negatives per distinct score, ascending: (D, L), (D, L), (L,)."""
    is_positive = np.asarray(positive, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    table = np.ones((1, len(values))) if weights is None else weights
    if not len(values):
        return np.zeros((len(table), 1)), np.zeros((len(table), 1)), np.zeros(1)
    order = np.argsort(values, kind="stable")
    levels, starts = np.unique(values[order], return_index=True)
    ranked = table[:, order]
    label = is_positive[order]
    with_label = np.add.reduceat(ranked * label, starts, axis=1)
    without = np.add.reduceat(ranked * ~label, starts, axis=1)
    return with_label, without, levels
