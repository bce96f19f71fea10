"""compression.json of a run folder: what a pruning or a quantization did, layer by layer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumonia.runs.names import COMPRESSION_FILE
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.json_files import read_json_object

SCHEMA = "pneumonia.compression/1"


def read_run_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run, empty when the file does not exist.

    Raises:
        ArtefactError: Damaged.
    """
    if not path.exists():
        return {}
    value = read_json_object(str(path), "File of the run")
    try:
        json.dumps(value, allow_nan=False)  # what is copied from it must be JSON without NaN
    except ValueError:
        raise ArtefactError("File of the run is damaged", where=str(path)) from None
    return value


def write_compression(run: Path, report: Mapping[str, Any]) -> None:
    """Write the report of a run.

    Args:
        run: Run folder.
        report: JSON values; `layers` is a list with one object per layer, each with its `name`.

    Raises:
        OutputError: It cannot be written.
    """
    write_json(str(run / COMPRESSION_FILE), {"schema": SCHEMA, **report})


def read_compression(run: Path) -> dict[str, Any]:
    """The report of a run, empty when it has none.

    Quantizations used to write `layers` as an object keyed by layer name; it is read as the list
    that is written today.

    Raises:
        ArtefactError: Damaged.
    """
    report = read_run_json(run / COMPRESSION_FILE)
    layers = report.get("layers")
    if isinstance(layers, dict) and all(isinstance(row, dict) for row in layers.values()):
        report["layers"] = [{"name": name, **row} for name, row in layers.items()]
    return report
