"""Studies, assignments and readings in the workspace's database.

Every change of a reading is a revision with a parent; a head marks the current revision. Undo moves
the head to the parent, redo to the youngest child, so both survive a reload, a restart and a
crash, and no reading is ever overwritten.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from data_prep.annotation.workspace.database import WorkspaceDatabase, now
from data_prep.annotation.workspace.records import (
    ANNOTATION,
    REPEAT,
    MentionLink,
    Reading,
    Study,
    annotation_json,
)
from data_prep.annotation.workspace.studies import RadiographCheck, StudyFile, check_radiograph
from data_prep.parallel import ordered_map
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.progress import Progress

MAX_STEP_S = 300.0  # maximum working time that one save can add, seconds


class ConflictError(DataError):
    """A reading was changed elsewhere, for example in a second window."""


class ReadingState(NamedTuple):
    """A reading with its place in its history."""

    reading: Reading  # the current reading
    revision: int  # number of the current revision; 0 = no revision yet
    can_undo: bool  # whether there is a change to undo
    can_redo: bool  # whether there is a change to redo
    confirmed: int = 0  # revision created by the sent change, also when the change is sent again


class ReadingStore:
    """Studies, assignments and readings of a workspace."""

    def __init__(self, database: WorkspaceDatabase) -> None:
        self._database = database

    # studies -----------------------------------------------------------------------------------

    def register(
        self,
        files: Sequence[StudyFile],
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> list[int]:
        """Register the files of the folder; only new and changed ones are read.

        A missing file keeps its readings, but is no longer listed.

        Returns:
            Keys of the studies that were not known before and can be read.
        """
        rows = self._database.rows(
            "SELECT s.relative, d.stamp FROM studies s LEFT JOIN details d ON d.study = s.key"
        )
        known = {row["relative"]: row["stamp"] for row in rows}
        fresh = [f for f in files if known.get(f.relative) != f.stamp]
        looked = ordered_map(_check, [str(f.path) for f in fresh], workers, progress)
        results = dict(zip((f.relative for f in fresh), looked, strict=True))
        with self._database.change() as change:
            change.execute("UPDATE studies SET present = 0")
            for file in files:
                result = results.get(file.relative)
                if result is not None:
                    change.execute(
                        "INSERT INTO studies (relative, image_id, width, height, view, reason, "
                        "stamp, present) VALUES (?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (relative) DO "
                        "UPDATE SET width = excluded.width, height = excluded.height, view = "
                        "excluded.view, reason = excluded.reason, stamp = excluded.stamp",
                        (file.relative, _free_name(change, file), *result[:4], file.stamp),
                    )
                    change.execute(
                        "INSERT OR REPLACE INTO details "
                        "SELECT key, ?, ?, ?, ?, ? FROM studies WHERE relative = ?",
                        (file.stamp, *result[4:], file.relative),
                    )
                change.execute("UPDATE studies SET present = 1 WHERE relative = ?",
                               (file.relative,))  # fmt: skip
        return [s.key for s in self.studies() if s.relative not in known and not s.reason]

    def studies(self) -> list[Study]:
        """All existing files, including unreadable ones, ordered by key."""
        return [
            Study(*row)
            for row in self._database.rows(
                "SELECT key, image_id, relative, width, height, reason FROM studies "
                "WHERE present = 1 ORDER BY key"
            )
        ]

    def study(self, key: int) -> Study:
        """One study.

        Raises:
            DataError: No such study, or its file is gone.
        """
        row = self._database.row(
            "SELECT key, image_id, relative, width, height, reason FROM studies "
            "WHERE key = ? AND present = 1",
            key,
        )
        if row is None:
            raise DataError("There is no such study")
        return Study(*row)

    def view(self, key: int) -> str:
        """The header's view position, for example `PA`; empty when unknown."""
        row = self._database.row("SELECT view FROM studies WHERE key = ?", key)
        return row["view"] if row else ""

    # assignments -------------------------------------------------------------------------------

    def assign(self, pairs: Iterable[tuple[int, str]], replace: bool = False) -> None:
        """Assign studies (key) to annotators (name); `replace` removes all others first.

        Readings are never touched.
        """
        with self._database.change() as change:
            if replace:
                change.execute("DELETE FROM assignments")
            change.executemany("INSERT OR IGNORE INTO assignments VALUES (?, ?)", list(pairs))

    def unassign(self, key: int, name: str) -> None:
        """Take a study from an annotator's list; the readings of it stay."""
        with self._database.change() as change:
            change.execute("DELETE FROM assignments WHERE study = ? AND name = ?", (key, name))

    def assignments(self) -> set[tuple[int, str]]:
        """All pairs (study key, annotator)."""
        return {
            (row["study"], row["name"]) for row in self._database.rows("SELECT * FROM assignments")
        }

    def is_assigned(self, key: int, name: str) -> bool:
        """Whether an annotator has a study on the list."""
        found = self._database.row(
            "SELECT 1 FROM assignments WHERE study = ? AND name = ?", key, name
        )
        return found is not None

    def add_repeats(self, pairs: Iterable[tuple[int, str]]) -> None:
        """Let annotators (name) read studies (key) a second time."""
        with self._database.change() as change:
            change.executemany("INSERT OR IGNORE INTO repeats VALUES (?, ?)", list(pairs))

    def repeats(self) -> set[tuple[int, str]]:
        """All pairs (study key, annotator) of second readings."""
        return {(row["study"], row["name"]) for row in self._database.rows("SELECT * FROM repeats")}

    # readings ----------------------------------------------------------------------------------

    def state(self, study: Study, name: str) -> ReadingState:
        """An annotator's current reading of a study."""
        head = self._database.row(
            "SELECT h.revision, h.active_s, h.changed_at, r.body FROM heads h "
            "LEFT JOIN revisions r ON r.id = h.revision WHERE h.study = ? AND h.name = ?",
            study.key, name,
        )  # fmt: skip
        revision = head["revision"] if head else 0
        child = self._database.row(
            "SELECT 1 FROM revisions WHERE study = ? AND name = ? AND parent = ?",
            study.key, name, revision,
        )  # fmt: skip
        reading = Reading(study.image_id, name)
        if head is not None:
            reading = _reading(study.image_id, name, head)
        return ReadingState(reading, revision, revision != 0, child is not None)

    def save(
        self,
        study: Study,
        reading: Reading,
        base_revision: int,
        step_s: float,
        change_id: str = "",
    ) -> ReadingState:
        """Store a new revision; it is on disk when this returns.

        Args:
            reading: The complete new reading; its `active_s` and `changed_at` are ignored.
            base_revision: Revision on which the change is based.
            step_s: Seconds of work since the last save, limited to MAX_STEP_S.
            change_id: Id of the change; a change with a known id is not applied again.

        Raises:
            ConflictError: `base_revision` is no longer the current revision.
        """
        body = json.dumps(
            {
                "annotations": [annotation_json(item) for item in reading.annotations],
                "rejected": list(reading.rejected),
                "verdict": reading.verdict,
                "comment": reading.comment,
                "mentions": [item._asdict() for item in reading.mentions],
            },
            allow_nan=False,
        )

        def move(change: Any, head: int) -> int:
            if head != base_revision:
                raise ConflictError(
                    "This study was changed in another window",
                    fix="The page now shows the other window's state",
                )
            done = change.execute(
                "INSERT INTO revisions (study, name, parent, body, saved_at) "
                "VALUES (?, ?, ?, ?, ?)",
                (study.key, reading.annotator, head, body, now()),
            )
            return int(done.lastrowid)

        confirmed = self._move(study, reading.annotator, move, step_s, change_id)
        return self.state(study, reading.annotator)._replace(confirmed=confirmed)

    def undo(self, study: Study, name: str, change_id: str = "") -> ReadingState:
        """Undo one change; without a change to undo, the state stays the same."""

        def move(change: Any, head: int) -> int:
            row = change.execute("SELECT parent FROM revisions WHERE id = ?", (head,)).fetchone()
            return int(row["parent"]) if row else head

        confirmed = self._move(study, name, move, change_id=change_id)
        return self.state(study, name)._replace(confirmed=confirmed)

    def redo(self, study: Study, name: str, change_id: str = "") -> ReadingState:
        """Redo one change; without a change to redo, the state stays the same."""

        def move(change: Any, head: int) -> int:
            row = change.execute(
                "SELECT max(id) AS id FROM revisions WHERE study = ? AND name = ? AND parent = ?",
                (study.key, name, head),
            ).fetchone()
            return int(row["id"]) if row["id"] is not None else head

        confirmed = self._move(study, name, move, change_id=change_id)
        return self.state(study, name)._replace(confirmed=confirmed)

    def has_finished(self, study: Study, name: str) -> bool:
        """Whether an annotator has ever given a verdict on a study, even if it was reopened."""
        found = self._database.row(
            "SELECT 1 FROM revisions WHERE study = ? AND name = ? "
            "AND json_extract(body, '$.verdict') <> ''",
            study.key, name,
        )  # fmt: skip
        return found is not None

    def add_time(self, study: Study, name: str, step_s: float) -> None:
        """Add seconds of work without a change."""
        self._move(study, name, lambda change, head: head, step_s)

    def _move(
        self,
        study: Study,
        name: str,
        move: Callable[[Any, int], int],
        step_s: float = 0.0,
        change_id: str = "",
    ) -> int:
        """Move the head, once per change id; returns the revision that the change led to."""
        with self._database.change() as change:
            known = change.execute(
                "SELECT revision FROM changes WHERE study = ? AND name = ? AND change_id = ?",
                (study.key, name, change_id),
            ).fetchone()
            if change_id and known is not None:
                return int(known["revision"])
            row = change.execute(
                "SELECT revision FROM heads WHERE study = ? AND name = ?", (study.key, name)
            ).fetchone()
            head = move(change, row["revision"] if row else 0)
            change.execute(
                "INSERT INTO heads VALUES (?, ?, ?, ?, ?) ON CONFLICT (study, name) DO UPDATE SET "
                "revision = excluded.revision, active_s = active_s + excluded.active_s, "
                "changed_at = excluded.changed_at",
                (study.key, name, head, min(max(step_s, 0.0), MAX_STEP_S), now()),
            )
            if change_id:
                change.execute(
                    "INSERT INTO changes VALUES (?, ?, ?, ?)", (study.key, name, change_id, head)
                )
        return head

    def readings(
        self, only: Study | None = None, repeats: bool = False
    ) -> dict[str, list[Reading]]:
        """image_id -> readings of all annotators, with adjudications, of existing files.

        Args:
            only: Only this study; None = all.
            repeats: Return the second readings instead of the first ones.
        """
        found: dict[str, list[Reading]] = {}
        for row in self._database.rows(
            "SELECT s.image_id, h.name, h.revision, h.active_s, h.changed_at, r.body FROM heads h "
            "JOIN studies s ON s.key = h.study LEFT JOIN revisions r ON r.id = h.revision "
            "WHERE s.present = 1 AND (? IS NULL OR s.key = ?) AND (h.name LIKE ?) = ? "
            "ORDER BY s.key, h.name",
            *(2 * (None if only is None else only.key,)),
            f"%{REPEAT}",
            repeats,
        ):
            reading = _reading(row["image_id"], row["name"], row)
            found.setdefault(row["image_id"], []).append(reading)
        return found


