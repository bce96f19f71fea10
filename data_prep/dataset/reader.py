"""Read a dataset folder: records, boxes and memory-mapped images.

The folder's files are described in `docs/architecture.md`; `data_prep.dataset.writer` writes them.
"""

import csv
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pneumonia.runtime.csv_tables import unescape_name
from pneumonia.runtime.errors import DataError, os_errors_as
from pneumonia.runtime.json_files import read_json_object
from pneumonia.runtime.label_table import CLASSES

SCHEMA = "pneumonia.dataset/1"
KINDS = ("full", "lungs", "nih", "phantom")
SPLITS = ("train", "val", "test")

MANIFEST_COLUMNS = (
    "image_id", "kind", "split", "patient_id", "class", "view", "sex", "age", "width", "height",
    "labelled", "cache_offset", "cache_height", "cache_width", "sha256",
)  # fmt: skip
WEAK_COLUMN = "weak_opacity"  # last, and only in datasets whose images have reports
WEAK_LABELS = ("yes", "no", "uncertain", "")
BOX_COLUMNS = ("image_id", "kind", "x1", "y1", "x2", "y2")
TABLES = ("manifest.csv", "boxes.csv", "labels.csv", "splits.json")  # checked at every open
CACHE_FILE = "images.u8"

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]
Parsed = TypeVar("Parsed")


class DatasetImage(NamedTuple):
    """One image of a dataset."""

    image_id: str  # RSNA patientId or file stem; unique together with `kind`
    kind: str  # `full`, `lungs`, `nih` or `phantom`
    split: str  # `train`, `val` or `test`
    patient_id: str  # images of one patient share a split
    class_name: str  # `Lung Opacity`, `No Lung Opacity / Not Normal`, `Normal` or empty
    view: str  # `AP`, `PA` or empty
    sex: str  # `F`, `M` or empty
    age: int | None  # years, or None when absent
    width: int  # width of the original image in pixels, the frame of its boxes
    height: int  # height of the original image in pixels
    labelled: bool  # whether an image without boxes is a true negative (no opacity)
    # weak opacity label from the report or from a text-mined label: `yes`, `no`, `uncertain`; empty
    # without either
    weak_opacity: str = ""


class CacheEntry(NamedTuple):
    """Location of an image in `images.u8`: byte offset, size in pixels, sha256 of the bytes."""

    offset: int
    height: int
    width: int
    sha256: str


