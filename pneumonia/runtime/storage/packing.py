"""Storage formats of a layer's weight; each packs a dense weight and unpacks it exactly.

A weight (O, I, K, K) or (O, I) is seen as the matrix (O, I * K * K) of the layer's
general matrix multiplication; column j = i * K * K + kh * K + kw.

`dense`: `L.weight` as it is.

`columns`: filters in consecutive groups of `group_size` (the last may be smaller; 0 = one group of
all). A group keeps the columns in which any of its filters is not zero:
    L.weight          float32 (n_kept,)         group after group, each row-major (rows_g, n_g)
    L.columns         int32 (sum n_g,)          kept columns j, ascending, group after group
    L.column_offsets  int32 (n_groups + 1,)     where each group's columns begin and end

Other sparse layouts and quantized values: `runtime.storage.formats`.
"""

from typing import AbstractSet, Dict, List, Mapping, Tuple

import numpy as np

from pneumonia.runtime.errors import ArtefactError, SpecError
from pneumonia.runtime.model.layers import StorageSpec, Weighted
from pneumonia.runtime.model.ops import weight_shape
from pneumonia.runtime.model.spec import NetworkSpec, tensor_shapes
from pneumonia.runtime.storage.formats import StorageFormat, sparse_formats

Tensors = Dict[str, np.ndarray]


def filter_groups(n_filters: int, group_size: int) -> List[Tuple[int, int]]:
    """(first, end) of each group of filters; the last group may be smaller."""
    size = group_size or n_filters
    return [(first, min(first + size, n_filters)) for first in range(0, n_filters, size)]


def kept_columns(weight: np.ndarray, group_size: int) -> List[np.ndarray]:
    """Per group of filters the ascending columns (int32) in which any of them is not zero."""
    matrix = np.reshape(weight, (len(weight), -1))
    return [
        np.flatnonzero((matrix[first:end] != 0).any(axis=0)).astype(np.int32)
        for first, end in filter_groups(len(matrix), group_size)
    ]


# --- dense --------------------------------------------------------------------------------------


def _pack_dense(layer: Weighted, weight: np.ndarray) -> Tensors:
    return {"weight": weight}


def _unpack_dense(layer: Weighted, tensors: Tensors) -> np.ndarray:
    _require(layer, "weight", tensors["weight"], "float32", weight_shape(layer))
    return tensors["weight"]


def _measure_dense(weight: np.ndarray, group_size: int) -> StorageSpec:
    return StorageSpec()


# --- columns ------------------------------------------------------------------------------------


def _pack_columns(layer: Weighted, weight: np.ndarray) -> Tensors:
    group_size = layer.storage.group_size
    matrix = weight.reshape(len(weight), -1)
    columns = kept_columns(weight, group_size)
    blocks = [
        matrix[first:end, kept].ravel()
        for (first, end), kept in zip(filter_groups(len(matrix), group_size), columns)
    ]
    offsets = np.cumsum([0] + [len(kept) for kept in columns])
    packed = {
        "weight": np.concatenate(blocks).astype(np.float32),
        "columns": np.concatenate(columns).astype(np.int32),
        "column_offsets": offsets.astype(np.int32),
    }
    if layer.storage.n_kept != len(packed["weight"]):
        raise SpecError(
            "Stored weights are not as many as the network description says",
            expected=str(layer.storage.n_kept),
            found=str(len(packed["weight"])),
            where="layer {!r}".format(layer.name),
            fix="Describe the weights with runtime.storage.measured_spec before packing",
        )
    return packed


def _unpack_columns(layer: Weighted, tensors: Tensors) -> np.ndarray:
    shape = weight_shape(layer)
    groups = filter_groups(shape[0], layer.storage.group_size)
    n_columns = int(np.prod(shape[1:], dtype=np.int64))
    columns, offsets = tensors["columns"], tensors["column_offsets"]
    _require(layer, "column_offsets", offsets, "int32", (len(groups) + 1,))
    _require(layer, "columns", columns, "int32", (int(offsets[-1]),))
    _require(layer, "weight", tensors["weight"], "float32", (layer.storage.n_kept,))
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise _mismatch(layer, "ascending column offsets from 0", "others")
    matrix = np.zeros((shape[0], n_columns), dtype=np.float32)
    position = 0
    for index, (first, end) in enumerate(groups):
        kept = columns[offsets[index] : offsets[index + 1]]
        if len(kept) and (kept[0] < 0 or kept[-1] >= n_columns or (np.diff(kept) <= 0).any()):
            raise _mismatch(layer, "ascending columns below {}".format(n_columns), "others")
        block = tensors["weight"][position : position + (end - first) * len(kept)]
        if len(block) != (end - first) * len(kept):
            break
        matrix[first:end, kept] = block.reshape(end - first, len(kept))
        position += len(block)
    if position != layer.storage.n_kept:
        raise _mismatch(layer, "{} weights".format(layer.storage.n_kept), "other column counts")
    return matrix.reshape(shape)


def _measure_columns(weight: np.ndarray, group_size: int) -> StorageSpec:
    groups = filter_groups(len(weight), group_size)
    kept = kept_columns(weight, group_size)
    n_kept = sum((end - first) * len(columns) for (first, end), columns in zip(groups, kept))
    return StorageSpec("columns", group_size, n_kept, 32)


FORMATS = {
    "dense": StorageFormat(("weight",), _pack_dense, _unpack_dense, _measure_dense),
    "columns": StorageFormat(
        ("weight", "columns", "column_offsets"),
        _pack_columns,
        _unpack_columns,
        _measure_columns,
    ),
}
FORMATS.update(sparse_formats())


