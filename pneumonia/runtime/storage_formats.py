"""Storage formats beyond `dense` and `columns`: a layout of places times a coding of values.

`bitmap`, `csr`, `relative`, `darb` and `fkw` store float32 values (`L.weight`, n_kept of them);
with `-levels` behind the name, and as `levels` for every place, they store packed codes
(`L.codes`) of a table of levels (`L.levels`), `bits` each. Index arrays keep the layout's names.
"""

from collections import OrderedDict
from typing import Any, Callable, Dict, Tuple, Union

import numpy as np

from pneumonia.runtime import value_codes
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.fkw import SUFFIXES as FKW_SUFFIXES
from pneumonia.runtime.fkw import decode_fkw, encode_fkw
from pneumonia.runtime.sparse_layouts import LAYOUTS, Arrays, Layout, LayoutError
from pneumonia.runtime.spec import Conv, Linear, StorageSpec

Weighted = Union[Conv, Linear]
# suffixes, pack, unpack, measure: the fields of `runtime.storage.StorageFormat`
Parts = Tuple[
    Tuple[str, ...],
    Callable[[Weighted, np.ndarray], Arrays],
    Callable[[Weighted, Arrays], np.ndarray],
    Callable[[np.ndarray, int], StorageSpec],
]


def _all_places(matrix: np.ndarray) -> Tuple[np.ndarray, Arrays]:
    return matrix.ravel(), {}


def _from_all(values: np.ndarray, arrays: Arrays, shape: Tuple[int, int]) -> np.ndarray:
    if len(values) != shape[0] * shape[1]:
        raise LayoutError("codes are not one per weight")
    return values.reshape(shape)


EVERYWHERE = Layout((), _all_places, _from_all)
FKW = Layout(FKW_SUFFIXES, encode_fkw, decode_fkw)


def _shape(layer: Weighted) -> Tuple[int, ...]:
    if isinstance(layer, Conv):
        return (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
    return (layer.out_channels, layer.in_channels)


def _refuse(layer: Weighted, error: LayoutError) -> ArtefactError:
    return ArtefactError(
        "Weights and storage do not fit",
        found=str(error),
        where="layer {!r}, storage {!r}".format(layer.name, layer.storage.format),
    )


def _format(name: str, layout: Layout, coded: bool) -> Parts:
    def encode(weight: np.ndarray) -> Tuple[np.ndarray, Arrays]:
        return layout.encode(weight.reshape(len(weight), -1))

    def pack(layer: Weighted, weight: np.ndarray) -> Arrays:
        tensors = OrderedDict()  # type: Arrays
        try:
            values, arrays = encode(weight)
            if coded:
                tensors["codes"], tensors["levels"] = value_codes.encode_values(values)
            else:
                tensors["weight"] = values.astype(np.float32)
        except LayoutError as error:
            raise _refuse(layer, error) from None
        if layer.storage.n_kept != len(values):
            error = LayoutError("{} stored values, not n_kept".format(len(values)))
            raise _refuse(layer, error)
        tensors.update(arrays)
        return tensors

    def unpack(layer: Weighted, tensors: Arrays) -> np.ndarray:
        shape = _shape(layer)
        flat = (shape[0], int(np.prod(shape[1:], dtype=np.int64)))
        n_kept = layer.storage.n_kept
        try:
            if coded:
                values = value_codes.decode_values(tensors["codes"], tensors["levels"], n_kept)
            else:
                values = tensors["weight"]
            if values.dtype != np.float32 or values.shape != (n_kept,):
                raise LayoutError("stored values are not float32, n_kept of them")
            return layout.decode(values, tensors, flat).reshape(shape)
        except LayoutError as error:
            raise _refuse(layer, error) from None

    def measure(weight: np.ndarray, group_size: int) -> StorageSpec:
        values, _ = encode(weight)
        bits = value_codes.code_bits(len(np.unique(values))) if coded else 32
        return StorageSpec(name, group_size, len(values), bits)

    own = value_codes.SUFFIXES if coded else ("weight",)
    return own + layout.suffixes, pack, unpack, measure


def sparse_formats() -> "OrderedDict[str, Parts]":
    """Name -> the parts of its StorageFormat."""
    layouts = dict(LAYOUTS, fkw=FKW)  # type: Dict[str, Any]
    formats = OrderedDict((name, _format(name, layouts[name], False)) for name in layouts)
    formats["levels"] = _format("levels", EVERYWHERE, True)
    for name in layouts:
        formats[name + "-levels"] = _format(name + "-levels", layouts[name], True)
    return formats
