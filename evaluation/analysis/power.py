"""Sample size for a non-inferiority margin.

The standard error of the paired difference, taken from this study or a pilot, scales with 1 /
sqrt(patients), the effect of one image with 1 / patients. The sample size is the smallest number of
patients at which two equal models get the verdict `non-inferior` with a probability of 80 %.
"""

import math

from evaluation.metrics.intervals import difference_reach

POWER_Z = 0.8416212335729143  # 80 % point of the normal distribution
MOST_PATIENTS = 10_000_000


def patients_needed(
    error: float, n_patients: int, weight: float, margin: float, all_patients: int | None = None
) -> int | None:
    """Patients needed for a non-inferiority verdict at a margin.

    Args:
        error: Standard error of the paired difference over patients.
        n_patients: Patients the difference rests on (>= 2).
        weight: Change of the statistic when one image is lost (`bootstrap.image_weight`).
        margin: Largest loss that is accepted, > 0.
        all_patients: All patients of the study, of which the difference rests on `n_patients`; the
            result is scaled by this ratio. None = `n_patients`.

    Returns:
        The number of patients; None when it cannot be computed or is above ten million.
    """
    if n_patients < 2 or not math.isfinite(error + weight):
        return None
    per_patient = (all_patients or n_patients) / n_patients

    def reached(n: int) -> bool:
        spread, one = error * math.sqrt(n_patients / n), weight * n_patients / n
        return difference_reach(spread, n, one) + POWER_Z * spread < margin

    low, high = 2, 4
    while not reached(high):
        low, high = high, 2 * high
        if high > MOST_PATIENTS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return math.ceil(high * per_patient)