# --- layers and networks ------------------------------------------------------------------------


def _mismatch(layer: Weighted, expected: str, found: str) -> ArtefactError:
    return ArtefactError(
        "Stored weights do not match the network description",
        expected=expected,
        found=found,
        where="layer {!r}, storage {!r}".format(layer.name, layer.storage.format),
    )


def _require(
    layer: Weighted, suffix: str, tensor: np.ndarray, dtype: str, shape: Tuple[int, ...]
) -> None:
    if str(tensor.dtype) != dtype or tensor.shape != shape:
        raise _mismatch(
            layer,
            "{} {} {}".format(suffix, dtype, shape),
            "{} {}".format(tensor.dtype, tensor.shape),
        )


def format_of(layer: Weighted) -> StorageFormat:
    """The layer's storage format; raises SpecError naming the known ones."""
    try:
        return FORMATS[layer.storage.format]
    except KeyError:
        raise SpecError(
            "Unknown storage format",
            expected="one of " + ", ".join(FORMATS),
            found=repr(layer.storage.format),
            where="layer {!r}".format(layer.name),
        ) from None


def pack(layer: Weighted, weight: np.ndarray) -> Tensors:
    """Store one layer's dense weight as its `storage` says.

    Args:
        weight: float32, of the layer's shape.

    Returns:
        Full tensor name (`L.weight`, ...) -> array.

    Raises:
        SpecError: Unknown format, or `n_kept` is not what the weight keeps.
        ArtefactError: The weight has another shape or type.
    """
    _require(layer, "weight", weight, "float32", weight_shape(layer))
    packed = format_of(layer).pack(layer, weight)
    return {layer.name + "." + suffix: packed[suffix] for suffix in packed}


def unpack(layer: Weighted, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The layer's dense weight, float32; the inverse of `pack`.

    Raises:
        SpecError: Unknown format.
        ArtefactError: A tensor is missing, or shapes, types, indices or counts do not fit.
    """
    suffixes = format_of(layer).suffixes
    missing = [suffix for suffix in suffixes if layer.name + "." + suffix not in tensors]
    if missing:
        raise _mismatch(layer, "tensor " + layer.name + "." + missing[0], "none")
    own = {suffix: tensors[layer.name + "." + suffix] for suffix in suffixes}
    return format_of(layer).unpack(layer, own)


def measured(layer: Weighted, weight: np.ndarray) -> StorageSpec:
    """The layer's storage with `n_kept` and `bits` as this dense weight needs them."""
    return format_of(layer).measure(weight, layer.storage.group_size)


def measured_spec(spec: NetworkSpec, dense: Mapping[str, np.ndarray]) -> NetworkSpec:
    """The network with every layer's `storage` brought up to date with the dense weights."""
    return spec.replace_layers(
        {
            layer.name: layer._replace(storage=measured(layer, dense[layer.name + ".weight"]))
            for layer in spec.weighted()
        }
    )


def packed_tensors(spec: NetworkSpec, dense: Mapping[str, np.ndarray]) -> Tensors:
    """The network's tensors as they are stored.

    Args:
        spec: The network; each layer's `storage` decides.
        dense: Tensors named and shaped as `spec.tensor_shapes`.

    Returns:
        Tensors to write into weights.safetensors.

    Raises:
        ArtefactError: Tensors are missing, unexpected or of another shape or type.
    """
    _check_names(set(tensor_shapes(spec)), set(dense))
    packed: Tensors = {}
    for layer in spec.weighted():
        packed.update(pack(layer, np.asarray(dense[layer.name + ".weight"])))
    for name, shape in tensor_shapes(spec).items():
        if not name.endswith(".weight"):
            packed[name] = _plain(name, np.asarray(dense[name]), shape)
    return packed


def dense_tensors(spec: NetworkSpec, tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Stored tensors -> dense float32 tensors as in `spec.tensor_shapes`.

    Tensors stored as float16 are widened, which is exact.

    Raises:
        ArtefactError: Tensors are missing, unexpected, or do not fit the network.
    """
    expected = {name for name in tensor_shapes(spec) if not name.endswith(".weight")}
    for layer in spec.weighted():
        expected.update(layer.name + "." + suffix for suffix in format_of(layer).suffixes)
    _check_names(expected, set(tensors))
    tensors = {
        name: tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor
        for name, tensor in tensors.items()
    }
    layers = {layer.name + ".weight": layer for layer in spec.weighted()}
    dense: Tensors = {}
    for name, shape in tensor_shapes(spec).items():
        if name in layers:
            dense[name] = unpack(layers[name], tensors)
        else:
            dense[name] = _plain(name, tensors[name], shape)
    return dense


def _check_names(expected: AbstractSet[str], found: AbstractSet[str]) -> None:
    missing = sorted(expected - found)
    unexpected = sorted(found - expected)
    if missing or unexpected:
        raise ArtefactError(
            "Tensors do not match the network description",
            expected="no missing one" if missing else "no more tensors",
            found="no {!r}".format(missing[0]) if missing else repr(unexpected[0]),
        )


def _plain(name: str, tensor: np.ndarray, shape: Tuple[int, ...]) -> np.ndarray:
    if tensor.dtype != np.float32 or tensor.shape != shape:
        raise ArtefactError(
            "Tensor does not match the network description",
            expected="float32 {}".format(shape),
            found="{} {}".format(tensor.dtype, tensor.shape),
            where="tensor {!r}".format(name),
        )
    return tensor
