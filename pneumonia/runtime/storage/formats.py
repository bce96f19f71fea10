"""Storage formats beyond `dense` and `columns`: a layout of places times a coding of values.

`bitmap`, `shared`, `csr`, `relative`, `darb` and `fkw` store float32 values (`L.weight`, as many as
the layout keeps). With `-levels` or `-scaled` behind the name, and as `levels` or `scaled` for
every place, they store packed codes (`L.codes`) of a table of levels (`L.levels`), `bits` each,
with `L.scales` where filters have scales; see `runtime.storage.value_codes`. Index arrays keep the
layout's names.
"""

from typing import Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np

from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import StorageSpec, Weighted
from pneumonia.runtime.model.ops import weight_shape
from pneumonia.runtime.storage import value_codes
from pneumonia.runtime.storage.fkw import SUFFIXES as FKW_SUFFIXES
from pneumonia.runtime.storage.fkw import decode_fkw, encode_fkw
from pneumonia.runtime.storage.sparse_layouts import LAYOUTS, Arrays, LayoutError, SparseLayout


class StorageFormat(NamedTuple):
    """One storage format."""

    suffixes: Tuple[str, ...]  # the tensors that store the weight, named `L.<suffix>`
    pack: Callable[[Weighted, np.ndarray], Arrays]  # (layer, dense weight) -> tensors by suffix
    # (layer, tensors by suffix) -> dense weight of the layer's shape
    unpack: Callable[[Weighted, Arrays], np.ndarray]
    # (dense weight, group_size) -> the StorageSpec that describes it
    measure: Callable[[np.ndarray, int], StorageSpec]


def _all_places(matrix: np.ndarray) -> Tuple[np.ndarray, Arrays]:
    return matrix.ravel(), {}


def _from_all(values: np.ndarray, arrays: Arrays, shape: Tuple[int, int]) -> np.ndarray:
    if len(values) != shape[0] * shape[1]:
        raise LayoutError("codes are not one per weight")
    return values.reshape(shape)


EVERYWHERE = SparseLayout((), _all_places, _from_all)
FKW = SparseLayout(FKW_SUFFIXES, encode_fkw, decode_fkw)


def _refuse(layer: Weighted, error: LayoutError) -> ArtefactError:
    return ArtefactError(
        "Weights and storage do not fit",
        found=str(error),
        where="layer {!r}, storage {!r}".format(layer.name, layer.storage.format),
    )


class _Packer:
    """Packs and unpacks one layout with one coding of values; coding None = float32."""

    def __init__(self, name: str, layout: SparseLayout, coding: Optional[str]) -> None:
        self.name = name
        self.layout = layout
        self.coding = coding

    def format(self) -> StorageFormat:
        own = ("weight",) if self.coding is None else value_codes.CODINGS[self.coding]
        return StorageFormat(own + self.layout.suffixes, self.pack, self.unpack, self.measure)

    def encode(self, weight: np.ndarray) -> Tuple[int, int, Arrays]:
        """Stored values, bits of one, and all tensors of a weight."""
        matrix = weight.reshape(len(weight), -1)
        if self.coding is not None:
            ways = value_codes.level_numbers(matrix, self.coding)
            return min((self._encode_numbers(way) for way in ways), key=_stored_bytes)
        values, arrays = self.layout.encode(matrix)
        return len(values), 32, {"weight": values.astype(np.float32), **arrays}

    def _encode_numbers(self, found: value_codes.LevelNumbers) -> Tuple[int, int, Arrays]:
        # The layouts see level numbers, so that filters may have levels of their own.
        values, arrays = self.layout.encode(found.numbers.astype(np.float32))
        tensors: Arrays = {}
        tensors.update(value_codes.encode_codes(found, values.astype(np.int64)))
        bits = value_codes.code_bits(tensors["levels"].shape[1])
        tensors.update(arrays)
        return len(values), bits, tensors

    def pack(self, layer: Weighted, weight: np.ndarray) -> Arrays:
        try:
            n_values, _, tensors = self.encode(weight)
            if layer.storage.n_kept != n_values:
                raise LayoutError("{} stored values, not n_kept".format(n_values))
        except LayoutError as error:
            raise _refuse(layer, error) from None
        return tensors

    def unpack(self, layer: Weighted, tensors: Arrays) -> np.ndarray:
        shape = weight_shape(layer)
        flat = (shape[0], int(np.prod(shape[1:], dtype=np.int64)))
        n_kept = layer.storage.n_kept
        try:
            if self.coding is not None:
                levels = tensors["levels"]
                stored = value_codes.decode_codes(tensors["codes"], levels, n_kept)
                numbers = self.layout.decode(stored.astype(np.float32), tensors, flat)
                scales = tensors["scales"] if self.coding == "scaled" else None
                return value_codes.apply_levels(numbers.astype(np.int64), levels, scales).reshape(
                    shape
                )
            values = tensors["weight"]
            if values.dtype != np.float32 or values.shape != (n_kept,):
                raise LayoutError("stored values are not float32, n_kept of them")
            return self.layout.decode(values, tensors, flat).reshape(shape)
        except LayoutError as error:
            raise _refuse(layer, error) from None

    def measure(self, weight: np.ndarray, group_size: int) -> StorageSpec:
        try:
            n_values, bits, _ = self.encode(weight)
        except LayoutError as error:
            raise ArtefactError(
                "Weights and storage do not fit",
                found=str(error),
                where="storage {!r}".format(self.name),
            ) from None
        return StorageSpec(self.name, group_size, n_values, bits)


def _stored_bytes(encoded: Tuple[int, int, Arrays]) -> int:
    return sum(array.nbytes for array in encoded[2].values())


def sparse_formats() -> Dict[str, StorageFormat]:
    """The formats of all layouts and codings, by name."""
    layouts = {**LAYOUTS, "fkw": FKW}
    packers = [_Packer(name, layout, None) for name, layout in layouts.items()]
    for coding in value_codes.CODINGS:
        packers.append(_Packer(coding, EVERYWHERE, coding))
        packers += [
            _Packer(name + "-" + coding, layout, coding) for name, layout in layouts.items()
        ]
    return {packer.name: packer.format() for packer in packers}
