"""Write a dataset folder; the reverse of `data_prep.dataset.reader`."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from data_prep.dataset.reader import (
    BOX_COLUMNS,
    CACHE_FILE,
    MANIFEST_COLUMNS,
    SCHEMA,
    SPLITS,
    WEAK_COLUMN,
    Boxes,
    CacheEntry,
    DatasetImage,
    Pixels,
    fingerprint_of,
    read_info,
)
from pneumonia import __version__
from pneumonia.runtime.atomic import new_folder, write_json, write_text
from pneumonia.runtime.csv_tables import csv_text
from pneumonia.runtime.errors import DataError, OutputError, os_errors_as
from pneumonia.runtime.image.preprocess import resize
from pneumonia.runtime.label_table import LABEL_COLUMNS, LABEL_FRAME
from pneumonia.runtime.output_folders import require_own_or_empty

OWN_NAMES = {
    "dataset.json", "manifest.csv", "boxes.csv", "labels.csv", "splits.json", CACHE_FILE,
    "audit.json", "audit.html", "class_info.csv", "dicom", "rejected.csv",
}  # fmt: skip
REJECTED_FILE = "rejected.csv"
_MAX_NAMES = 1000  # names kept per reason in dataset.json; the count is always complete


class RejectedFile(NamedTuple):
    """A file or a label entry that was left out."""

    name: str  # file name or image id
    reason: str  # short code
    detail: str = ""  # the reason as a sentence; may be empty


class CachedImage(NamedTuple):
    """An image of the cache: pixels uint8 (h, w) and their sha256."""

    pixels: Pixels
    sha256: str


class DatasetFacts(NamedTuple):
    """Contents of `dataset.json` besides counts and checksums."""

    # origin of the images, for example `{"type": "rsna-kaggle"}`; no local paths
    source: Mapping[str, Any]
    source_key: str  # hash of sources and options; an import with the same key does nothing
    cache_size: int  # longest side of a cached image in pixels
    split: Mapping[str, Any]  # `{"method", "seed", "leak_warning"}`
    # left-out images and label entries; all are listed in rejected.csv
    rejected: Sequence[RejectedFile]
    adjusted: Mapping[str, Any]  # repaired label rows by reason


def to_cache(pixels: Pixels, cache_size: int) -> CachedImage:
    """Scale an image so that its long side is at most `cache_size` (never enlarged) and hash it."""
    height, width = pixels.shape
    scale = min(1.0, cache_size / max(height, width))
    if scale < 1.0:
        pixels = resize(pixels, max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    pixels = np.ascontiguousarray(pixels)
    return CachedImage(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())


class DatasetWriter:
    """Writes one folder image by image; use `new_dataset`, which commits it only when complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: list[DatasetImage] = []
        self._boxes: list[Boxes] = []
        self._cache: list[CacheEntry] = []
        self._seen: set[tuple[str, str]] = set()
        self._offset = 0
        self._digest = hashlib.sha256()
        self._stream = (folder / CACHE_FILE).open("wb")

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: DatasetImage, cached: CachedImage, boxes: Boxes) -> None:
        """Append one image.

        Args:
            record: Its metadata; width and height are those of the original image.
            cached: From `to_cache`.
            boxes: float32 (n, 4) xyxy in pixels of the original image.

        Raises:
            DataError: (image_id, kind) was added before, or an unlabelled image has boxes.
        """
        key = (record.image_id, record.kind)
        if key in self._seen:
            raise DataError("Image is in the dataset twice", where=f"kind {record.kind!r}")
        if len(boxes) and not record.labelled:
            raise DataError("Unlabelled image has boxes", where=f"kind {record.kind!r}")
        self._seen.add(key)
        height, width = cached.pixels.shape
        data = cached.pixels.tobytes()
        self._stream.write(data)
        self._digest.update(data)
        self._records.append(record)
        self._boxes.append(np.asarray(boxes, dtype=np.float32).reshape(-1, 4))
        self._cache.append(CacheEntry(self._offset, height, width, cached.sha256))
        self._offset += len(data)

    def set_splits(self, splits: Sequence[str]) -> None:
        """Set the split of every image, in the order of `add`."""
        pairs = zip(self._records, splits, strict=True)
        self._records = [record._replace(split=split) for record, split in pairs]

    def finish(self, facts: DatasetFacts) -> None:
        """Write the tables and `dataset.json`.

        Raises:
            DataError: No image was added.
            OutputError: The folder cannot be written.
        """
        if not self._records:
            raise DataError("Dataset has no image", fix="See what was rejected above")
        self._stream.close()
        tables = {
            "manifest.csv": self._manifest(),
            "boxes.csv": csv_text(BOX_COLUMNS, self._box_rows()),
            "labels.csv": csv_text(LABEL_COLUMNS, self._label_rows()),
            "splits.json": json.dumps(self._splits(facts), indent=1) + "\n",
        }
        for name, text in tables.items():
            write_text(str(self.folder / name), text)
        files: dict[str, dict[str, Any]] = {
            name: {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
            for name, text in tables.items()
        }
        if facts.rejected:
            write_text(
                str(self.folder / REJECTED_FILE),
                csv_text(RejectedFile._fields, sorted(facts.rejected)),
            )
        files[CACHE_FILE] = {"sha256": self._digest.hexdigest(), "bytes": self._offset}
        info = {
            "schema": SCHEMA,
            "fingerprint": fingerprint_of({name: files[name]["sha256"] for name in tables}),
            "source": dict(facts.source),
            "source_key": facts.source_key,
            "writer": f"pneumonia {__version__}",
            "counts": self._counts(),
            "cache": {"max_side": facts.cache_size, "dtype": "uint8", "filter": "triangle"},
            "split": dict(facts.split),
            "rejected": _rejected_by_reason(facts.rejected),
            "adjusted": dict(facts.adjusted),
            "files": files,
        }
        write_json(str(self.folder / "dataset.json"), info)

    def _manifest(self) -> str:
        """Manifest as csv text; the weak-label column is present only with weak labels."""
        rows = self._manifest_rows()
        if not any(record.weak_opacity for record in self._records):
            return csv_text(MANIFEST_COLUMNS, rows)
        pairs = zip(rows, self._records, strict=True)
        return csv_text(
            (*MANIFEST_COLUMNS, WEAK_COLUMN), ((*row, r.weak_opacity) for row, r in pairs)
        )

    def _manifest_rows(self) -> Iterator[Sequence[object]]:
        for r, c in zip(self._records, self._cache, strict=True):
            age = "" if r.age is None else r.age
            yield (
                r.image_id, r.kind, r.split, r.patient_id, r.class_name, r.view, r.sex, age,
                r.width, r.height, int(r.labelled), c.offset, c.height, c.width, c.sha256,
            )  # fmt: skip

    def _box_rows(self) -> Iterator[Sequence[object]]:
        for record, boxes in zip(self._records, self._boxes, strict=True):
            for box in boxes:
                # nine digits bring a float32 back exactly
                yield (record.image_id, record.kind, *(f"{float(side):.9g}" for side in box))

    def _label_rows(self) -> Iterator[Sequence[object]]:
        """Rows of the official csv in the frame of 1024; all kinds of an image share one entry."""
        done = set()
        for record, boxes in zip(self._records, self._boxes, strict=True):
            if record.image_id in done or not record.labelled:
                continue
            done.add(record.image_id)
            if not len(boxes):
                yield (record.image_id, "", "", "", "", 0)
            x_scale, y_scale = LABEL_FRAME / record.width, LABEL_FRAME / record.height
            for x1, y1, x2, y2 in boxes.astype(np.float64):
                sides = (x1 * x_scale, y1 * y_scale, (x2 - x1) * x_scale, (y2 - y1) * y_scale)
                yield (record.image_id, *(f"{round(side, 2):.10g}" for side in sides), 1)

    def _splits(self, facts: DatasetFacts) -> dict[str, Any]:
        patients: dict[str, str] = {}
        for record in self._records:
            patients.setdefault(record.patient_id, record.split)
        return {
            "method": facts.split.get("method"),
            "seed": facts.split.get("seed"),
            "patients": dict(sorted(patients.items())),
        }

    def _counts(self) -> dict[str, Any]:
        def table(records: Iterable[int]) -> dict[str, int]:
            chosen = list(records)
            return {
                "images": len(chosen),
                "positive": sum(len(self._boxes[i]) > 0 for i in chosen),
                "unlabelled": sum(not self._records[i].labelled for i in chosen),
                "boxes": sum(len(self._boxes[i]) for i in chosen),
                "patients": len({self._records[i].patient_id for i in chosen}),
            }

        everything = range(len(self._records))
        groups = Counter((record.split, record.kind) for record in self._records)
        counts: dict[str, Any] = dict(table(everything))
        counts["by_split"] = {
            split: {
                kind: table(
                    i
                    for i in everything
                    if (self._records[i].split, self._records[i].kind) == (split, kind)
                )
                for kind in sorted({kind for s, kind in groups if s == split})
            }
            for split in SPLITS
        }
        return counts


def _rejected_by_reason(files: Sequence[RejectedFile]) -> dict[str, Any]:
    names: dict[str, list[str]] = {}
    for file in files:
        names.setdefault(file.reason, []).append(file.name)
    return {
        reason: {"count": len(found), "names": sorted(found)[:_MAX_NAMES]}
        for reason, found in sorted(names.items())
    }


@contextmanager
def new_dataset(out: Path, source: str | None = None) -> Iterator[DatasetWriter]:
    """Fill a dataset folder under a temporary name; on success it replaces the one at `out`.

    Args:
        out: New folder, or a dataset to replace.
        source: Kind of source, the part of its `type` before the first hyphen: a dataset of another
            kind is not replaced. None replaces any.

    Raises:
        OutputError: `out` holds something that is not a dataset, or one of another kind of source,
            or cannot be written.
    """
    require_own_or_empty(str(out), "a dataset", "dataset.json", OWN_NAMES)
    if source is not None:
        _refuse_other_source(out, source)
    with (
        new_folder(str(out)) as part,
        DatasetWriter(Path(part)) as writer,
        os_errors_as(OutputError, "Cannot write dataset", out),
    ):
        yield writer


def _refuse_other_source(out: Path, source: str) -> None:
    try:
        found = read_info(out).get("source")
    except DataError:
        return  # none there, or damaged: then it is of no use
    kind = str(found.get("type", "")) if isinstance(found, dict) else ""
    if kind and kind.partition("-")[0] != source:
        raise OutputError(
            "Output holds a dataset of another source",
            expected=f"a new folder, or a dataset made from {source}",
            found=f"made from {kind}",
            where=str(out),
            fix="Choose another --out, or delete that dataset first",
        )


def is_up_to_date(out: Path, key: str) -> bool:
    """Whether `out` is a complete dataset folder made from these sources and options."""
    try:
        info = read_info(out)
        return bool(info.get("source_key") == key) and all(
            (out / name).stat().st_size == entry["bytes"] for name, entry in info["files"].items()
        )
    except (DataError, OSError, KeyError, TypeError):
        return False