class Dataset:
    """A dataset folder, opened. Use `open_dataset`.

    Attributes:
        folder: The folder.
        info: `dataset.json`.
        records: One per image, in the order of the manifest; `i` below is an index into it.
        cache: One per image.
        fingerprint: Hash that changes with any image, box, label or split, not with the path.
    """

    def __init__(
        self,
        folder: Path,
        info: Mapping[str, Any],
        records: tuple[DatasetImage, ...],
        cache: tuple[CacheEntry, ...],
        boxes: tuple[Boxes, ...],
    ) -> None:
        self.folder = folder
        self.info = info
        self.records = records
        self.cache = cache
        self.fingerprint = str(info["fingerprint"])
        self._boxes = boxes
        self._images: npt.NDArray[np.uint8] = np.memmap(
            folder / CACHE_FILE, dtype=np.uint8, mode="r"
        )

    def __len__(self) -> int:
        return len(self.records)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the file itself; pickling the map would copy every image.
        return open_dataset, (str(self.folder),)

    def pixels(self, i: int) -> Pixels:
        """The cached image, uint8 (cache_height, cache_width), a read-only view of the file."""
        entry = self.cache[i]
        flat = self._images[entry.offset : entry.offset + entry.height * entry.width]
        return flat.reshape(entry.height, entry.width)

    def boxes(self, i: int) -> Boxes:
        """Ground truth, float32 (n, 4) xyxy in pixels of the original image."""
        return self._boxes[i].copy()

    def cache_boxes(self, i: int) -> Boxes:
        """Ground truth, float32 (n, 4) xyxy in pixels of the array that `pixels(i)` returns."""
        record, entry = self.records[i], self.cache[i]
        x_scale, y_scale = entry.width / record.width, entry.height / record.height
        scaled = self._boxes[i].astype(np.float64) * [x_scale, y_scale, x_scale, y_scale]
        return scaled.astype(np.float32)

    def original_boxes(self, i: int, boxes: Boxes) -> Boxes:
        """Boxes (n, 4) xyxy in pixels of `pixels(i)` -> float32, in pixels of the original."""
        record, entry = self.records[i], self.cache[i]
        x_scale, y_scale = record.width / entry.width, record.height / entry.height
        return (boxes.astype(np.float64) * [x_scale, y_scale, x_scale, y_scale]).astype(np.float32)

    def reference(self) -> dict[str, str]:
        """Reference to the dataset for a run's record: absolute path and fingerprint."""
        return {"path": str(self.folder.resolve()), "fingerprint": self.fingerprint}

    def select(
        self,
        split: str,
        kinds: Collection[str] | None = None,
        include_unlabelled: bool = False,
    ) -> list[int]:
        """Indices of a split's images, in the order of the manifest.

        Args:
            split: `train`, `val` or `test`.
            kinds: Only images of these kinds; None = all.
            include_unlabelled: Also return images whose opacities, if any, have no boxes; they must
                not be trained on as negatives.

        Raises:
            DataError: Unknown split or kind.
        """
        _known("split", (split,), SPLITS)
        _known("kind", kinds or (), KINDS)
        return [
            i
            for i, record in enumerate(self.records)
            if record.split == split
            and (kinds is None or record.kind in kinds)
            and (record.labelled or include_unlabelled)
        ]


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset folder and check its tables against their checksums.

    The checksums of the images are checked by `data_prep.dataset.audit` only, which reads every
    image.

    Args:
        path: Folder written by `pneumonia data import-rsna`, `import-boxes` or `phantom`.

    Raises:
        DataError: Not a dataset, another schema version, a changed or truncated file.
    """
    folder = Path(path)
    info = read_info(folder)
    for name in TABLES:
        _check_table(folder, name, info)
    records, cache = _read_manifest(folder)
    size = _file_size(folder / CACHE_FILE)
    needed = max((entry.offset + entry.height * entry.width for entry in cache), default=0)
    if not records or size != info["files"].get(CACHE_FILE, {}).get("bytes") or needed > size:
        raise DataError(
            "Image cache does not have the size of its manifest",
            expected=f"{needed} bytes",
            found="no file" if size < 0 else f"{size} bytes",
            where=str(folder / CACHE_FILE),
            fix="Import the dataset again",
        )
    return Dataset(folder, info, records, cache, _read_boxes(folder, records))


def read_info(folder: Path) -> dict[str, Any]:
    """Read and check `dataset.json`.

    Raises:
        DataError: Missing, not JSON, another schema, incomplete.
    """
    path = folder / "dataset.json"
    if not path.exists():
        raise DataError(
            "Not a dataset folder",
            expected="a folder with dataset.json",
            where=str(folder),
            fix="Make one with `pneumonia data import-rsna`, `import-boxes` or `phantom`",
        )
    info = read_json_object(str(path), "dataset.json", DataError)
    schema = info.get("schema")
    if schema != SCHEMA:
        raise DataError(
            "Dataset has another schema",
            expected=repr(SCHEMA),
            found=repr(schema),
            where=str(path),
            fix="Import the dataset again with this version",
        )
    if not isinstance(info.get("files"), dict) or not isinstance(info.get("fingerprint"), str):
        raise DataError(
            "dataset.json is incomplete", expected="files, fingerprint", where=str(path)
        )
    for key in ("source", "split", "counts", "cache", "rejected", "adjusted"):
        if not isinstance(info.get(key) or {}, dict):
            raise DataError(
                "dataset.json is damaged",
                expected=f"a JSON object as {key}",
                found=type(info[key]).__name__,
                where=str(path),
                fix="Import the dataset again",
            )
    return dict(info)


def fingerprint_of(table_hashes: Mapping[str, str]) -> str:
    """Hash of the tables' hashes; the manifest holds the image hashes, so pixels are covered."""
    text = "\n".join(f"{name} {table_hashes[name]}" for name in TABLES)
    return hashlib.sha256(text.encode()).hexdigest()


