"""Images below a folder, found by the names that label files give them.

Names are looked up among the files that were found, never opened, so a name in a label file cannot
lead out of the folder.
"""

import os
from pathlib import Path
from typing import NamedTuple

from data_prep.importing.sources import files_below
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.image_names import IMAGE_SUFFIXES, image_ids, printable, stem

# files that lie beside images in label datasets; not worth a rejection
_LABEL_SUFFIXES = (".txt", ".json", ".csv", ".yaml", ".yml", ".xml", ".names", ".data", ".md")


class NameMatch(NamedTuple):
    """The image that a name refers to."""

    image_id: str | None  # of the image; None when there is none
    prefix: str = ""  # leading folders of the name that the image folder does not have
    # whether the file has another suffix than the name, for example `.dcm`
    other_suffix: bool = False
    fault: str = ""  # `no_image`, `ambiguous_name`, or empty


class ImageIndex:
    """DICOM, PNG and JPEG files of a folder and of its subfolders.

    Args:
        folder: The folder.

    Attributes:
        paths: image_id, as in `pneumonia score` -> file.
        rejected: (name, reason) of the other files.

    Raises:
        DataError: Not a folder, or it holds no image.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError("Image folder is missing", where=str(folder))
        self.rejected: list[tuple[str, str]] = []
        found: dict[str, Path] = {}
        for path in files_below(folder):
            name = printable(path.relative_to(folder).as_posix())
            if not path.is_file():
                reason = "dangling_link" if path.is_symlink() else "not_a_file"
                self.rejected.append((name, reason))
            elif path.suffix.lower() in IMAGE_SUFFIXES or _begins_like_dicom(path):
                found[name] = path
            elif path.suffix.lower() not in _LABEL_SUFFIXES:
                self.rejected.append((name, "not_an_image_name"))
        if not found:
            raise DataError(
                "Folder holds no image", expected="DICOM, PNG or JPEG files", where=str(folder)
            )
        names = image_ids(found)
        self.paths = dict(zip(names, found.values(), strict=True))
        self._exact = dict(zip(found, names, strict=True))
        self._without_suffix: dict[str, str | None] = {}
        self._tails: dict[str, str | None] = {}
        for name, image_id in self._exact.items():
            _register(self._without_suffix, stem(name), image_id)
            parts = name.split("/")
            for at in range(1, len(parts)):
                tail = "/".join(parts[at:])
                _register(self._tails, tail, image_id)
                if stem(tail) != tail:
                    _register(self._tails, stem(tail), image_id)

    def find(self, name: str) -> NameMatch:
        """The image of a name: a path with or without suffix, of which folders may be missing.

        Leading folders of the name that the image folder does not have are ignored, but only when
        the rest is the whole path of an image.
        """
        parts = [part for part in printable(name).replace("\\", "/").split("/") if part != "."]
        for at in range(len(parts)):
            match = self._at("/".join(parts[at:]), "/".join(parts[:at]))
            if match is not None:
                return match
        whole = "/".join(parts)
        for key in (whole, stem(whole)):
            if key in self._tails:
                return _match(self._tails[key], "", key != whole)
        return NameMatch(None, fault="no_image")

    def _at(self, path: str, prefix: str) -> NameMatch | None:
        if path in self._exact:
            return NameMatch(self._exact[path], prefix)
        if stem(path) in self._without_suffix:
            return _match(self._without_suffix[stem(path)], prefix, stem(path) != path)
        return None


def _match(image_id: str | None, prefix: str, other_suffix: bool) -> NameMatch:
    fault = "" if image_id is not None else "ambiguous_name"
    return NameMatch(image_id, prefix, other_suffix, fault)


def _register(table: dict[str, str | None], key: str, image_id: str) -> None:
    """Set the image of a key; None when two images have it."""
    if table.setdefault(key, image_id) != image_id:
        table[key] = None


def _begins_like_dicom(path: Path) -> bool:
    """Whether a file without an image suffix is DICOM by its preamble."""
    if path.suffix.lower() in _LABEL_SUFFIXES:
        return False
    try:
        with open(os.fspath(path), "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False
