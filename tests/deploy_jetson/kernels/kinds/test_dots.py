"""The int8 kernels against the same sums in NumPy: direct ones bit-equal, Winograd closely."""

import numpy as np
import pytest

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.dots.tiles import quantized_transform
from deploy_jetson.kernels.kinds.dots.words import ChannelWords
from deploy_jetson.kernels.kinds.registry import KINDS
from deploy_jetson.kernels.kinds.winograd.matrices import winograd_matrices
from deploy_jetson.kernels.plan.layer_problem import LayerQuantization, problems_of
from deploy_jetson.kernels.targets import TARGETS
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.model.layers import Conv, Route
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from tests.deploy_jetson.kernels.networks import one_layer
from tests.deploy_jetson.kernels.programs import (
    EACH_ARM_TARGET,
    EACH_TARGET,
    choosing,
    emulated,
    generated,
    needs_gcc,
    needs_target,
    run_emulated,
    run_program,
)

SHAPE = (21, 37, 7, 11)  # no count fills vectors or words
INPUT_SCALE, ZERO_POINT = 0.25, 50
# Every remainder by the channels of a vector, and by the vectors of a block of words.
COUNTS = (*range(1, 34), 47, 48, 49, 63, 64, 65)


def exact_network(stride=1, skip=True, largest=128):
    """Every product, scale and bias is exact in float32, and so must be every output.

    The tested layer reads -12.5 to 51.25: the image times -3 to 3 exceeds both. No weight exceeds
    `largest`; below 128 two filters have it everywhere.
    """
    generator = np.random.default_rng(7)
    channels, filters = SHAPE[:2]
    spec = one_layer(SHAPE, 3, stride, "relu", skip)
    spec = spec._replace(layers=tuple(
        layer._replace(activation="linear") if layer.name == "first" else layer
        for layer in spec.layers
    ))  # fmt: skip
    integers = generator.integers(-largest, largest, (filters, channels, 3, 3)).astype(np.int8)
    if largest < 128:  # every sum of two products is as large as it can be
        integers[18], integers[19] = -largest, largest
    integers[:16, generator.random((channels, 3, 3)) < 0.7] = 0
    integers[20] = 0
    scales = np.exp2(generator.integers(-9, -5, filters)).astype(np.float32)
    quantization = LayerQuantization(integers, scales, INPUT_SCALE, ZERO_POINT)
    tensors = {
        "first.weight": generator.integers(-3, 4, (channels, 1, 1, 1)).astype(np.float32),
        "first.bias": np.zeros(channels, np.float32),
        "tested.weight": integers * scales[:, None, None, None],
        "tested.bias": generator.integers(-50, 50, filters).astype(np.float32),
        "other.weight": generator.integers(-2, 3, (filters, channels, 1, 1)).astype(np.float32),
        "other.bias": np.zeros(filters, np.float32),
    }
    image = generator.integers(-160, 160, (1, *SHAPE[2:])).astype(np.float32) / 8
    return spec, tensors, {"tested": quantization}, image


def float_reference(tensors, quantization, image):
    return integer_reference(tensors, quantization, image, 1, True, np.float64)


def integer_reference(tensors, quantization, image, stride, skip, number=np.int64):
    """The layer in whole numbers: round, sum in int64, scale, add the bias."""
    first = tensors["first.weight"][:, 0] * image
    value = np.maximum(convolved(first, quantization, tensors["tested.bias"], stride, number), 0)
    if skip:
        other = np.einsum("oi,ihw->ohw", tensors["other.weight"][:, :, 0, 0], first)
        value = np.maximum(value + other[:, ::stride, ::stride], 0)
    return value.astype(np.float32)