def _check(path: str) -> RadiographCheck:
    return check_radiograph(Path(path))


def _free_name(change: Any, file: StudyFile) -> str:
    """Image id of a new file: its name, or its path when another stored file has that name."""
    row = change.execute(
        "SELECT relative FROM studies WHERE image_id = ?", (file.image_id,)
    ).fetchone()
    return file.image_id if row is None or row["relative"] == file.relative else file.relative


def _reading(image_id: str, name: str, row: sqlite3.Row) -> Reading:
    body = json.loads(row["body"]) if row["body"] else {}
    return Reading(
        image_id=image_id,
        annotator=name,
        annotations=tuple(ANNOTATION.validate_python(item) for item in body.get("annotations", ())),
        verdict=body.get("verdict", ""),
        rejected=tuple(body.get("rejected", ())),
        active_s=row["active_s"],
        changed_at=row["changed_at"],
        comment=body.get("comment", ""),
        mentions=tuple(MentionLink(**item) for item in body.get("mentions", ())),
    )


def choose_repeats(assignments: Iterable[tuple[int, str]], share: float) -> list[tuple[int, str]]:
    """Choose studies (key, name) for a second reading, pseudo-randomly with a fixed seed per name.

    Args:
        assignments: Pairs (study key, annotator).
        share: Share of each annotator's studies, 0 < share <= 1; at least one study is chosen.
    """
    keys_of: dict[str, list[int]] = {}
    for key, name in sorted(assignments):
        keys_of.setdefault(name, []).append(key)
    return [
        (key, name)
        for name, keys in sorted(keys_of.items())
        for key in sorted(Random(name).sample(keys, max(1, round(share * len(keys)))))
    ]


def share_out(keys: Sequence[int], names: Sequence[str], readers: int) -> list[tuple[int, str]]:
    """Assign every study to `readers` annotators in turn, in equal numbers.

    Raises:
        DataError: `readers` is below 1 or above the number of annotators.
    """
    if not 1 <= readers <= len(names):
        raise DataError(
            "Number of readers per study is out of range", f"1 to {len(names)}", str(readers)
        )
    order = sorted(names)
    return [
        (key, order[(place * readers + turn) % len(order)])
        for place, key in enumerate(keys)
        for turn in range(readers)
    ]
