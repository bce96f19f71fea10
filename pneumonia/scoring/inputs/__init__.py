"""Where images come from: files, folders, archives, DICOMweb, a PACS."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pneumonia.scoring.find import Entry
from pneumonia.scoring.settings import ScoreSettings

Progress = Callable[[int, int, str], None]  # done, total, a short note


class InputSource(Protocol):
    """Something that holds images."""

    @property
    def kind(self) -> str:
        """Its word in audit.jsonl and run.json."""

    def check(self, out: Path) -> None:
        """Raise ConfigError when the input cannot be scored into this folder."""

    def query(self, settings: ScoreSettings, salt: str, out: Path) -> list[Entry]:
        """Everything the input holds, in a fixed order; images lie where `fetch` puts them.

        Raises:
            ConfigError: The input does not exist.
            DataError: An archive cannot be asked.
        """

    def fetch(self, entries: list[Entry], progress: Progress | None) -> list[Entry]:
        """Bring the images here; those that do not come get the status `failed`."""

    def clean(self) -> None:
        """Remove what `fetch` brought; called once every image has its status."""
