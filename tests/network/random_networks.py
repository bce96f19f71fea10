"""Random networks over the whole op zoo, with random weights and storage formats."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from pneumonia.network.module import Network
from pneumonia.runtime.model.layers import (
    ACTIVATIONS,
    UPSAMPLE_MODES,
    Activation,
    Attention,
    AvgPool,
    Constant,
    Conv,
    Crop,
    Detect,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Multiply,
    Norm,
    Pad,
    PixelShuffle,
    Reshape,
    Resize,
    Reuse,
    Route,
    Select,
    Shortcut,
    Softmax,
    StorageSpec,
    Upsample,
)
from pneumonia.runtime.model.ops import layer_shape
from pneumonia.runtime.model.spec import INPUT, InputSpec, NetworkSpec, tensor_shapes

SPATIAL_OPS = ("conv", "conv", "conv", "maxpool", "upsample", "shortcut", "route")
ZOO_ACTIVATIONS = ("linear", "leaky_relu", "relu")
MAX_SIDE = 24


def any_layers(  # noqa: PLR0911 - one of each kind
    draw: st.DrawFn, name: str, source: str, shape: tuple[int, int, int]
) -> list:
    """One of the ops that only imported networks have; the last layer is called `name`."""
    c, h, w = shape
    if min(h, w) < 2 or max(h, w) > MAX_SIDE // 2:
        return []
    divisors = [d for d in range(1, c + 1) if c % d == 0]
    groups = draw(st.sampled_from(divisors))
    pairs = st.tuples(st.integers(0, 1), st.integers(0, 1))
    kind = draw(st.sampled_from(ANY_OPS))
    if kind == "grouped":
        return [Conv(name, (source,), c, groups * draw(st.integers(1, 3)), (1, min(h, w, 3)), 1,
                     (0, 1), True, draw(st.booleans()), "silu", groups=groups,
                     dilation=(2, 1))]  # fmt: skip
    if kind == "transposed":
        kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        return [Conv(name, (source,), c, groups * 2, kernel, stride, draw(st.integers(0, 2)) if
                     min(h, w) > 4 else 0, draw(st.booleans()), draw(st.booleans()), "gelu",
                     groups=groups, transposed=True, output_padding=stride - 1)]  # fmt: skip
    if kind == "norm":
        norm = draw(st.sampled_from(["batch", "group", "layer", "rms"]))
        by = groups if norm == "group" else 1
        return [Norm(name, (source,), c, norm, by, 1e-3, draw(st.booleans()), "hardswish")]
    if kind == "constant":
        constant = Constant(f"{name}_value", (), c, h, w)
        return [constant, Shortcut(name, (source, constant.name))]
    if kind == "gate":
        pooled = GlobalAvgPool(f"{name}_pool", (source,))
        gate = Activation(f"{name}_gate", (pooled.name,), draw(st.sampled_from(ACTIVATIONS)), 0.3)
        return [pooled, gate, Multiply(name, (source, gate.name))]
    if kind == "attention":
        maps = [Reshape(f"{name}_tokens", (source,), h * w, 1)]
        maps += [Linear(f"{name}_{x}", (maps[0].name,), c, 4) for x in "qkv"]
        heads = draw(st.sampled_from([1, 2]))
        mixed = Attention(f"{name}_mixed", tuple(m.name for m in maps[1:]), heads, 0.7)
        return [*maps, mixed, Reshape(name, (mixed.name,), h, w)]
    twice = Conv(f"{name}_first", (source,), c, c, 3, 1, 1)
    if kind == "reuse":
        return [twice, Reuse(name, (twice.name,), twice.name)]
    return [{
        "softmax": Softmax(name, (source,)),
        "select": Select(name, (source,), tuple(draw(st.permutations(range(c)))[: groups])),
        "crop": Crop(name, (source,), (draw(st.integers(0, h - 1)), h, 2), (0, w, 1)),
        "pad": Pad(name, (source,), draw(pairs), draw(pairs),
                   draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])), 0.5),
        "shuffle": PixelShuffle(name, (source,), 2) if c % 4 == 0 else Softmax(name, (source,)),
        "tall": Route(name, (source, source), "height"),
        "avgpool": AvgPool(name, (source,), 2, (2, 1), draw(st.sampled_from([0, 1])),
                           draw(st.booleans())),
        "bilinear": Upsample(name, (source,), 2,
                             draw(st.sampled_from(["bilinear", "bilinear_corners"]))),
        "resize": Resize(name, (source,), draw(st.integers(1, MAX_SIDE // 2)),
                         draw(st.integers(1, MAX_SIDE // 2)),
                         draw(st.sampled_from(UPSAMPLE_MODES))),
    }[kind]]  # fmt: skip


ANY_OPS = (
    "grouped", "transposed", "norm", "constant", "gate", "attention", "reuse", "softmax", "select",
    "crop", "pad", "shuffle", "tall", "avgpool", "bilinear", "resize",
)  # fmt: skip


def random_tensors(spec: NetworkSpec, seed: int) -> dict[str, Tensor]:
    """Weights of a trained look; layers stored as columns keep some columns per filter group."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        value = generator.standard_normal(shape)
        if name.endswith(".weight"):
            value /= np.sqrt(np.prod(shape[1:]))
        if name.endswith((".bn_var", ".bn_weight", ".norm_var", ".norm_weight")):
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


def outputs_of(spec: NetworkSpec, tensors: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """What the network computes in evaluation mode."""
    with torch.no_grad():
        return Network(spec, tensors).eval()(x)


def spec_of(layers: list, shapes: dict) -> NetworkSpec:
    """The layers so far, without outputs."""
    return NetworkSpec("random", InputSpec(*shapes[INPUT]), tuple(layers), (), ())


@st.composite
def networks(  # noqa: C901 - a branch per op
    draw: st.DrawFn, batch_norm: bool = True, zoo_only: bool = True
) -> NetworkSpec:
    """A valid network of up to a dozen layers with one to three outputs.

    Args:
        draw: Of hypothesis.
        batch_norm: Whether convolutions may have one.
        zoo_only: Only the ops of the zoo's networks, which generated C knows.
    """
    functions = ZOO_ACTIVATIONS if zoo_only else ACTIVATIONS
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

    ops = SPATIAL_OPS if zoo_only else (*SPATIAL_OPS, *["any"] * 4)
    for index in range(draw(st.integers(1, 9))):
        source = draw(st.sampled_from(list(shapes)))
        c, h, w = shapes[source]
        op = draw(st.sampled_from(ops))
        name = f"{op}_{index:03d}"
        if op == "any":
            if min(h, w) >= 2 and max(h, w) <= MAX_SIDE // 2:
                for layer in any_layers(draw, name, source, shapes[source]):
                    executed = spec_of(layers, shapes).executed(layer)
                    add(layer, layer_shape(executed, [shapes[x] for x in layer.inputs]))
            continue
        activation = draw(st.sampled_from(functions))
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
