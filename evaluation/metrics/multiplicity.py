"""Correction for multiple comparisons (Holm 1979)."""

import math
from collections.abc import Sequence
from statistics import NormalDist

ALPHA = 0.05


def two_sided_p(difference: float, error: float, n_patients: int) -> float:
    """P value of a difference of 0 by Student's t; NaN when it cannot be computed.

    The tail of t is computed by Wallace's (1959) normal approximation, accurate to 0.001 from
    5 degrees of freedom on.
    """
    degrees = n_patients - 1
    if degrees < 1 or not math.isfinite(difference + error):
        return math.nan
    if error == 0:
        return 1.0 if difference == 0 else math.nan
    spread = error * math.sqrt(n_patients / degrees)
    t = abs(difference) / spread
    z = math.sqrt(degrees * math.log1p(t * t / degrees)) * (8 * degrees + 1) / (8 * degrees + 3)
    return 2 * NormalDist().cdf(-z)


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which hypotheses are rejected at a family-wise error rate of ALPHA.

    A P value of NaN is not counted as a comparison and never rejected.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if math.isfinite(p))
    rejected = [False] * len(p_values)
    for rank, (p, place) in enumerate(known):
        if p > ALPHA / (len(known) - rank):
            break
        rejected[place] = True
    return rejected
