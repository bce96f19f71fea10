"""Which storage format makes each compressed weight smallest on disk."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.spec import NetworkSpec, StorageSpec, Weighted
from pneumonia.runtime.storage.packing import FORMATS, measured, pack

MAX_LEVELS = 1 << 8  # more different values than this are not quantized weights
MIN_ZEROS = 0.3  # of a weight, before a sparse layout is worth trying


def smallest_storage(spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> NetworkSpec:
    """The network with every layer stored in the format of fewest bytes.

    A layer stored by `columns` leaves it only for packed levels: the generated kernels run
    columns, and an irregular layout of as many float32 weights is not worth losing that.

    Args:
        spec: The network; layers stored by `columns` are compared with that group size.
        tensors: Its dense tensors.
    """
    changes = {}
    for layer in spec.weighted():
        weight = tensors[layer.name + ".weight"].detach().float().cpu().numpy()
        best = min(
            (_sized(layer, weight, name) for name in _candidates(layer, weight)),
            key=lambda found: found[0],
        )
        changes[layer.name] = layer._replace(storage=best[1])
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
        names += [name for name in FORMATS if name in ("bitmap", "csr", "relative", "darb", "fkw")]
    if n_levels <= MAX_LEVELS:
        names.append("levels")
        names += [name for name in FORMATS if name.endswith("-levels")] if sparse else []
    return names


def _sized(layer: Weighted, weight: np.ndarray, name: str) -> tuple[float, StorageSpec]:
    trial = layer._replace(storage=StorageSpec(name, layer.storage.group_size))
    if name != "columns":
        trial = layer._replace(storage=StorageSpec(name))
    try:
        trial = trial._replace(storage=measured(trial, weight))
    except ArtefactError:  # the weight does not have the format's structure
        return float("inf"), trial.storage
    return float(stored_bytes(trial, weight)), trial.storage
