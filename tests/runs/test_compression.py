"""compression.json: one shape, and that of older quantizations."""

import json

import pytest

from pneumonia.runs.compression import read_compression, write_compression
from pneumonia.runtime.errors import ArtefactError


def test_what_is_written_is_read(tmp_path):
    assert read_compression(tmp_path) == {}
    report = {"method": "structured", "layers": [{"name": "conv_000", "kept_weights": 3}]}
    write_compression(tmp_path, report)
    assert read_compression(tmp_path) == {"schema": "pneumonia.compression/1", **report}


def test_layers_by_name_are_read_as_a_list(tmp_path):
    old = {
        "schema": "pneumonia.compression/1", "method": "quantize", "ladder": ["8-bit", "4-bit"],
        "layers": {"conv_000": {"bits": 4, "pruned": False}, "conv_001": {"bits": 4}},
    }  # fmt: skip
    (tmp_path / "compression.json").write_text(json.dumps(old))
    assert read_compression(tmp_path)["layers"] == [
        {"name": "conv_000", "bits": 4, "pruned": False},
        {"name": "conv_001", "bits": 4},
    ]


@pytest.mark.parametrize("content", ["{", "[]", "7", "[" * 100_000])
def test_damaged_reports_are_one_line(tmp_path, content):
    (tmp_path / "compression.json").write_text(content)
    with pytest.raises(ArtefactError, match="File of the run"):
        read_compression(tmp_path)
