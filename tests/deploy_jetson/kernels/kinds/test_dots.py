"""The int8 kernels against the same sums in NumPy: direct ones bit-equal, Winograd closely."""

import numpy as np
import pytest

from deploy_jetson.kernels.compile.targets import TARGETS
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.dots.tiles import quantized_transform
from deploy_jetson.kernels.kinds.dots.words import ChannelWords
from deploy_jetson.kernels.kinds.registry import KINDS
from deploy_jetson.kernels.kinds.winograd.matrices import winograd_matrices
from deploy_jetson.kernels.plan.layer_problem import LayerQuantization, problems_of
from pneumonia.runtime.engines.kernel_library import KernelLibrary
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
    levels = np.clip(np.rint(first / quantization.input_scale) + ZERO_POINT, 0, 255) - ZERO_POINT
    levels = np.pad(levels.astype(np.int64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(levels, (3, 3), (1, 2))
    windows = windows[:, ::stride, ::stride]
    sums = np.einsum("oikl,ihwkl->ohw", quantization.integers.astype(number), windows)
    scales = quantization.scales.astype(np.float64) * quantization.input_scale
    value = sums * scales[:, None, None] + tensors["tested.bias"][:, None, None]
    value = np.maximum(value, 0)
    if skip:
        other = np.einsum("oi,ihw->ohw", tensors["other.weight"][:, :, 0, 0], first)
        value = np.maximum(value + other[:, ::stride, ::stride], 0)
    return value.astype(np.float32)


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
