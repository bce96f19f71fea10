"""Splits are by patient, near their shares, and the same for the same seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset.reader import SPLITS
from data_prep.dataset.splits import PatientImages, SplitImage, assign_splits, split_patients
from pneumonia.runtime.errors import ConfigError

images_of_patients = st.lists(
    st.builds(SplitImage, st.integers(0, 30).map(str), st.booleans(), st.just("")),
    min_size=1,
    max_size=120,
)


@given(images_of_patients, st.integers(0, 1000))
def test_a_patient_never_has_two_splits(images: list[SplitImage], seed: int) -> None:
    found = assign_splits(images, seed)
    assert len(found.splits) == len(images)
    of_patient: dict[str, set[str]] = {}
    for image, split in zip(images, found.splits, strict=True):
        of_patient.setdefault(image.patient_id, set()).add(split)
    assert all(len(splits) == 1 for splits in of_patient.values())
    assert found.straddling == 0


@given(images_of_patients, st.randoms(use_true_random=False), st.integers(0, 1000))
def test_the_order_of_images_does_not_matter(images: list, random: object, seed: int) -> None:
    shuffled = list(images)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    results = [
        dict(zip((i.patient_id for i in some), assign_splits(some, seed).splits, strict=True))
        for some in (images, shuffled)
    ]
    assert results[0] == results[1]


@given(st.lists(st.integers(1, 4), min_size=20, max_size=200), st.integers(0, 99))
def test_shares_are_within_one_patient_in_each_stratum(sizes: list[int], seed: int) -> None:
    patients = [PatientImages(f"p{i}", n, i % 3 == 0) for i, n in enumerate(sizes)]
    fractions = (0.7, 0.2, 0.1)
    assigned = split_patients(patients, seed, fractions)
    for positive in (True, False):
        members = [p for p in patients if p.positive is positive]
        total = sum(p.n_images for p in members)
        for split, share in zip(SPLITS, fractions, strict=True):
            got = sum(p.n_images for p in members if assigned[p.patient_id] == split)
            assert abs(got - share * total) <= 4 * 2  # a patient of four images either side


def test_the_seed_decides() -> None:
    patients = [PatientImages(f"p{i}", 1, i % 2 == 0) for i in range(100)]
    assert split_patients(patients, 1) == split_patients(patients, 1)
    assert split_patients(patients, 1) != split_patients(patients, 2)


def test_given_splits_are_kept_and_their_patients_follow() -> None:
    images = [
        SplitImage("a", True, "val"),
        SplitImage("a", False),
        SplitImage("b", False, "train"),
        SplitImage("b", False, "test"),
        SplitImage("c", False),
    ]
    found = assign_splits(images, seed=0, fractions=(1.0, 0.0, 0.0))
    assert found.splits == ["val", "val", "train", "test", "train"]
    assert found.straddling == 1
    assert found.method == "given; others by patient, stratified by box"
    assert assign_splits(images[:1], 0).method == "given"


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.9, 0.2, -0.1), (0.5, 0.2, 0.2), (0, 1, 0)])
def test_wrong_fractions_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        split_patients([PatientImages("a", 1, True)], 0, fractions)


@pytest.mark.parametrize(
    ("seed", "fractions", "message"),
    [
        (-1, (0.8, 0.1, 0.1), "Seed of the split is negative"),
        (0, (float("nan"), 0.0, 1.0), "Split fractions are wrong"),
        (0, (1.0, float("nan"), 0.0), "Split fractions are wrong"),
        (0, (float("inf"), 0.0, 0.0), "Split fractions are wrong"),
        (0, (1.5, -0.5, 0.0), "Split fractions are wrong"),
        (0, (0.0, 1.0, 0.0), "no training images"),
    ],
)
def test_seeds_and_shares_out_of_range_are_refused(seed, fractions, message) -> None:
    with pytest.raises(ConfigError, match=message):
        split_patients([PatientImages("a", 1, True)], seed, fractions)
