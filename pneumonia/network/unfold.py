"""Batch norm put back where an export folded it away, so that the network can be trained on."""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pneumonia.network.module import Network
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import NetworkSpec

MAX_BATCHES = 64
MIN_STD = 1e-6  # of a layer's output; a layer that is constant is not rescaled


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
    tensors: Mapping[str, Tensor],
    layers: Collection[str],
    batches: Iterable[Tensor],
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """The same function with batch norm, whose statistics are measured: the inverse of `fold`.

    With m and v the mean and variance of a channel's convolution y = w * x + b over the batches
    and s^2 the layer's mean variance: w' = w / s, running mean (m - b) / s, running variance
    v / s^2, gain s sqrt(v / s^2 + eps), shift m. So y is unchanged but for rounding, and the
    weights are about as large as those of a new network, whatever scale folding gave them.
    Zeros stay zeros.

    Args:
        spec: Folded network.
        tensors: Dense, named as `runtime.model.spec.tensor_shapes`.
        layers: Convolutions with a bias and without batch norm that get one in the bias' place.
        batches: Images (N, C, H, W) as in training; the first 64 batches are measured on.

    Returns:
        The new spec and its tensors.

    Raises:
        ArtefactError: There is no batch, or an output is not finite.
    """
    network = Network(spec, tensors).eval()
    sums = {name: _ChannelSums(network.block(name).get_submodule("conv")) for name in layers}
    for batch in islice(batches, MAX_BATCHES):
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
