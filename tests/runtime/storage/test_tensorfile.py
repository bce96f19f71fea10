"""The safetensors library itself judges what we write, and hostile headers are refused."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.storage.tensorfile import (
    DTYPES,
    read_tensors,
    tensor_bytes,
    write_tensors,
)

arrays = st.sampled_from(sorted(DTYPES.values())).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    )
)


@given(st.dictionaries(st.text(max_size=8), arrays, max_size=6))
def test_bytes_equal_those_of_the_safetensors_library(tensors):
    tensors.pop("__metadata__", None)
    ours = tensor_bytes(tensors)
    theirs = safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in tensors.items()})
    if all(v.ndim for v in tensors.values()):  # ascontiguousarray lifts scalars to one dimension
        assert ours == theirs
    back = safetensors.numpy.load(ours)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].tobytes() == tensor.tobytes()
        assert back[name].shape == tensor.shape


def test_round_trip_of_a_library_file_with_metadata(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, 2], np.int32)}
    safetensors.numpy.save_file(tensors, path, metadata={"schema": "x/1"})
    back = read_tensors(path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype
    back["b"][0, 0] = 7  # writable, and no other array changes
    assert back["a"].tolist() == [1, 2]
    again = tmp_path / "again.safetensors"
    write_tensors(again, tensors)
    safetensors.numpy.save_file(tensors, path)
    assert again.read_bytes() == path.read_bytes()


def test_big_endian_and_strided_arrays_are_written_by_value(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"x": np.arange(12, dtype=">f4").reshape(3, 4).T})
    np.testing.assert_array_equal(read_tensors(path)["x"], np.arange(12.0).reshape(3, 4).T)


def test_unsupported_dtype_is_refused():
    with pytest.raises(ArtefactError, match="complex64"):
        tensor_bytes({"x": np.zeros(2, np.complex64)})


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def raw(header, body=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


HOSTILE = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "header longer than file": raw({"a": entry()}, length=10**6),
    "header length 2**64-1": raw({"a": entry()}, length=2**64 - 1),
    "not json": raw(b"{nope"),
    "not utf-8": raw(b"\xff\xfe{}"),
    "list": raw([1]),
    "deep nesting": raw(b"[" * 100_000),
    "entry is a number": raw({"a": 3}),
    "unknown dtype": raw({"a": entry(dtype="BF16", shape=(4,))}),
    "dtype is a list": raw({"a": {"dtype": [], "shape": [2], "data_offsets": [0, 8]}}),
    "missing key": raw({"a": {"dtype": "F32", "shape": [2]}}),
    "extra key": raw({"a": {**entry(), "x": 1}}),
    "negative extent": raw({"a": entry(shape=(-2,))}),
    "two negative extents": raw({"a": entry(shape=(-2, -1))}),
    "float extent": raw({"a": entry(shape=(2.0,))}),
    "bool extent": raw({"a": entry(dtype="F64", shape=(True,))}),
    "overflowing product": raw({"a": entry(shape=(2**32, 2**32, 2))}),
    "size differs from offsets": raw({"a": entry(shape=(3,))}),
    "end beyond file": raw({"a": entry(shape=(4,), offsets=(0, 16))}),
    "begin after end": raw({"a": entry(offsets=(8, 0))}),
    "hole at the start": raw({"a": entry(shape=(1,), offsets=(4, 8))}),
    "hole between": raw(
        {"a": entry(shape=(1,), offsets=(0, 4)), "b": entry(shape=(0,), offsets=(8, 8))}
    ),
    "overlap": raw({"a": entry(), "b": entry()}),
    "bytes behind the last tensor": raw({"a": entry()}, body=b"\0" * 9),
    "duplicate name": raw(
        b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"
    ),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_files_are_refused(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ArtefactError, match=r"x\.safetensors"):
        read_tensors(path)


def test_missing_file_is_an_artefact_error(tmp_path):
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_tensors(tmp_path / "none")


@given(data=st.data())
def test_flipped_header_bytes_never_escape_as_another_error(tmp_path_factory, data):
    good = tensor_bytes({"a": np.arange(3, dtype=np.float32), "b": np.ones((2, 2), np.int8)})
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("flip") / "x"
    path.write_bytes(bytes(bad))
    try:
        tensors = read_tensors(path)
    except ArtefactError:
        return
    assert sum(t.nbytes for t in tensors.values()) == 16
