"""Settings of a project, kept in its workspace."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.annotation.workspace.database import WorkspaceDatabase

MAX_GUIDELINES = 20_000  # characters
DEFAULT_GUIDELINES = Path(__file__).with_name("guidelines.md")
_KEY = "settings"


class ProjectSettings(NamedTuple):
    """Settings that the manager can change while readers work."""

    # hide report and suggestions from a reader until the first verdict on the study
    blind: bool = False
    shuffle: bool = False  # give every reader the studies in an order of their own
    # number of readers to assign to a new study; 0 = those assigned to all other studies
    readers: int = 0
    guidelines: str = ""  # text of the guidelines page; `#` begins a heading, `-` an item of a list


def read_settings(database: WorkspaceDatabase) -> ProjectSettings:
    """The stored settings; defaults for those that were never stored."""
    row = database.row("SELECT value FROM meta WHERE key = ?", _KEY)
    stored: dict[str, Any] = json.loads(row["value"]) if row else {}
    known = {name: stored[name] for name in ProjectSettings._fields if name in stored}
    return ProjectSettings(**{"guidelines": DEFAULT_GUIDELINES.read_text("utf-8"), **known})


def write_settings(database: WorkspaceDatabase, settings: ProjectSettings) -> None:
    """Store the settings.

    Raises:
        OutputError: The workspace cannot be written.
    """
    with database.change() as change:
        change.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (_KEY, json.dumps(settings._asdict())),
        )
