"""A dataset of bright rectangles and a detector small enough to train in seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.dataset.reader import Dataset, ImageRecord, open_dataset
from data_prep.dataset.writer import DatasetFacts, new_dataset, to_cache
from pneumonia.network.module import Network
from pneumonia.runtime.spec import Conv, Detect, InputSpec, NetworkSpec

SIZE = 64


def tiny_spec(box_coding: str = "scaled", batch_norm: bool = True) -> NetworkSpec:
    """Four convolutions, two heads of two anchors at strides 8 and 16."""

    def conv(name: str, source: str, i: int, o: int) -> Conv:
        return Conv(name, (source,), i, o, 3, 2, 1, not batch_norm, batch_norm, "leaky_relu")

    def head(name: str, source: str, i: int) -> Conv:
        return Conv(name, (source,), i, 12, 1)

    return NetworkSpec(
        name="tiny",
        input=InputSpec(1, SIZE, SIZE),
        layers=(
            conv("a", "input", 1, 8),
            conv("b", "a", 8, 16),
            conv("c", "b", 16, 24),
            conv("d", "c", 24, 24),
            head("fine", "c", 24),
            Detect("detect_8", ("fine",), ((12.0, 12.0), (16.0, 24.0)), 1, 8, box_coding),
            head("coarse", "d", 24),
            Detect("detect_16", ("coarse",), ((24.0, 16.0), (28.0, 28.0)), 1, 16, box_coding),
        ),
        outputs=("detect_8", "detect_16"),
        class_names=("lung opacity",),
    )


def tiny_network(seed: int = 0, batch_norm: bool = True) -> Network:
    torch.manual_seed(seed)
    return Network(tiny_spec(batch_norm=batch_norm))


def write_rectangles(
    out: Path,
    counts: dict[tuple[str, str], tuple[int, int]],
    original: int = 2 * SIZE,
    seed: int = 0,
    labelled: bool = True,
) -> Path:
    """Noise with a bright rectangle in the positive images.

    Args:
        out: Dataset folder.
        counts: (split, kind) -> (positives, negatives).
        original: Side of the original images; the cache holds them at SIZE.
        seed: Of the images.
        labelled: Whether images of kind `nih` are labelled.
    """
    rng = np.random.default_rng(seed)
    with new_dataset(out) as writer:
        number = 0
        for (split, kind), (positives, negatives) in counts.items():
            for positive in [True] * positives + [False] * negatives:
                pixels = rng.integers(20, 90, (original, original)).astype(np.uint8)
                boxes = np.zeros((0, 4), np.float32)
                if positive:
                    w, h = rng.integers(24, 56, 2)
                    x, y = rng.integers(0, original - w), rng.integers(0, original - h)
                    pixels[y : y + h, x : x + w] += 120
                    boxes = np.array([[x, y, x + w, y + h]], np.float32)
                name = f"image-{number:03d}"
                record = ImageRecord(
                    name,
                    kind,
                    split,
                    name,
                    "Lung Opacity" if positive else "Normal",
                    "",
                    "",
                    None,
                    original,
                    original,
                    labelled or kind != "nih",
                )
                writer.add(record, to_cache(pixels, SIZE), boxes)
                number += 1
        writer.finish(DatasetFacts({"type": "test"}, f"{seed}", SIZE, {}, {}, {}))
    return out


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small lose by a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
