"""Batch norm folded into the convolution before it, exact up to float rounding."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pneumonia.network.module import check_tensors
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import NetworkSpec


def fold_batch_norm(
    spec: NetworkSpec, tensors: Mapping[str, Tensor]
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """The same function without batch norm.

    w' = w * g and b' = (b - mean) * g + beta, where g = gamma / sqrt(var + eps), computed in
    float64. Zeros of the weight stay zeros, so masks and storage formats survive.

    Args:
        spec: Any network; layers without batch norm are left alone.
        tensors: Dense, named as `runtime.model.spec.tensor_shapes`.

    Returns:
        The folded spec and its tensors (new ones where anything changed).

    Raises:
        ArtefactError: Tensors do not fit, or a running variance is negative.
    """
    check_tensors(spec, tensors)
    weighted = {layer.name for layer in spec.weighted()}
    folded = {k: tensor for k, tensor in tensors.items() if k.rpartition(".")[0] not in weighted}
    changes = {}
    for layer in spec.weighted():
        weight = tensors[layer.name + ".weight"]
        if isinstance(layer, Conv) and layer.batch_norm:
            weight, folded[layer.name + ".bias"] = _fold(layer, tensors)
            changes[layer.name] = layer._replace(batch_norm=False, bias=True)
        elif layer.bias:
            folded[layer.name + ".bias"] = tensors[layer.name + ".bias"]
        folded[layer.name + ".weight"] = weight
    return spec.replace_layers(changes), folded


def _fold(layer: Conv, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    def part(name: str) -> Tensor:
        return tensors[f"{layer.name}.{name}"].detach().double()

    variance = part("bn_var")
    if bool((variance < 0).any()):
        raise ArtefactError(
            "Batch norm variance is negative",
            expected=">= 0",
            found=f"{float(variance.min()):g}",
            where=f"layer {layer.name!r}",
        )
    gain = part("bn_weight") / torch.sqrt(variance + layer.bn_eps)
    bias = part("bias") if layer.bias else torch.zeros_like(gain)
    bias = (bias - part("bn_mean")) * gain + part("bn_bias")
    weight = part("weight") * gain[:, None, None, None]
    return weight.float(), bias.float()
