"""A network on disk: `spec.json` and `weights.safetensors`, and nothing else."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pneumonia.network.accounting import FLOAT_BITS
from pneumonia.network.module import NamedTensors, check_tensors
from pneumonia.runs.checksums import check_files
from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.errors import ArtefactError, SpecError
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.model.spec_json import parse_spec, spec_text
from pneumonia.runtime.storage.bundle import SPEC, WEIGHTS
from pneumonia.runtime.storage.packing import dense_tensors, measured_spec, packed_tensors
from pneumonia.runtime.storage.tensorfile import read_tensors, write_tensors


def save_model(
    folder: Path, spec: NetworkSpec, tensors: NamedTensors, half: bool = False
) -> NetworkSpec:
    """Write a network; every weight is stored as its layer's `storage` says.

    Args:
        folder: Made if it is not there.
        spec: The description; the kept counts of its storage are measured again on the weights.
        tensors: Stored as float32.
        half: Store them as float16 instead, rounded to nearest; quantized layers stay exact.

    Returns:
        The spec as written.

    Raises:
        ArtefactError: Tensors and spec do not fit.
        OutputError: The folder cannot be written.
    """
    check_tensors(spec, tensors)
    dense = {
        name: tensor.detach().float().cpu().contiguous().numpy() for name, tensor in tensors.items()
    }
    spec = measured_spec(spec, dense)
    packed = packed_tensors(spec, dense)
    if half:
        exact = quantized_layers(spec)
        for name, array in packed.items():
            if array.dtype == np.float32 and name.rpartition(".")[0] not in exact:
                packed[name] = array.astype(np.float16)
    write_tensors(str(folder / WEIGHTS), packed)
    write_text(str(folder / SPEC), spec_text(spec))
    return spec


def quantized_layers(spec: NetworkSpec) -> set[str]:
    """Layers whose weights are stored as codes of a few bits."""
    return {layer.name for layer in spec.weighted() if layer.storage.bits < FLOAT_BITS}


def load_model(folder: Path) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Read a network back; packed weights come out dense, zeros where nothing was kept.

    Raises:
        ArtefactError: A file is missing, damaged, not what `checksums.json` beside it says, or the
            two do not belong together.
    """
    check_files(folder, (SPEC, WEIGHTS))
    spec = read_spec(folder)
    path = folder / WEIGHTS
    stored = read_tensors(str(path))
    try:
        dense = dense_tensors(spec, stored)
    except SpecError:
        raise
    except ArtefactError as error:
        raise ArtefactError(
            error.what, error.expected, error.found, f"{path}: {error.where}"
        ) from None
    return spec, {name: torch.from_numpy(array) for name, array in dense.items()}


def read_spec(folder: Path) -> NetworkSpec:
    """The network description in a checkpoint or bundle.

    Raises:
        ArtefactError: It is missing or not text.
        SpecError: It is not a valid network.
    """
    path = folder / SPEC
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ArtefactError(
            "Network description cannot be read", found=error.strerror or "", where=str(path)
        ) from None
    except UnicodeDecodeError:
        raise ArtefactError("Network description is not text", where=str(path)) from None
    return parse_spec(text)


def same_architecture(a: NetworkSpec, b: NetworkSpec) -> bool:
    """Whether two specs describe the same dense network, however its weights are stored."""
    return a.densely_stored() == b.densely_stored()
