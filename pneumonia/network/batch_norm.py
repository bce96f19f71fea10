"""Batch norm folded into the convolution before it, put back, and measured again."""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pneumonia.network.module import NamedTensors, Network, check_tensors
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import NetworkSpec

UNFOLD_BATCHES, REESTIMATE_BATCHES = 64, 200
MIN_STD = 1e-6  # of a layer's output; a layer that is constant is not rescaled


def fold_batch_norm(
    spec: NetworkSpec, tensors: NamedTensors
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """The same function without batch norm.

    w' = w * g and b' = (b - mean) * g + beta, where g = gamma / sqrt(var + eps), computed in
    float64. Zeros of the weight stay zeros, so masks and storage formats survive.

    Args:
        spec: Any network; layers without batch norm are left alone.

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


def folded_layers(spec: NetworkSpec) -> list[str]:
    """Convolutions that may have had a batch norm: with a bias, an activation and none now."""
    return [
        layer.name
        for layer in spec.layers
        if isinstance(layer, Conv)
        and layer.bias
        and not layer.batch_norm
        and layer.activation != "linear"
    ]


@torch.no_grad()
def unfold_batch_norm(
    spec: NetworkSpec,
    tensors: NamedTensors,
    layers: Collection[str],
    batches: Iterable[Tensor],
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """The same function with batch norm, whose statistics are measured: the inverse of folding.

    With m and v the mean and variance of a channel's convolution y = w * x + b over the batches
    and s^2 the layer's mean variance: w' = w / s, running mean (m - b) / s, running variance
    v / s^2, gain s sqrt(v / s^2 + eps), shift m. So y is unchanged but for rounding, and the
    weights are about as large as those of a new network, whatever scale folding gave them.
    Zeros stay zeros.

    Args:
        spec: Folded network.
        layers: Convolutions with a bias and without batch norm that get one in the bias' place.
        batches: Images (N, C, H, W) as in training; the first 64 batches are measured on.

    Returns:
        The new spec and its tensors.

    Raises:
        ArtefactError: There is no batch, or an output is not finite.
    """
    network = Network(spec, tensors).eval()
    sums = {name: _ChannelSums(network.block(name).get_submodule("conv")) for name in layers}
    for batch in islice(batches, UNFOLD_BATCHES):
        network(batch)
    unfolded, changes = dict(tensors), {}
    for name in layers:
        layer = spec.layer(name)
        assert isinstance(layer, Conv)
        mean, variance = sums[name].moments(name)
        scale = max(float(variance.mean().sqrt()), MIN_STD)
        variance = (variance / scale**2).float()
        bias = unfolded.pop(name + ".bias").double()
        parts = {
            "weight": tensors[name + ".weight"].double() / scale,
            "bn_mean": (mean - bias) / scale,
            "bn_var": variance,
            "bn_weight": scale * torch.sqrt(variance.double() + layer.bn_eps),
            "bn_bias": mean,
        }
        unfolded |= {f"{name}.{part}": tensor.float() for part, tensor in parts.items()}
        changes[name] = layer._replace(batch_norm=True, bias=False)
    return spec.replace_layers(changes), unfolded


class _ChannelSums:
    """Sums over the outputs (N, C, H, W) of a module: count, and per channel of y and y^2."""

    def __init__(self, module: nn.Module) -> None:
        self.count = 0
        self.sum = self.square = torch.zeros((), dtype=torch.float64)
        module.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        values = output.double().transpose(0, 1).flatten(1)
        self.count += values.shape[1]
        self.sum = self.sum + values.sum(1)
        self.square = self.square + values.square().sum(1)

    def moments(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel, float64 (C,)."""
        if not self.count or not bool(self.square.isfinite().all()):
            raise ArtefactError(
                "Batch norm cannot be measured",
                expected="finite outputs on at least one batch of images",
                found=f"{self.count} values of each channel",
                where=f"layer {name!r}",
            )
        mean = self.sum / self.count
        return mean, (self.square / self.count - mean.square()).clamp_min(0)


@torch.no_grad()
def reestimate_batch_norm(
    network: nn.Module, batches: Iterable[Tensor], limit: int = REESTIMATE_BATCHES
) -> int:
    """Replace running means and variances by averages over forward passes.

    Everything but batch norm runs as in evaluation; weights do not change.

    Args:
        network: Changed in place; ends in the mode it came in.
        batches: Inputs (N, C, H, W), on any device; moved to the network's.

    Returns:
        Batches used; 0 when the network has no batch norm.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return 0
    training, momenta = network.training, [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
    device = next(network.parameters()).device
    used = 0
    for used, batch in enumerate(islice(batches, limit), start=1):
        for norm in norms:
            norm.momentum = 1 / used  # plain average: the first batch replaces what was there
        network(batch.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)
    return used
