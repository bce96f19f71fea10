"""95 % intervals from the standard error of a statistic over patients.

Percentile and BCa bootstrap intervals undercover on small studies: at 30 patients they contain the
true value in 60 to 90 % of studies instead of 95 %, because a sensitivity or an AUROC rests on few
patients. Here the bootstrap (or a linearisation) gives only the standard error; the interval is
Student's t on the logit scale for values in 0..1, on the logarithmic scale for values >= 0, else on
the scale of the value, with one degree of freedom less than the patients behind the statistic.
`benchmarks/evaluation/interval_coverage.py` measures the coverage.
"""

import math

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.matching import Float64Array, IntArray

LEVEL = 0.95
Z = 1.959963984540054  # 97.5 % point of the normal distribution
SMALL_T = (12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)
EXACT = "exact bound for the number of patients (no draw differs)"
LOGIT_T = "logit t interval, standard error from the bootstrap over patients"
LOG_T = "log t interval, standard error from the bootstrap over patients"
PLAIN_T = "t interval, standard error from the bootstrap over patients"
PAIRED = "t interval of paired draws, widened by the effect of losing one image"
NONE = "not available"
ONE_PATIENT = "not available: only one patient behind it"

Ends = tuple[float, float]


def t_quantile(degrees: int) -> float:
    """97.5 % point of Student's t (Cornish-Fisher expansion from 10 degrees of freedom on)."""
    if degrees < 1:
        return math.inf
    if degrees <= len(SMALL_T):
        return SMALL_T[degrees - 1]
    z, n = Z, float(degrees)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def wilson(hits: float, n: float) -> Ends:
    """Wilson score interval of the proportion hits / n."""
    share = hits / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def value_interval(
    value: float, error: float, n_patients: int, lowest: float = 0.0, highest: float = 1.0
) -> tuple[float, float, str]:
    """Interval of a statistic.

    Args:
        value: The statistic on the study.
        error: Its standard error over patients.
        n_patients: Patients behind it.
        lowest: Lowest possible value, 0 or -inf.
        highest: Highest possible value, 1 or inf.

    Returns:
        Lower end, upper end, and how they were computed. A value of 0 or 1 gets the Clopper-Pearson
        bound for `n_patients`; another value with standard error 0 gets Wilson's interval.
    """
    if not math.isfinite(value) or not math.isfinite(error):
        return math.nan, math.nan, NONE
    if n_patients < 2:
        return math.nan, math.nan, ONE_PATIENT
    half = t_quantile(n_patients - 1) * error * math.sqrt(n_patients / (n_patients - 1))
    if not math.isfinite(lowest):
        return (value - half, value + half, PLAIN_T) if half else (math.nan, math.nan, NONE)
    if not math.isfinite(highest):
        return _rate_interval(value, half, n_patients)
    return _share_interval(value, half, n_patients)


def _rate_interval(value: float, half: float, n_patients: int) -> tuple[float, float, str]:
    """Interval of a value in 0..inf; for 0 the upper bound of a Poisson rate."""
    if value <= 0 or not half:
        return 0.0, value - math.log((1 - LEVEL) / 2) / n_patients, EXACT
    reach = min(half / value, 700.0)  # exp overflows from 710 on
    return value * math.exp(-reach), value * math.exp(reach), LOG_T


def _share_interval(value: float, half: float, n_patients: int) -> tuple[float, float, str]:
    """Interval of a value in 0..1."""
    bound = ((1 - LEVEL) / 2) ** (1 / n_patients)
    if value >= 1 - 1e-12:
        return bound, 1.0, EXACT
    if value <= 1e-12:
        return 0.0, 1 - bound, EXACT
    if not half:
        return *wilson(value * n_patients, n_patients), EXACT
    centre = math.log(value / (1 - value))
    reach = half / (value * (1 - value))
    return _sigmoid(centre - reach), _sigmoid(centre + reach), LOGIT_T


def difference_interval(difference: float, error: float, n_patients: int, jump: float) -> Ends:
    """Interval of a paired difference of two models.

    When models differ on few images the distribution of the difference is skewed: with no differing
    image in the study the spread is 0, though one patient in a hundred may lose. A score interval
    of rare losses adds the effect of losing one image (`jump`) to the spread: with t the quantile,
    the ends are

        difference -+ (t^2 jump / 2 + t sqrt(error^2 + (t jump / 2)^2))

    Args:
        difference: Model minus reference.
        error: Standard error of the difference over patients, the same draws for both.
        n_patients: Patients behind the statistic.
        jump: Change of the statistic when a typical image behind it is lost.
    """
    if n_patients < 2 or not math.isfinite(difference + error + jump):
        return math.nan, math.nan
    half = difference_reach(error, n_patients, jump)
    return difference - half, difference + half


def difference_reach(error: float, n_patients: int, jump: float) -> float:
    """Half the width of `difference_interval`."""
    t = t_quantile(n_patients - 1)
    spread = error * math.sqrt(n_patients / (n_patients - 1))
    return t * t * jump / 2 + t * math.hypot(spread, t * jump / 2)


def share_interval(
    hits: NDArray[np.bool_], among: NDArray[np.bool_], patients: IntArray
) -> tuple[float, float, str]:
    """Interval of a share of images, patients as clusters, by linearisation (no draws).

    Args:
        hits: (N,) whether an image counts in the numerator; only images of `among` do.
        among: (N,) images of the denominator.
        patients: (N,) patient number of each image.
    """
    _, patient = np.unique(patients[among], return_inverse=True)
    n = np.bincount(patient).astype(np.float64)
    if not len(n):
        return math.nan, math.nan, NONE
    share = float(hits[among].mean())
    residual = np.bincount(patient, hits[among].astype(np.float64)) - share * n
    error = float(np.sqrt((residual**2).sum()) / n.sum())
    return value_interval(share, error, len(n))


def standard_error(drawn: Float64Array) -> float:
    """Standard deviation of the draws that are defined; NaN when fewer than half are."""
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < 2 or 2 * len(finite) < len(drawn):
        return math.nan
    # differences from rounding alone count as none
    error = float(finite.std(ddof=1))
    return error if error > 1e-12 * max(1.0, abs(float(finite[0]))) else 0.0


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
