"""The ordered map: order, progress, errors and a dead worker."""

import os
import time

import pytest

from data_prep.parallel import ordered_map
from pneumonia.runtime.errors import ConfigError, DataError


def slow_square(number: int) -> int:
    time.sleep(0.002 * (number % 3))  # later items are often ready first
    return number * number


def die_at_fifty(number: int) -> int:
    if number == 50:
        os._exit(3)
    return number


def refuse_fifty(number: int) -> int:
    if number == 50:
        raise DataError("No fifty")
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_progress_counts(workers: int) -> None:
    seen: list[tuple[int, int]] = []
    results = ordered_map(slow_square, range(100), workers, lambda d, t, note: seen.append((d, t)))
    assert list(results) == [number * number for number in range(100)]
    assert seen == [(done, 100) for done in range(1, 101)]


def test_a_dead_worker_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(DataError, match=r"worker process died.*--workers 1"):
        list(ordered_map(die_at_fifty, range(100), 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_an_item_reaches_the_caller(workers: int) -> None:
    with pytest.raises(DataError, match="No fifty"):
        list(ordered_map(refuse_fifty, range(100), workers))


def test_few_items_need_no_process_and_zero_workers_is_refused() -> None:
    assert list(ordered_map(lambda number: (os.getpid(), number), [1, 2], 8)) == [
        (os.getpid(), 1),
        (os.getpid(), 2),
    ]
    with pytest.raises(ConfigError):
        list(ordered_map(slow_square, [1], 0))
