"""A network on disk: `spec.json` and `weights.safetensors`, and nothing else."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from pneumonia.network.module import check_tensors
from pneumonia.runtime.atomic import write_bytes, write_text
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.spec import NetworkSpec

SPEC_FILE = "spec.json"
WEIGHTS_FILE = "weights.safetensors"


def save_model(folder: Path, spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> None:
    """Write a network; every weight is stored as its layer's `storage` says.

    Args:
        folder: Made if it is not there.
        spec: The description.
        tensors: Dense float32 tensors named as `runtime.spec.tensor_shapes`.

    Raises:
        ArtefactError: Tensors and spec do not fit.
        OutputError: The folder cannot be written.
    """
    check_tensors(spec, tensors)
    dense = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    write_bytes(str(folder / WEIGHTS_FILE), save(dense))
    write_text(str(folder / SPEC_FILE), spec.to_json())


def load_model(folder: Path) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Read a network back; packed weights come out dense, zeros where nothing was kept.

    Raises:
        ArtefactError: A file is missing, damaged, or the two do not belong together.
    """
    try:
        spec = NetworkSpec.from_json((folder / SPEC_FILE).read_text(encoding="utf-8"))
        tensors = load((folder / WEIGHTS_FILE).read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError("Model cannot be read", found=str(error), where=str(folder)) from None
    check_tensors(spec, tensors)
    return spec, {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
