"""Split patients, never images, into train, val and test."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.dataset import SPLITS
from pneumonia.runtime.errors import ConfigError

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)


class PatientImages(NamedTuple):
    """What a split needs to know of a patient: images, and whether any has a box."""

    patient_id: str
    n_images: int
    positive: bool


def split_patients(
    patients: Sequence[PatientImages],
    seed: int,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
) -> dict[str, str]:
    """Assign every patient to a split, at random within the strata with and without boxes.

    The shares of *images* come as near to `fractions` as whole patients allow.

    Args:
        patients: Each patient once.
        seed: The same seed, patients and fractions give the same split, in any input order.
        fractions: Shares of train, val and test; they sum to 1.

    Returns:
        patient_id -> split.

    Raises:
        ConfigError: Fractions that are negative, do not sum to 1, or leave train empty.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(
            "Split fractions are wrong",
            expected="train, val, test >= 0 with sum 1",
            found=repr(tuple(fractions)),
        )
    if fractions[0] == 0:
        raise ConfigError("Split leaves no training images", found=repr(tuple(fractions)))
    assigned: dict[str, str] = {}
    for stratum in (True, False):
        members = sorted(p for p in patients if p.positive is stratum)
        rng = np.random.default_rng([seed, int(stratum)])
        order = [members[i] for i in rng.permutation(len(members))]
        assigned.update(_fill(order, fractions))
    return assigned


def _fill(order: Sequence[PatientImages], fractions: Sequence[float]) -> dict[str, str]:
    """Give each patient to the split that lags furthest behind its share of images."""
    total = sum(patient.n_images for patient in order)
    room = [share * total for share in fractions]
    assigned = {}
    for patient in order:
        at = max(range(len(SPLITS)), key=lambda i: room[i])
        room[at] -= patient.n_images
        assigned[patient.patient_id] = SPLITS[at]
    return assigned


def count_patients(images: Mapping[str, Sequence[tuple[str, bool]]]) -> list[PatientImages]:
    """Patient -> [(image_id, has a box)] to what `split_patients` takes."""
    return [
        PatientImages(patient, len(members), any(positive for _, positive in members))
        for patient, members in sorted(images.items())
    ]