def convolved(value, quantization, bias, stride=1, number=np.int64):
    """The convolution of a float (C, H, W) before its activation, as float64."""
    side = quantization.integers.shape[2]
    halo = (side // 2, side // 2)
    levels = np.clip(np.rint(value / quantization.input_scale) + ZERO_POINT, 0, 255) - ZERO_POINT
    levels = np.pad(levels.astype(np.int64), ((0, 0), halo, halo))
    windows = np.lib.stride_tricks.sliding_window_view(levels, (side, side), (1, 2))
    windows = windows[:, ::stride, ::stride]
    sums = np.einsum("oikl,ihwkl->ohw", quantization.integers.astype(number), windows)
    scales = quantization.scales.astype(np.float64) * quantization.input_scale
    return sums * scales[:, None, None] + bias[:, None, None]


def layers_of_every_count(side, largest):
    """Layers of 1 to 33 and up to 65 input channels, and one that reads three unequal tensors.

    A third of the columns is kept, of every third layer no channel but the last; products, scales
    and biases are exact in float32. Returns the network, its tensors, quantization, image and
    expected outputs.
    """
    generator = np.random.default_rng(11)
    layers, tensors, quantization, expected = [], {}, {}, {}
    image = generator.integers(-160, 160, (1, 5, 7)).astype(np.float32) / 8
    values = {}
    sources = {f"tested{n}": (n,) for n in COUNTS} | {"tested_route": (5, 7, 33)}
    for index, (name, counts) in enumerate(sources.items()):
        for count in set(counts) - set(values):
            weight = generator.integers(-3, 4, (count, 1, 1, 1)).astype(np.float32)
            layers.append(Conv(f"first{count}", ("input",), 1, count, 1))
            tensors[f"first{count}.weight"] = weight
            tensors[f"first{count}.bias"] = np.zeros(count, np.float32)
            values[count] = weight[:, 0] * image
        read = f"first{counts[0]}"
        if len(counts) > 1:
            read = "route"
            layers.append(Route(read, tuple(f"first{count}" for count in counts)))
        channels, filters = sum(counts), 5 * index % 33 + 1
        shape = (filters, channels, side, side)
        integers = generator.integers(-largest, largest, shape).astype(np.int8)
        integers[:, generator.random(shape[1:]) < 0.67] = 0
        if index % 3 == 2:
            integers[:, :-1] = 0
        scales = np.exp2(generator.integers(-9, -5, filters)).astype(np.float32)
        bias = generator.integers(-50, 50, filters).astype(np.float32)
        layers.append(Conv(name, (read,), channels, filters, side, 1, side // 2))
        quantization[name] = LayerQuantization(integers, scales, INPUT_SCALE, ZERO_POINT)
        tensors |= {f"{name}.weight": integers * scales[:, None, None, None], f"{name}.bias": bias}
        value = np.concatenate([values[count] for count in counts])
        expected[name] = convolved(value, quantization[name], bias).astype(np.float32)
    spec = NetworkSpec("counts", InputSpec(*image.shape), tuple(layers), tuple(sources), ())
    return spec, tensors, quantization, image, expected


def one_tile(target, kind, **fields):
    """A chooser of one register tile for all layers, so that one loop of each kind is compiled."""

    def choose(problem):
        tested = problem.quantization is not None
        legal = KINDS[kind if tested else "columns"].candidates(
            LayerAnalysis(problem), TARGETS[target]
        )
        chosen = next(
            choice
            for choice in legal
            if not tested or all(getattr(choice, key) == fields[key] for key in fields)
        )
        return chosen._replace(pixels=3, vectors=1)

    return choose


def legal_choices(spec, tensors, quantization, target, kind="dots"):
    problem = problems_of(spec, tensors, quantization=quantization)["tested"]
    return list(KINDS[kind].candidates(LayerAnalysis(problem), TARGETS[target]))


@needs_gcc
@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(
    ("stride", "skip", "largest"), [(1, True, 128), (2, False, 128), (1, False, 64), (2, True, 64)]
)
def test_sums_are_those_of_integers(tmp_path, target, stride, skip, largest):
    spec, tensors, quantization, image = exact_network(stride, skip, largest)
    legal = legal_choices(spec, tensors, quantization, target)
    expected = integer_reference(tensors, quantization["tested"], image, stride, skip)
    small = {"pixels": 3, "vectors": 1, "rows_per_unit": 3, "piece_bytes": 900, "strip_pixels": 6}
    chosen = [legal[0], legal[-1]]
    chosen += [choice._replace(**small) for choice in {c.group: c for c in legal}.values()]
    for index, choice in enumerate(chosen):
        made = generated(
            tmp_path / str(index), spec, tensors, target, choosing(target, choice),
            quantization=quantization,
        )  # fmt: skip
        engine = KernelLibrary(str(made.library), threads=1)
        (found,) = engine.run(image).values()
        engine.close()
        assert np.array_equal(found, expected), choice


@needs_gcc
@needs_target
@pytest.mark.parametrize(
    ("kind", "fields", "side", "largest"),
    [
        ("dots", {"group": 4}, 1, 64),
        ("dots", {"group": 4}, 3, 64),
        ("dots", {"group": 4}, 3, 128),
        ("dots", {"group": 2}, 1, 128),
        ("dots", {"group": 2}, 3, 128),
        ("winograd_dots", {"out_tile": 2}, 3, 128),
        ("winograd_dots", {"out_tile": 4}, 3, 128),
    ],
)
@pytest.mark.parametrize("target", EACH_TARGET)
def test_every_count_of_channels_and_filters(tmp_path, target, kind, fields, side, largest):
    group = fields.get("group", 2)
    if not any(dot.group == group and dot.weight_max >= largest for dot in TARGETS[target].dots):
        pytest.skip(f"{target} has no such product of weights up to {largest}")
    spec, tensors, quantization, image, expected = layers_of_every_count(side, largest)
    made = generated(
        tmp_path, spec, tensors, target, one_tile(target, kind, **fields),
        quantization=quantization,
    )  # fmt: skip
    engine = KernelLibrary(str(made.library), threads=1)
    found = engine.run(image)
    engine.close()
    for name, value in expected.items():
        if kind == "dots":
            assert np.array_equal(found[name], value), name
        else:
            assert np.abs(found[name] - value).max() <= 2e-3 * np.abs(value).max(), name


@needs_gcc
@needs_target
@pytest.mark.parametrize("out_tile", [2, 4])
@pytest.mark.parametrize("target", EACH_TARGET)
def test_winograd_adds_less_than_the_weights_rounding(tmp_path, target, out_tile):
    spec, tensors, quantization, image = exact_network()
    legal = legal_choices(spec, tensors, quantization, target, "winograd_dots")
    legal = [choice for choice in legal if choice.out_tile == out_tile]
    if not legal:
        pytest.skip(f"{target} multiplies 8 bits: Winograd saves nothing")
    expected = integer_reference(tensors, quantization["tested"], image, 1, True)
    # Weights that differ by the rounding to int8, half a step at most.
    layer = quantization["tested"]
    rounding = np.random.default_rng(3).uniform(-0.5, 0.5, layer.integers.shape)
    rounded = layer._replace(integers=np.where(layer.integers, layer.integers + rounding, 0))
    step = np.abs(float_reference(tensors, rounded, image) - expected).max()
    for index in (0, -1):
        made = generated(
            tmp_path / str(index), spec, tensors, target, choosing(target, legal[index]),
            quantization=quantization,
        )  # fmt: skip
        engine = KernelLibrary(str(made.library), threads=1)
        (found,) = engine.run(image).values()
        engine.close()
        error = np.abs(found - expected).max()
        assert error <= 0.25 * step, legal[index]
        assert error <= 5e-4 * np.abs(expected).max(), legal[index]


@pytest.mark.parametrize("out_tile", [2, 4])
@pytest.mark.parametrize(("channels", "zero_point"), [(1, 0), (3, 128), (64, 255), (2048, 0)])
@pytest.mark.parametrize("kind", ["random", "largest", "alternating", "zero"])
def test_no_sum_of_transformed_numbers_leaves_32_bits(out_tile, channels, zero_point, kind):
    shape = (4, channels, 3, 3)
    integers = {
        "random": np.random.default_rng(0).integers(-128, 128, shape),
        "largest": np.full(shape, -128),
        "alternating": np.where(np.indices(shape).sum(axis=0) % 2, 127, -128),
        "zero": np.zeros(shape),
    }[kind].astype(np.int8)
    layer = LayerQuantization(integers, np.ones(4, np.float32), INPUT_SCALE, zero_point)
    weights, steps = quantized_transform(integers, out_tile, layer)
    rows = [float(sum(map(abs, row))) for row in winograd_matrices(out_tile).input]
    largest = np.outer(rows, rows).ravel() * max(zero_point, 255 - zero_point)
    assert largest.max() < 2**15
    sums = np.abs(weights.astype(np.int64)).sum(axis=2) * largest[:, None]
    assert sums.max() < 2**31
    assert (steps > 0).all()


@emulated
@pytest.mark.parametrize("target", EACH_ARM_TARGET)
def test_sums_on_arm_are_those_of_integers(tmp_path, target, monkeypatch):
    spec, tensors, quantization, image = exact_network()
    legal = legal_choices(spec, tensors, quantization, target)
    if not legal:
        pytest.skip(f"{target} has no dot product of int8 values")
    monkeypatch.setattr(f"{run_program.__module__}.random_image", lambda spec: image)
    found, _ = run_emulated(
        tmp_path, spec, tensors, choosing(target, legal[0]), target=target,
        quantization=quantization,
    )  # fmt: skip
    (value,) = found.values()
    expected = integer_reference(tensors, quantization["tested"], image, 1, True)
    assert np.array_equal(value.reshape(expected.shape), expected)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("side", [1, 3])
def test_every_count_of_channels_and_filters_on_arm(tmp_path, side, monkeypatch):
    target = "cortex-a76"
    spec, tensors, quantization, image, expected = layers_of_every_count(side, 128)
    monkeypatch.setattr(f"{run_program.__module__}.random_image", lambda spec: image)
    found, _ = run_emulated(
        tmp_path, spec, tensors, one_tile(target, "dots", group=4), target=target,
        quantization=quantization,
    )  # fmt: skip
    for name, value in expected.items():
        assert np.array_equal(found[name].reshape(value.shape), value), name


def test_products_that_saturate_are_not_chosen():
    """`maddubs` adds two products of a uint8 and an int8 in 16 bits."""
    groups = {}
    for largest in (64, 65):
        spec, tensors, quantization, _ = exact_network(largest=largest)
        legal = legal_choices(spec, tensors, quantization, "x86-avx2")
        groups[largest] = {choice.group for choice in legal}
    assert groups == {64: {2, 4}, 65: {2}}
    for target in TARGETS.values():
        for dot in target.dots:
            sums_16_bits = "maddubs" in dot.expression
            assert 2 * 255 * dot.weight_max < 2**15 or not sums_16_bits


@pytest.mark.parametrize("group", [2, 4])
def test_words_hold_every_channel_once(group):
    generator = np.random.default_rng(0)
    integers = generator.integers(-128, 128, (3, 21, 1, 1)).astype(np.int8)
    words = ChannelWords.natural(21, 4, group).pack(integers)
    places = words.view(f"i{4 // group}").reshape(3, -1)
    assert np.array_equal(np.sort(places[places != 0]), np.sort(integers[integers != 0]))
