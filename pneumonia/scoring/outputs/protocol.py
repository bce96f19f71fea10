"""The interface of output writers, and the scored images and batches they are given."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pneumonia.runtime.errors import OutputError, os_errors_as
from pneumonia.runtime.results.facts import NEGATIVE
from pneumonia.scoring.image.records import UID_CONFLICT, ImageRecord, ScoringModel


@dataclass(frozen=True)
class ScoredStudy:
    """One scored image."""

    record: ImageRecord  # its record, which has a prediction
    pixels: NDArray[np.uint8]  # the image as displayed, uint8 (H, W)
    # the attributes results take over (`runtime.results.source_header`); None for pictures, for
    # headers that cannot be written again, and if no writer needs it
    header: Dataset | None
    # of the image's pixels and identity, where there is a header; salted when it is de-identified
    content_digest: str = ""


@dataclass(frozen=True)
class FinishedBatch:
    """The whole batch."""

    # one per file found, also of files taken over from an earlier run
    records: Sequence[ImageRecord]
    document: dict[str, Any]  # content of run.json

    def scored_keys(self) -> set[str]:
        """Keys of the images whose results are kept in the output folder."""
        return {record.key for record in self.records if record.status == "scored"}

    def referable_keys(self) -> set[str]:
        """Those of `scored_keys` whose image is identified unambiguously by its UID."""
        return {
            record.key
            for record in self.records
            if record.status == "scored" and UID_CONFLICT not in record.warnings
        }


class OutputWriter(Protocol):
    """Makes one kind of output. Its settings are its only state: writers run in any process."""

    @property
    def name(self) -> str:
        """Its entry under `outputs` in run.json."""

    @property
    def needs_header(self) -> bool:
        """Whether `files` uses the source's header."""

    def is_complete(self, record: ImageRecord) -> bool:
        """Whether all files of this image exist from an earlier run."""

    def files(self, study: ScoredStudy) -> dict[str, bytes]:
        """The files of one image: path below the output folder -> content."""

    def finish(self, batch: FinishedBatch) -> dict[str, Any]:
        """Write the files of the whole batch and remove outdated ones.

        Returns:
            Its entry in run.json; no entry if empty.
        """


@dataclass(frozen=True)
class PictureWriter:
    """What writers of one picture per image share; the pictures lie in the folder `name`."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    needs_header: ClassVar[bool] = False

    out: Path  # output folder of the batch
    model: ScoringModel  # model and operating point of the scores
    pictures: str  # `findings` (positive and indeterminate), `all` or `none`

    def path(self, key: str) -> str:
        """Path of an image's picture below the output folder."""
        return f"{self.name}/{key}{self.suffix}"

    def is_wanted(self, record: ImageRecord) -> bool:
        """Whether an image gets a picture."""
        if record.status != "scored":
            return False
        negative = record.flag(self.model.threshold) == NEGATIVE
        return self.pictures == "all" or (self.pictures == "findings" and not negative)

    def is_complete(self, record: ImageRecord) -> bool:
        """Whether the picture exists or none is needed."""
        return not self.is_wanted(record) or (self.out / self.path(record.key)).is_file()

    def keep_wanted(self, batch: FinishedBatch) -> int:
        """Remove pictures of earlier runs that are not wanted; returns how many are."""
        keys = {record.key for record in batch.records if self.is_wanted(record)}
        remove_others(self.out / self.name, keys)
        return len(keys)


_KEYED = re.compile(r"^([0-9a-f]{16})[.-]")


def remove_others(folder: Path, keep: set[str]) -> None:
    """Delete files named after a key (16 hex digits) that is not kept; other files stay."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        named = _KEYED.match(path.name)
        if named is not None and named.group(1) not in keep:
            remove_file(path)


def remove_file(path: Path) -> None:
    """Delete a file if it exists.

    Raises:
        OutputError: It cannot be deleted, or is a folder.
    """
    with os_errors_as(OutputError, "File of an earlier run cannot be removed", path):
        path.unlink(missing_ok=True)
