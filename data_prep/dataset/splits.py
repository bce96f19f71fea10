"""Split patients, never images, into train, val and test."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.dataset.reader import SPLITS
from pneumonia.runtime.errors import ConfigError

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)


class PatientImages(NamedTuple):
    """Input of a split for one patient: its images, and whether any has a box."""

    patient_id: str
    n_images: int
    positive: bool


class SplitImage(NamedTuple):
    """An image to be put into a split: its patient, whether it has a box, a given split or ''."""

    patient_id: str
    positive: bool
    given: str = ""


class SplitAssignment(NamedTuple):
    """Splits of images, in their order."""

    splits: list[str]  # split of each image
    method: str  # description of how the splits were assigned
    straddling: int  # patients with images in several given splits: a leak in the source


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
        ConfigError: A negative seed, or fractions that are negative, do not sum to 1, or leave
            train empty.
    """
    in_range = all(share >= 0 for share in fractions)  # false for nan, which min() may hide
    if len(fractions) != len(SPLITS) or not in_range or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(
            "Split fractions are wrong",
            expected="train, val, test >= 0 with sum 1",
            found=repr(tuple(fractions)),
        )
    if seed < 0:
        raise ConfigError("Seed of the split is negative", expected=">= 0", found=str(seed))
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
    """Assign each patient to the split that is furthest below its share of images."""
    total = sum(patient.n_images for patient in order)
    room = [share * total for share in fractions]
    assigned = {}
    for patient in order:
        at = max(range(len(SPLITS)), key=lambda i: room[i])
        room[at] -= patient.n_images
        assigned[patient.patient_id] = SPLITS[at]
    return assigned


def assign_splits(
    images: Sequence[SplitImage], seed: int, fractions: Sequence[float] = DEFAULT_FRACTIONS
) -> SplitAssignment:
    """Keep given splits and split the other patients at random.

    An image without a given split follows its patient when another image of the patient has one.
    """
    given: dict[str, str] = {}
    straddling = set()
    for image in images:
        if image.given and given.setdefault(image.patient_id, image.given) != image.given:
            straddling.add(image.patient_id)
    members: dict[str, list[SplitImage]] = {}
    for image in images:
        if image.patient_id not in given:
            members.setdefault(image.patient_id, []).append(image)
    patients = [
        PatientImages(patient, len(own), any(image.positive for image in own))
        for patient, own in members.items()
    ]
    drawn = split_patients(patients, seed, fractions)
    method = "by patient, stratified by box"
    if given:
        method = f"given; others {method}" if drawn else "given"
    splits = [
        image.given or given.get(image.patient_id) or drawn[image.patient_id] for image in images
    ]
    return SplitAssignment(splits, method, len(straddling))
