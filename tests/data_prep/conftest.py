"""Small sources and datasets that the tests of this folder share."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.dataset.reader import Dataset, open_dataset
from data_prep.phantom.study import make_phantoms

OPACITY, NOT_NORMAL, NORMAL = "Lung Opacity", "No Lung Opacity / Not Normal", "Normal"


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty films of 128 pixels; read-only for tests."""
    folder = tmp_path_factory.mktemp("phantoms") / "set"
    assert make_phantoms(folder, count=40, seed=3, size=128, workers=1)
    return folder


@pytest.fixture(scope="session")
def phantoms(phantom_folder: Path) -> Dataset:
    return open_dataset(phantom_folder)


@pytest.fixture(scope="session")
def real_rsna() -> Path:
    here = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("PNEUMONIA_DATA", here.parent / "shared" / "data")) / "rsna"
    if not (folder / "labels.csv").is_file():
        pytest.skip(f"no real radiographs: {folder} has no labels.csv (set PNEUMONIA_DATA)")
    return folder


class KaggleFolder:
    """Writes a source in the challenge's layout, with PNG files where the challenge has DICOM."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "stage_2_train_images"
        self.images.mkdir(parents=True)
        self.labels: list[tuple[object, ...]] = []
        self.classes: list[tuple[object, ...]] = []

    def image(self, name: str, width: int = 40, height: int = 40) -> np.ndarray:
        seed = int.from_bytes(name.encode(), "little") % 2**32
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
        Image.fromarray(pixels).save(self.images / f"{name}.png")
        return pixels

    def negative(self, name: str, class_name: str = NORMAL) -> None:
        self.image(name)
        self.labels.append((name, "", "", "", "", 0))
        self.classes.append((name, class_name))

    def positive(self, name: str, *boxes: tuple[float, float, float, float]) -> None:
        self.image(name)
        for box in boxes or ((100, 200, 300, 400),):
            self.labels.append((name, *box, 1))
            self.classes.append((name, OPACITY))  # the official table has one row per box too

    def write(self) -> Path:
        header = ("patientId", "x", "y", "width", "height", "Target")
        write_csv(self.folder / "stage_2_train_labels.csv", header, self.labels)
        classes = self.folder / "stage_2_detailed_class_info.csv"
        write_csv(classes, ("patientId", "class"), self.classes)
        return self.folder


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(header)
        table.writerows(rows)


@pytest.fixture
def kaggle(tmp_path: Path) -> KaggleFolder:
    return KaggleFolder(tmp_path / "rsna")
