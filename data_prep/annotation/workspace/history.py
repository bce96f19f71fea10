"""History of readings, from the revisions stored in a workspace."""

import json
from typing import Any

from data_prep.annotation.workspace.database import WorkspaceDatabase


def first_finished(database: WorkspaceDatabase) -> dict[tuple[str, str], dict[str, Any]]:
    """(image_id, annotator) -> the first revision that had a verdict, with its time `saved_at`."""
    rows = database.rows(
        "SELECT s.image_id, r.name, r.saved_at, r.body, MIN(r.id) FROM revisions r "
        "JOIN studies s ON s.key = r.study WHERE json_extract(r.body, '$.verdict') <> '' "
        "GROUP BY r.study, r.name"
    )
    return {
        (row["image_id"], row["name"]): {**json.loads(row["body"]), "saved_at": row["saved_at"]}
        for row in rows
    }
