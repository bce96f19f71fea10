"""The smallest detector, data set and training run that tests share."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from data_prep.dataset.reader import DatasetImage
from data_prep.dataset.writer import DatasetFacts, new_dataset, to_cache
from pneumonia.network.module import Network
from pneumonia.runtime.model.layers import Conv, Detect
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from pneumonia.training.config import TrainRecipe
from pneumonia.training.run import run_train

SIZE = 64
# a quantization of `tiny_run` that takes seconds
QUICK_QUANTIZE = {
    "admm": {"epochs": 1, "rho": [5.0]}, "fixed": [0.5, 1.0], "snap_epochs": 1,
    "batch_norm_batches": 2,
}  # fmt: skip


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
                record = DatasetImage(
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
        writer.finish(DatasetFacts({"type": "test"}, f"{seed}", SIZE, {}, [], {}))
    return out


class TinyRun(NamedTuple):
    """A finished training run and the data set it learned from; tests only read them."""

    run: Path
    data: Path


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all test processes of the session share."""
    base = factory.getbasetemp()
    # each worker has a folder of its own in it
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once_a_session(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """A folder that the first test process of the session fills and all processes read."""
    base = session_folder(factory)
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder


def train_tiny(folder: Path) -> None:
    """Write `data` (16 training, 8 validation images) and `run`, a YOLOv3-tiny of one epoch."""
    counts = {("train", "phantom"): (8, 8), ("val", "phantom"): (4, 4)}
    data = write_rectangles(folder / "data", counts)
    recipe = {
        "model": {"name": "yolov3-tiny", "width": 0.125, "size": SIZE},
        "epochs": 1, "batch_size": 8, "workers": 0, "device": "cpu",
    }  # fmt: skip
    run_train(data, TrainRecipe.model_validate(recipe), folder / "run")
