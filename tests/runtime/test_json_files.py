"""JSON objects in files: every kind of damage is one error, with the name and the place."""

import pytest

from pneumonia.runtime.errors import ArtefactError, DataError
from pneumonia.runtime.json_files import find_json_object, read_json_object

DAMAGED = {
    "is not JSON": [b"", b"{", b'{"a": 1} x', b"[" * 100_000],
    "is not a JSON object": [b"[1]", b"null", b'"{}"'],
    "is not in UTF-8": [b'{"a": "\xff"}'],
    "is too large": [b'{"a": "' + b"x" * 200_000 + b'"}'],
}


@pytest.mark.parametrize(
    ("reason", "data"), [(reason, data) for reason, found in DAMAGED.items() for data in found],
    ids=lambda value: value if isinstance(value, str) else repr(value[:9]),
)  # fmt: skip
def test_a_damaged_file_is_one_error(tmp_path, reason, data):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"Table {reason}.*x.json.*Make it again"):
        read_json_object(str(path), "Table", DataError, "Make it again", max_bytes=150_000)
    assert reason == "is too large" or find_json_object(str(path)) == {}


def test_a_missing_file_or_a_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ArtefactError, match="File cannot be read"):
            read_json_object(str(path), "File")
        assert find_json_object(str(path)) == {}


def test_an_object_with_or_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.json"
    for start in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(start + b'{"a": [1, "\xc3\xa4"]}')
        assert (
            read_json_object(str(path), "File")
            == {"a": [1, "\u00e4"]}
            == find_json_object(str(path))
        )