def _known(what: str, values: Iterable[str], allowed: Collection[str]) -> None:
    for value in values:
        if value not in allowed:
            raise DataError(f"Unknown {what}", expected=", ".join(allowed), found=repr(value))


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _check_table(folder: Path, name: str, info: Mapping[str, Any]) -> None:
    path = folder / name
    with os_errors_as(DataError, "Dataset file is missing", path):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = info["files"].get(name)
    if not isinstance(entry, dict) or entry.get("sha256") != digest:
        raise DataError(
            "Dataset file was changed after the import",
            expected="the sha256 of dataset.json",
            found=digest[:12] + "...",
            where=str(path),
            fix="Import the dataset again",
        )


def _parse_table(
    path: Path,
    columns: tuple[str, ...],
    parse: Callable[[dict[str, str]], Parsed],
    optional: tuple[str, ...] = (),
) -> list[Parsed]:
    """Apply `parse` to every row; the DataError of a faulty row names its line."""
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) not in (columns, columns + optional):
            raise DataError(
                "Table has other columns",
                expected=",".join(columns),
                found=",".join(reader.fieldnames or ()),
                where=str(path),
            )
        try:
            return [parse({k: unescape_name(v) for k, v in row.items()}) for row in reader]
        except (KeyError, TypeError, ValueError) as error:
            # the key of a KeyError may be an image's name, which must not appear in a message
            what = "an unknown name" if isinstance(error, KeyError) else str(error)
            raise DataError(
                "Table row is malformed", found=what, where=f"{path}, line {reader.line_num}"
            ) from None


def _read_manifest(folder: Path) -> tuple[tuple[DatasetImage, ...], tuple[CacheEntry, ...]]:
    def parse(row: dict[str, str]) -> tuple[DatasetImage, CacheEntry]:
        offset, height, width = (
            int(row[key]) for key in ("cache_offset", "cache_height", "cache_width")
        )
        if min(offset, height - 1, width - 1) < 0:
            raise ValueError("negative or zero cache entry")
        return _record(row), CacheEntry(offset, height, width, row["sha256"])

    rows = _parse_table(folder / "manifest.csv", MANIFEST_COLUMNS, parse, (WEAK_COLUMN,))
    return tuple(record for record, _ in rows), tuple(entry for _, entry in rows)


def _record(row: Mapping[str, str]) -> DatasetImage:
    for key, allowed in (("kind", KINDS), ("split", SPLITS), ("class", (*CLASSES, ""))):
        if row[key] not in allowed:
            raise ValueError(f"{key} {row[key]!r}")
    weak = row.get(WEAK_COLUMN, "")
    if weak not in WEAK_LABELS:
        raise ValueError(f"{WEAK_COLUMN} {weak!r}")
    return DatasetImage(
        image_id=row["image_id"],
        kind=row["kind"],
        split=row["split"],
        patient_id=row["patient_id"],
        class_name=row["class"],
        view=row["view"],
        sex=row["sex"],
        age=int(row["age"]) if row["age"] else None,
        width=int(row["width"]),
        height=int(row["height"]),
        labelled={"0": False, "1": True}[row["labelled"]],
        weak_opacity=weak,
    )


def _read_boxes(folder: Path, records: tuple[DatasetImage, ...]) -> tuple[Boxes, ...]:
    index = {(record.image_id, record.kind): i for i, record in enumerate(records)}

    def parse(row: dict[str, str]) -> tuple[int, list[float]]:
        at = index[row["image_id"], row["kind"]]
        return at, [float(row[key]) for key in ("x1", "y1", "x2", "y2")]

    found: list[list[list[float]]] = [[] for _ in records]
    for at, box in _parse_table(folder / "boxes.csv", BOX_COLUMNS, parse):
        found[at].append(box)
    return tuple(np.array(boxes, dtype=np.float32).reshape(-1, 4) for boxes in found)
