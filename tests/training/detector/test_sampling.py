from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.errors import TrainingError
from pneumonia.training.detector.sampling import BalancedPlan

POSITIVES, NEGATIVES = list(range(5)), list(range(100, 117))


def items(plan: BalancedPlan, epoch: int, seed: int = 0) -> list[int]:
    return [sample.item for sample in plan.epoch(epoch, seed)]


def test_epoch_shows_each_image_of_the_scarcer_class_once():
    plan = BalancedPlan(POSITIVES, NEGATIVES, positive_fraction=0.5)
    shown = Counter(items(plan, 1))
    assert len(plan) == 10
    assert all(shown[item] == 1 for item in POSITIVES)
    assert sum(shown[item] for item in NEGATIVES) == 5
    # 25 % positives: 5 / 0.25 = 20 images; 10 %: 17 / 0.9 = 18.9 images, negatives are scarcer
    assert BalancedPlan(POSITIVES, NEGATIVES, 0.25).counts == (5, 15)
    assert BalancedPlan(POSITIVES, NEGATIVES, 0.1).counts == (2, 17)


def test_without_fraction_every_image_once():
    plan = BalancedPlan(POSITIVES, NEGATIVES, None)
    assert sorted(items(plan, 3)) == POSITIVES + NEGATIVES


def test_negatives_are_seen_equally_often_over_epochs():
    plan = BalancedPlan(POSITIVES, NEGATIVES, 0.5)
    # 17 epochs of 5 negatives are 5 whole rounds of the 17 negatives
    shown = Counter(item for epoch in range(1, 18) for item in items(plan, epoch))
    assert {shown[item] for item in NEGATIVES} == {5}
    assert {shown[item] for item in POSITIVES} == {17}


def test_item_listed_twice_is_seen_twice():
    plan = BalancedPlan([1, 1, 2], [10, 11, 12], 0.5)
    shown = Counter(items(plan, 1))
    assert (shown[1], shown[2]) == (2, 1)


def test_epoch_is_a_pure_function_and_differs_by_epoch_and_seed():
    plan, again = (BalancedPlan(POSITIVES, NEGATIVES, 0.5) for _ in range(2))
    again.epoch(7, 3)
    assert plan.epoch(2, 3) == again.epoch(2, 3)
    assert plan.epoch(2, 3) != plan.epoch(3, 3)
    assert plan.epoch(2, 3) != plan.epoch(2, 4)
    seeds = [sample.seed for epoch in (1, 2) for sample in plan.epoch(epoch, 0)]
    assert len(set(seeds)) == len(seeds)


def test_all_negative_data_is_an_error_that_says_so():
    with pytest.raises(TrainingError, match=r"No training image has a box.*17 images, all neg"):
        BalancedPlan([], NEGATIVES, 0.5)


def test_all_positive_data_can_be_trained():
    assert sorted(items(BalancedPlan(POSITIVES, [], 0.5), 1)) == POSITIVES


@given(
    st.integers(1, 30),
    st.integers(0, 60),
    st.floats(0.05, 1),
    st.integers(1, 80),
    st.integers(1, 5),
)
def test_counts_hold_for_any_pools(n_positive, n_negative, fraction, length, epoch):
    positives = list(range(n_positive))
    negatives = list(range(1000, 1000 + n_negative))
    plan = BalancedPlan(positives, negatives, fraction, length)
    shown = items(plan, epoch)
    assert len(shown) == length == len(plan)
    found = sum(item < 1000 for item in shown)
    share = fraction if negatives else 1.0
    assert found == min(length, max(1, round(length * share)))
    # no item is repeated before its pool was shown whole
    for pool in (positives, negatives):
        counts = Counter(item for item in shown if item in pool)
        if counts:
            assert max(counts.values()) - min(counts.get(item, 0) for item in pool) <= 2
