"""Data sets of bright rectangles for training tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.dataset.reader import Dataset, open_dataset
from tests.support.tiny import write_rectangles


@pytest.fixture(scope="session")
def rectangles_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 12 validation images, half of them with a rectangle."""
    counts = {("train", "phantom"): (12, 12), ("val", "phantom"): (6, 6)}
    return write_rectangles(tmp_path_factory.mktemp("data") / "rectangles", counts)


@pytest.fixture
def rectangles(rectangles_path: Path) -> Dataset:
    return open_dataset(rectangles_path)


@pytest.fixture
def make_dataset(
    tmp_path: Path,
) -> Callable[[dict[tuple[str, str], tuple[int, int]]], Dataset]:
    """Write and open a dataset with (split, kind) -> (positives, negatives)."""

    def make(counts: dict[tuple[str, str], tuple[int, int]]) -> Dataset:
        return open_dataset(write_rectangles(tmp_path / "made", counts))

    return make
