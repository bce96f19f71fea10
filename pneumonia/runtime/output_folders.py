"""Which folders may be written: new ones, empty ones, and those of the kind to be written."""

import os
from typing import Collection, Iterable, Optional

from pneumonia.runtime.errors import OutputError

# file -> the kind of folder that has it, the first that fits
_KINDS = {
    "dataset.json": "a dataset",
    "manifest.jsonl": "scored images",
    "run.json": "a run",
    "config.yaml": "a run",
    "spec.json": "a model",
}


def require_own_or_empty(
    folder: str,
    own: Optional[str] = None,
    marker: Optional[str] = None,
    own_names: Optional[Collection[str]] = None,
) -> None:
    """Refuse an output folder that holds other files than those of its kind.

    Args:
        folder: The output folder, which may not exist yet.
        own: Its kind, for the message, such as `a dataset`; None = must be empty.
        marker: File that a folder of this kind always has; None = must be empty.
        own_names: All names that a folder of this kind may hold; None = any beside `marker`.

    Raises:
        OutputError: `folder` is a file, or a folder with other contents.
    """
    if not os.path.exists(folder):
        return
    if os.path.isdir(folder):
        names = set(os.listdir(folder))
        if not names or (marker in names and names <= set(own_names or names)):
            return
    raise _other_files(folder, _KINDS, own)


def refuse_other_kinds(folder: str, names: Iterable[str], own: str) -> None:
    """Refuse an output folder that holds a file of another kind; other contents may stay.

    Args:
        folder: The output folder, which may not exist yet.
        names: The files that are refused, such as `dataset.json`.
        own: The kind of the folder to be written, for the message.

    Raises:
        OutputError: One of the files is there.
    """
    names = list(names)
    if any(os.path.lexists(os.path.join(folder, name)) for name in names):
        raise _other_files(folder, names, own)


def _other_files(folder: str, names: Iterable[str], own: Optional[str]) -> OutputError:
    """The error, with the first of `names` that is there; other names may be those of patients."""
    found = None
    for name in names:
        if os.path.lexists(os.path.join(folder, name)):
            found = "{} ({})".format(_KINDS[name], name) if name in _KINDS else name
            break
    return OutputError(
        "Output folder holds other files",
        expected="a new or empty folder" + (", or {}".format(own) if own else ""),
        found=found,
        where=folder,
        fix="Choose another folder",
    )
