"""Where images come from: files, folders, archives, DICOMweb, a PACS."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pneumonia.runtime.progress import Progress
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.settings import ScoreSettings

IsDone = Callable[[FoundFile], bool]


class InputSource(Protocol):
    """A source of images."""

    @property
    def kind(self) -> str:
        """The name of this kind of source in audit.jsonl and run.json."""

    @property
    def endpoint(self) -> str:
        """Address of the server, without credentials; empty for local files."""

    def check(self, out: Path) -> None:
        """Raise ConfigError when the input cannot be scored into this folder."""

    def query(self, settings: ScoreSettings) -> list[FoundFile]:
        """All entries of the input, in a fixed order.

        Raises:
            ConfigError: The input does not exist.
            DataError: A server cannot be queried.
        """

    def fetch(
        self, entries: list[FoundFile], folder: Path, is_done: IsDone, progress: Progress | None
    ) -> list[FoundFile]:
        """Fetch the images; those that cannot be fetched get the status `failed`.

        Args:
            entries: From `query`.
            folder: Folder for the images; files of an interrupted run in it are used.
            is_done: Whether an image is not fetched, because an earlier run has scored it.
        """
