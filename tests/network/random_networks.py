"""Random networks over the whole op zoo, with random weights and storage formats."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from pneumonia.runtime.model.spec import (
    ACTIVATIONS,
    INPUT,
    Conv,
    Detect,
    Flatten,
    GlobalAvgPool,
    InputSpec,
    Linear,
    MaxPool,
    NetworkSpec,
    Route,
    Shortcut,
    StorageSpec,
    Upsample,
    tensor_shapes,
)

SPATIAL_OPS = ("conv", "conv", "conv", "maxpool", "upsample", "shortcut", "route")
MAX_SIDE = 24


def random_tensors(spec: NetworkSpec, seed: int) -> dict[str, Tensor]:
    """Weights of a trained look; layers stored as columns keep some columns per filter group."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        value = generator.standard_normal(shape)
        if name.endswith(".weight"):
            value /= np.sqrt(np.prod(shape[1:]))
        if name.endswith((".bn_var", ".bn_weight")):
            value = 0.5 + np.abs(value)
        tensors[name] = torch.from_numpy(value.astype(np.float32))
    for layer in spec.weighted():
        if layer.storage.format == "columns":
            matrix = tensors[layer.name + ".weight"].view(layer.out_channels, -1)
            group = layer.storage.group_size or layer.out_channels
            for first in range(0, layer.out_channels, group):
                kept = generator.random(matrix.shape[1]) < generator.choice([0.0, 0.1, 0.4])
                matrix[first : first + group, torch.from_numpy(~kept)] = 0.0
    return tensors


@st.composite
def networks(draw: st.DrawFn, batch_norm: bool = True) -> NetworkSpec:
    """A valid network of up to a dozen layers with one to three outputs."""
    side = draw(st.sampled_from([5, 8, 12]))
    channels = draw(st.sampled_from([1, 3]))
    mean, std = draw(st.sampled_from([(0.0, 1.0), (0.5, 0.25)]))
    shapes = {INPUT: (channels, side, side + draw(st.integers(0, 2)))}
    layers = []

    def add(layer, shape):
        layers.append(layer)
        shapes[layer.name] = shape

    def conv(name, source, out, activation):
        c, h, w = shapes[source]
        kernel = draw(st.sampled_from([k for k in (1, 2, 3, 5) if k <= min(h, w) + 2]))
        stride = draw(st.sampled_from([1, 1, 2, 3]))
        padding = draw(st.integers(max(0, (kernel - min(h, w) + 1) // 2), 2))
        norm = batch_norm and draw(st.booleans())
        storage = draw(
            st.sampled_from([StorageSpec(), StorageSpec("columns", 0), StorageSpec("columns", 2)])
        )
        layer = Conv(
            name, (source,), c, out, kernel, stride, padding, draw(st.booleans()), norm,
            activation, storage,
        )  # fmt: skip
        size = [(x + 2 * padding - kernel) // stride + 1 for x in (h, w)]
        add(layer, (out, *size))

    for index in range(draw(st.integers(1, 9))):
        source = draw(st.sampled_from(list(shapes)))
        c, h, w = shapes[source]
        op = draw(st.sampled_from(SPATIAL_OPS))
        name = f"{op}_{index:03d}"
        activation = draw(st.sampled_from(ACTIVATIONS))
        if op == "maxpool" and min(h, w) >= 2:
            begin, end = draw(st.integers(0, 1)), draw(st.integers(0, 1))
            kernel, stride = draw(st.integers(2, min(h, w, 3))), draw(st.integers(1, 2))
            size = [(x + begin + end - kernel) // stride + 1 for x in (h, w)]
            add(MaxPool(name, (source,), kernel, stride, begin, end), (c, *size))
        elif op == "upsample" and max(h, w) * 3 <= MAX_SIDE:
            scale = draw(st.integers(2, 3))
            add(Upsample(name, (source,), scale), (c, h * scale, w * scale))
        elif op in ("shortcut", "route"):
            same = [n for n, s in shapes.items() if (s if op == "shortcut" else s[1:])
                    == (shapes[source] if op == "shortcut" else (h, w))]  # fmt: skip
            others = draw(st.lists(st.sampled_from(same), max_size=2))
            inputs = (source, *others)
            if op == "shortcut":
                add(Shortcut(name, inputs, activation), (c, h, w))
            else:
                add(Route(name, inputs), (sum(shapes[n][0] for n in inputs), h, w))
        else:
            conv(name, source, draw(st.integers(1, 9)), activation)
    outputs = _heads(draw, shapes, add, conv)
    return NetworkSpec(
        "random", InputSpec(*shapes[INPUT], mean=mean, std=std), tuple(layers), outputs, ("a", "b")
    )


def _heads(draw, shapes, add, conv):
    outputs = []
    if draw(st.booleans()):
        conv("head", draw(st.sampled_from(list(shapes))), 14, "linear")
        add(Detect("detect", ("head",), ((4.0, 5.0), (7.0, 6.0)), 2, 8), shapes["head"])
        outputs.append("detect")
    if draw(st.booleans()) or not outputs:
        source = draw(st.sampled_from([n for n in shapes if n != "detect"]))
        c, h, w = shapes[source]
        pooled = draw(st.booleans())
        flat = (c, 1, 1) if pooled else (c * h * w, 1, 1)
        add(GlobalAvgPool("flat", (source,)) if pooled else Flatten("flat", (source,)), flat)
        add(Linear("hidden", ("flat",), flat[0], 6, draw(st.booleans()), "relu"), (6, 1, 1))
        add(Linear("logits", ("hidden",), 6, 3), (3, 1, 1))
        outputs += draw(st.sampled_from([["logits"], ["logits", "flat"], ["hidden", "logits"]]))
    if draw(st.booleans()):
        inner = [n for n in shapes if n not in (INPUT, *outputs)]
        outputs.append(draw(st.sampled_from(inner)))
    return tuple(outputs)
