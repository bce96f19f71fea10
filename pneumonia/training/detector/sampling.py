"""The order of an epoch: balanced, without repetition until every image was seen, stateless."""

from collections.abc import Sequence

import numpy as np

from pneumonia.runtime.errors import TrainingError
from pneumonia.training.task import EpochSample


class BalancedPlan:
    """Draws positives and negatives in a fixed share.

    Each of the two pools is walked through in an endless sequence of shuffles, from where the
    epoch before left off: all negatives are seen equally often, though an epoch may hold a part of
    them only. The epoch is a pure function of (epoch, seed).

    Args:
        positives: Items with a box; an item listed twice is seen twice as often.
        negatives: Items without.
        positive_fraction: Share of positives in an epoch; None = as the pools are.
        images_per_epoch: Length; None = the longest epoch that repeats no item of the scarcer pool.
    """

    def __init__(
        self,
        positives: Sequence[int],
        negatives: Sequence[int],
        positive_fraction: float | None = None,
        images_per_epoch: int | None = None,
    ) -> None:
        if not positives:
            raise TrainingError(
                "No training image has a box",
                expected="positives and negatives",
                found=f"{len(negatives)} images, all negative",
                fix="Look at `pneumonia data audit`, and at data.kinds of the recipe",
            )
        self.pools = (np.asarray(positives, np.int64), np.asarray(negatives, np.int64))
        share = positive_fraction
        if share is None or not negatives:
            share = len(positives) / (len(positives) + len(negatives))
        limits = [len(positives) / share]
        if share < 1:
            limits.append(len(negatives) / (1 - share))
        length = images_per_epoch or int(min(limits) + 0.5)
        n_positive = min(length, max(1, round(length * share)))
        self.counts = (n_positive, length - n_positive)

    def __len__(self) -> int:
        return sum(self.counts)

    def epoch(self, epoch: int, seed: int) -> list[EpochSample]:
        """The samples of one epoch (from 1)."""
        items = np.concatenate(
            [
                _stretch(pool, (epoch - 1) * count, count, (seed, number))
                for number, (pool, count) in enumerate(zip(self.pools, self.counts, strict=True))
            ]
        )
        generator = np.random.default_rng([seed, epoch, 2])
        seeds = generator.integers(0, 2**31, size=len(items))
        order = generator.permutation(len(items))
        return [EpochSample(int(items[i]), int(s)) for i, s in zip(order, seeds, strict=True)]


def _stretch(
    pool: np.ndarray[tuple[int], np.dtype[np.int64]], start: int, count: int, key: tuple[int, int]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Items `start` to `start + count` of the endless sequence of shuffles of a pool."""
    found = [pool[:0]]
    while count > 0:
        lap, place = divmod(start, len(pool))
        shuffled = pool[np.random.default_rng([*key, lap, 3]).permutation(len(pool))]
        taken = shuffled[place : place + count]
        found.append(taken)
        start, count = start + len(taken), count - len(taken)
    return np.concatenate(found)
