"""COCO's detection format: one JSON with images, annotations and categories."""

from collections import Counter
from pathlib import Path
from typing import Any

from data_prep.importing.box_files.rows import BoxLabels, BoxRow, Frame, box_row, number
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.json_files import read_json_object

MAX_BYTES = 1_000_000_000


def read_coco(path: Path) -> BoxLabels:
    """Read a COCO file; every listed image is labelled, those without annotation as negative.

    Boxes are `[x, y, width, height]` in pixels of the size that the file states for the image. An
    image whose id or file name another entry has is faulty, as are those with a malformed
    annotation or an unknown category.

    Raises:
        DataError: Not a UTF-8 JSON, too large, or without the three lists.
    """
    table = _load(path)
    categories = _categories(table["categories"], path)
    rows: list[BoxRow] = []
    names: dict[object, str] = {}  # of images, by id
    frames: dict[object, Frame | None] = {}
    file_names: Counter[str] = Counter()
    for at, entry in enumerate(table["images"]):
        key, name = _field(entry, "id"), _field(entry, "file_name")
        if key is None or not isinstance(name, str) or not name.strip():
            rows.append(BoxRow(f"images[{at}]", fault="malformed_row"))
        elif key in names:
            rows += [BoxRow(names[key], fault="image_id_repeated")]
            rows += [BoxRow(name, fault="image_id_repeated")]
        else:
            names[key], frames[key] = name, _size(entry)
            file_names[name] += 1
            rows.append(BoxRow(name))
    rows += [BoxRow(name, fault="listed_twice") for name, n in file_names.items() if n > 1]
    for at, entry in enumerate(table["annotations"]):
        key = _field(entry, "image_id")
        if key not in names:
            rows.append(BoxRow(f"annotations[{at}]", fault="unknown_image"))
        else:
            rows.append(_annotation(entry, names[key], categories, frames[key]))
    return BoxLabels(rows, frame_is_image_size=True)


def _load(path: Path) -> dict[str, Any]:
    expected = "a JSON object with the lists images, annotations, categories"
    table = read_json_object(
        str(path), "COCO file", DataError, f"Give {expected}", max_bytes=MAX_BYTES
    )
    lists = ("images", "annotations", "categories")
    if not all(isinstance(table.get(key), list) for key in lists):
        found = sorted(map(str, table))[:10]
        raise DataError("File is not COCO", expected=expected, found=repr(found), where=str(path))
    return table


def _field(entry: object, key: str) -> int | str | None:
    """The text or whole number of a key; None when there is neither."""
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _categories(entries: list[Any], path: Path) -> dict[object, str]:
    categories: dict[object, str] = {}
    for entry in entries:
        key, name = _field(entry, "id"), _field(entry, "name")
        if key is None or name is None or categories.setdefault(key, str(name)) != str(name):
            raise DataError(
                "Categories are malformed",
                expected="objects with id and name, each id once",
                where=str(path),
            )
    return categories


def _size(entry: dict[str, Any]) -> Frame | None:
    width, height = number(entry.get("width")), number(entry.get("height"))
    return (width, height) if 0 < width < 1e6 and 0 < height < 1e6 else None


def _annotation(
    entry: dict[str, Any], image: str, categories: dict[object, str], frame: Frame | None
) -> BoxRow:
    category = categories.get(_field(entry, "category_id"))
    box = entry.get("bbox")
    if category is None:
        return BoxRow(image, fault="unknown_category")
    if not isinstance(box, list) or len(box) != 4:
        return BoxRow(image, category=category, fault="malformed_row")
    x, y, width, height = map(number, box)
    row = box_row(image, (x, y, x + width, y + height), category, frame)
    return row._replace(assertion=str(entry.get("assertion", "")))
