"""Where images come from: files, folders, archives, DICOMweb, a PACS."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pneumonia.runtime.progress import Progress
from pneumonia.scoring.batch.settings import ScoreSettings
from pneumonia.scoring.image.find import SourceEntry

IsDone = Callable[[SourceEntry], bool]


class InputSource(Protocol):
    """Something that holds images."""

    @property
    def kind(self) -> str:
        """Its word in audit.jsonl and run.json."""

    @property
    def endpoint(self) -> str:
        """The server it asks, without credentials; empty for what lies on this machine."""

    def check(self, out: Path) -> None:
        """Raise ConfigError when the input cannot be scored into this folder."""

    def query(self, settings: ScoreSettings) -> list[SourceEntry]:
        """Everything the input holds, in a fixed order.

        Raises:
            ConfigError: The input does not exist.
            DataError: A server cannot be asked.
        """

    def fetch(
        self, entries: list[SourceEntry], folder: Path, is_done: IsDone, progress: Progress | None
    ) -> list[SourceEntry]:
        """Bring the images here; those that do not come get the status `failed`.

        Args:
            entries: From `query`.
            folder: Where to put images; what an interrupted run left there is used.
            is_done: Whether an image has been scored already and need not come.
            progress: Called with (images done, images, a short note).
        """
