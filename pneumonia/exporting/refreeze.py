"""Write new operating points and calibration into an existing bundle."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumonia.exporting.model_card import points_section, replace_points
from pneumonia.runtime.atomic import new_folder, write_json, write_text
from pneumonia.runtime.errors import ArtefactError, OutputError
from pneumonia.runtime.storage.bundle import (
    MANIFEST,
    MODEL_CARD,
    OPERATING_POINTS,
    Bundle,
    file_record,
    load_bundle,
)


def freeze_points(folder: Path, document: Mapping[str, Any]) -> Bundle:
    """Replace the operating points and the calibration of a bundle; the model stays as it is.

    The model card and the checksums follow, and the bundle is swapped in whole.

    Args:
        document: Content of operating_points.json, as `evaluation.study.operating_points.document`.

    Returns:
        The bundle as it is now.

    Raises:
        ArtefactError: Not a bundle, points of another model, or none at all.
        OutputError: The folder cannot be replaced.
    """
    bundle = load_bundle(str(folder))
    points = document.get("points")
    if not points or document.get("model_hash") not in (None, bundle.model_hash):
        raise ArtefactError(
            "Operating points do not fit the bundle",
            expected=f"points of model {bundle.model_hash[:12]}",
            found=f"{len(points or ())} points of model {str(document.get('model_hash'))[:12]}",
            where=str(folder),
        )
    card = (folder / MODEL_CARD).read_text(encoding="utf-8")
    with new_folder(str(folder)) as part_name:
        part = Path(part_name)
        try:
            shutil.copytree(folder, part, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise OutputError(
                "Cannot copy bundle", found=type(error).__name__, where=str(folder)
            ) from None
        content = {**document, "model_hash": bundle.model_hash}
        write_json(str(part / OPERATING_POINTS), content)
        write_text(str(part / MODEL_CARD), replace_points(card, points_section(points, content)))
        manifest = dict(bundle.manifest)
        manifest["files"] = {
            **manifest["files"],
            **{name: file_record(str(part / name)) for name in (OPERATING_POINTS, MODEL_CARD)},
        }
        write_json(str(part / MANIFEST), manifest)
        load_bundle(part_name)
    return load_bundle(str(folder))
