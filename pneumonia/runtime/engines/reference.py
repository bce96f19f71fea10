"""The network description executed in NumPy: slow, the reference of all other engines."""

from collections import OrderedDict
from typing import Callable, Dict, List, Mapping, Tuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from pneumonia.runtime.engines import Engine
from pneumonia.runtime.model.spec import (
    BN_EPS,
    INPUT,
    LEAKY_SLOPE,
    Conv,
    Layer,
    Linear,
    MaxPool,
    NetworkSpec,
    Shortcut,
    Upsample,
    op_of,
)

Tensors = Mapping[str, np.ndarray]
Values = List[np.ndarray]


def windows(value: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """Every window of an image, without copying.

    Args:
        value: (C, H, W), already padded.
        kernel: Side of the square window.
        stride: Step between windows.

    Returns:
        View (C, kernel, kernel, out height, out width), read-only.
    """
    channels, height, width = value.shape
    rows = (height - kernel) // stride + 1
    columns = (width - kernel) // stride + 1
    c, h, w = value.strides
    return as_strided(
        value,
        (channels, kernel, kernel, rows, columns),
        (c, h, w, h * stride, w * stride),
        writeable=False,
    )


def activate(value: np.ndarray, activation: str) -> np.ndarray:
    """Apply one of `spec.ACTIVATIONS`."""
    if activation == "leaky_relu":
        return np.asarray(np.maximum(value, value * np.float32(LEAKY_SLOPE)))
    if activation == "relu":
        return np.asarray(np.maximum(value, np.float32(0)))
    return value


def _conv(layer: Conv, sources: Values, tensors: Tensors) -> np.ndarray:
    value, pad = sources[0], layer.padding
    if pad:
        value = np.pad(value, ((0, 0), (pad, pad), (pad, pad)), mode="constant")
    view = windows(value, layer.kernel, layer.stride)
    rows, columns = view.shape[3:]
    # im2col: column j = i * K * K + kh * K + kw meets weight column j
    matrix = np.ascontiguousarray(view).reshape(-1, rows * columns)
    weight = tensors[layer.name + ".weight"].reshape(layer.out_channels, -1)
    out = (weight @ matrix).reshape(layer.out_channels, rows, columns)
    if layer.bias:
        out = out + _per_channel(tensors[layer.name + ".bias"])
    if layer.batch_norm:
        scale = tensors[layer.name + ".bn_weight"] / np.sqrt(
            tensors[layer.name + ".bn_var"] + np.float32(BN_EPS)
        )
        shift = tensors[layer.name + ".bn_bias"] - tensors[layer.name + ".bn_mean"] * scale
        out = out * _per_channel(scale) + _per_channel(shift)
    return activate(out, layer.activation)


def _per_channel(vector: np.ndarray) -> np.ndarray:
    return vector[:, None, None]


def _linear(layer: Linear, sources: Values, tensors: Tensors) -> np.ndarray:
    out = tensors[layer.name + ".weight"] @ sources[0].ravel()
    if layer.bias:
        out = out + tensors[layer.name + ".bias"]
    return activate(np.asarray(out)[:, None, None], layer.activation)


def _shortcut(layer: Shortcut, sources: Values, tensors: Tensors) -> np.ndarray:
    total = sources[0]
    for value in sources[1:]:
        total = total + value
    return activate(total, layer.activation)


def _route(layer: Layer, sources: Values, tensors: Tensors) -> np.ndarray:
    return np.asarray(np.concatenate(sources))


def _upsample(layer: Upsample, sources: Values, tensors: Tensors) -> np.ndarray:
    return np.repeat(np.repeat(sources[0], layer.scale, axis=1), layer.scale, axis=2)


def _maxpool(layer: MaxPool, sources: Values, tensors: Tensors) -> np.ndarray:
    ends = (layer.pad_begin, layer.pad_end)
    value = np.pad(sources[0], ((0, 0), ends, ends), mode="constant", constant_values=-np.inf)
    return np.asarray(windows(value, layer.kernel, layer.stride).max(axis=(1, 2)))


def _global_avg_pool(layer: Layer, sources: Values, tensors: Tensors) -> np.ndarray:
    return np.asarray(sources[0].mean(axis=(1, 2), keepdims=True))


def _flatten(layer: Layer, sources: Values, tensors: Tensors) -> np.ndarray:
    return sources[0].reshape(-1, 1, 1)


def _detect(layer: Layer, sources: Values, tensors: Tensors) -> np.ndarray:
    return sources[0]


RUN: Dict[str, Callable[..., np.ndarray]] = OrderedDict(
    [
        ("conv", _conv),
        ("linear", _linear),
        ("shortcut", _shortcut),
        ("route", _route),
        ("upsample", _upsample),
        ("maxpool", _maxpool),
        ("global_avg_pool", _global_avg_pool),
        ("flatten", _flatten),
        ("detect", _detect),
    ]
)  # fmt: skip


class ReferenceEngine(Engine):
    """Runs a network description layer by layer.

    Args:
        spec: The network.
        tensors: Dense tensors as in `spec.tensor_shapes`.
    """

    name = "reference"

    def __init__(self, spec: NetworkSpec, tensors: Tensors) -> None:
        super().__init__(spec)
        self._tensors = tensors
        self._last_use = self._find_last_uses()

    def _find_last_uses(self) -> Dict[str, List[str]]:
        """Layer -> values that no later layer reads, so that they can be freed."""
        last = {}
        for layer in self.spec.layers:
            for source in layer.inputs:
                last[source] = layer.name
        done: Dict[str, List[str]] = {layer.name: [] for layer in self.spec.layers}
        for source, reader in last.items():
            if source not in self.spec.outputs:
                done[reader].append(source)
        return done

    def _image(self, image: np.ndarray) -> Tuple[np.ndarray, ...]:
        values = {INPUT: image}
        for layer in self.spec.layers:
            sources = [values[source] for source in layer.inputs]
            values[layer.name] = RUN[op_of(layer)](layer, sources, self._tensors)
            for source in self._last_use[layer.name]:
                del values[source]
        return tuple(values[name] for name in self.spec.outputs)

    def _run(self, batch: np.ndarray) -> Dict[str, np.ndarray]:
        results = {
            name: np.empty((len(batch),) + self.output_shapes[name], dtype=np.float32)
            for name in self.spec.outputs
        }
        for index, image in enumerate(batch):
            for name, value in zip(self.spec.outputs, self._image(image)):
                results[name][index] = value.reshape(results[name].shape[1:])
        return results
