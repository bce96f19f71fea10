"""Which storage format makes each compressed weight smallest on disk."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import StorageSpec, Weighted
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.storage.packing import FORMATS, measured, pack
from pneumonia.runtime.storage.sparse_layouts import LAYOUTS
from pneumonia.runtime.storage.value_codes import CODINGS

MAX_LEVELS = 1 << 8  # more different values than this are not quantized weights
MIN_ZEROS = 0.3  # of a weight, before a sparse layout is worth trying


def smallest_storage(
    spec: NetworkSpec, tensors: Mapping[str, Tensor], layers: Collection[str] | None = None
) -> NetworkSpec:
    """The network with every layer stored in the format of fewest bytes.

    A layer stored by `columns` leaves it only for packed levels: the generated kernels run
    columns, and an irregular layout of as many float32 weights is not worth losing that.

    Args:
        spec: The network; layers stored by `columns` are compared with that group size.
        layers: Names of the layers to choose for; None = all.
    """
    changes = {}
    for layer in spec.weighted():
        if layers is not None and layer.name not in layers:
            continue
        weight = tensors[layer.name + ".weight"].detach().float().cpu().numpy()
        best = _smallest(layer, weight, _candidates(layer, weight))
        changes[layer.name] = layer._replace(storage=best)
    return spec.replace_layers(changes)


def stored_bytes(layer: Weighted, weight: np.ndarray) -> int:
    """Bytes of the tensors that the layer's storage writes for a dense weight."""
    return sum(array.nbytes for array in pack(layer, weight).values())


def _candidates(layer: Weighted, weight: np.ndarray) -> list[str]:
    # Filters may have levels of their own: folded batch norms scale each of them.
    n_levels = max(len(np.unique(row)) for row in weight.reshape(len(weight), -1))
    sparse = float(np.mean(weight == 0)) >= MIN_ZEROS
    names = ["dense", *(["columns"] if layer.storage.format == "columns" else [])]
    if sparse and layer.storage.format != "columns":
        names += [name for name in FORMATS if name in LAYOUTS or name == "fkw"]
    if n_levels <= MAX_LEVELS:
        # The codes of a layout are the same under every coding: what is best without a layout is
        # best with one.
        coding = _smallest(layer, weight, list(CODINGS)).format
        names.append(coding)
        names += [name for name in FORMATS if name.endswith("-" + coding)] if sparse else []
    return names


def _smallest(layer: Weighted, weight: np.ndarray, names: Sequence[str]) -> StorageSpec:
    found = (_sized(layer, weight, name) for name in names)
    return min(found, key=lambda sized: sized[0])[1]


def _sized(layer: Weighted, weight: np.ndarray, name: str) -> tuple[float, StorageSpec]:
    trial = layer._replace(storage=StorageSpec(name, layer.storage.group_size))
    if name != "columns":
        trial = layer._replace(storage=StorageSpec(name))
    try:
        trial = trial._replace(storage=measured(trial, weight))
    except ArtefactError:  # the weight does not have the format's structure
        return float("inf"), trial.storage
    return float(stored_bytes(trial, weight)), trial.storage
