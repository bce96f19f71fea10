"""YOLO's text files: `class x_centre y_centre width height` per box, as shares of the image."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from data_prep.importing.box_files.rows import RELATIVE, BoxLabels, BoxRow, box_row, number
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.image_names import printable

CLASS_FILES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml", "data.yml")
_MAX_CLASS_BYTES = 1_000_000
_CLASS_NUMBER = re.compile("[0-9]{1,9}")


def label_files(folder: Path) -> list[Path]:
    """The text files of a folder and its subfolders, without the lists of classes."""
    paths = sorted(path for path in folder.rglob("*.txt") if path.is_file())
    return [path for path in paths if path.name not in CLASS_FILES]


def find_class_file(folder: Path) -> Path | None:
    """The list of classes in a label folder or in the folder above it; None without one."""
    places = (folder, folder.resolve().parent)
    paths = [place / name for place in places for name in CLASS_FILES]
    return next((path for path in paths if path.is_file()), None)


def read_yolo(folder: Path, class_file: Path | None) -> BoxLabels:
    """Read the text files; an empty one labels its image as negative.

    Args:
        folder: Folder of text files named like their images, or a dataset that holds it as
            `labels/` beside `images/`.
        class_file: Names of the classes: one per line, or `names` of a yaml; None = the classes
            are named by their numbers.

    Raises:
        DataError: No text file, or a class file that cannot be read.
    """
    names = None if class_file is None else _class_names(class_file)
    paths = label_files(folder)
    if not paths:
        raise DataError(
            "Folder holds no YOLO labels",
            expected="text files named like the images",
            where=str(folder),
        )
    rows: list[BoxRow] = []
    for path in paths:
        rows += _file_rows(path, _image_name(path.relative_to(folder)), names)
    return BoxLabels(rows)


def _image_name(relative: Path) -> str:
    """Path of the image without suffix; a folder `labels` stands beside one named `images`."""
    parts = list(relative.with_suffix("").parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "labels":
            parts[at] = "images"
            break
    return printable("/".join(parts))


def _file_rows(path: Path, image: str, names: dict[int, str] | None) -> Iterator[BoxRow]:
    yield BoxRow(image)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        yield BoxRow(image, fault="not_utf8")
        return
    except OSError:
        yield BoxRow(image, fault="unreadable")
        return
    for line in lines:
        cells = line.split()
        if not cells:
            continue
        values = [number(cell) for cell in cells]
        if len(cells) != 5 or not _CLASS_NUMBER.fullmatch(cells[0]):
            yield BoxRow(image, fault="malformed_row")
            continue
        category = cells[0] if names is None else names.get(int(cells[0]))
        if category is None:
            yield BoxRow(image, fault="unknown_category")
            continue
        _, x, y, width, height = values
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        yield box_row(image, box, category, RELATIVE)


def _class_names(path: Path) -> dict[int, str]:
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    try:
        if path.stat().st_size > _MAX_CLASS_BYTES:
            raise ValueError("too large")
        text = path.read_text(encoding="utf-8-sig")
        if not is_yaml:
            return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
        names = yaml.safe_load(text)["names"]
        pairs = enumerate(names) if isinstance(names, list) else names.items()
        found = {int(key): name for key, name in pairs}
        if not all(isinstance(name, str | int) for name in found.values()):
            raise ValueError("not names")
        return {key: str(name) for key, name in found.items()}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        yaml.YAMLError,
        RecursionError,
    ):
        raise DataError(
            "Names of the classes cannot be read",
            expected="UTF-8: a yaml with `names`" if is_yaml else "UTF-8: one name per line",
            where=str(path),
        ) from None
