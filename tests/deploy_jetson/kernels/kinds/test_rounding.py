"""Convolutions that write whole numbers for their readers, against rounding in steps of its own.

Spans: deploy_jetson.kernels.plan.rounding, deploy_jetson.kernels.kinds.columns,
deploy_jetson.kernels.kinds.dots.
"""

import numpy as np
import pytest

from deploy_jetson.kernels.compile import lower as lowering
from deploy_jetson.kernels.compile.lower import lower
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.columns.packing import pack_panels
from deploy_jetson.kernels.kinds.dots.step import DotsStep, QuantizeStep, pair_words
from deploy_jetson.kernels.kinds.registry import KINDS, cheapest
from deploy_jetson.kernels.plan.layer_problem import LayerQuantization
from deploy_jetson.kernels.plan.steps import ConvolutionStep
from deploy_jetson.kernels.targets import TARGETS
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.model.layers import Conv, Route
from pneumonia.runtime.model.spec import NetworkSpec
from tests.deploy_jetson.kernels.networks import (
    keep_columns,
    random_image,
    random_tensors,
    residual_tower,
)
from tests.deploy_jetson.kernels.programs import (
    EACH_TARGET,
    Instance,
    emulated,
    generated,
    needs_gcc,
    needs_target,
    run_emulated,
)

SEVEN_BITS = 63
KINDS_OF_SEED = (
    ("columns", "dots"), ("columns", "winograd", "dots"), ("winograd_dots", "dots"),
    ("taps", "columns", "winograd_dots", "dots"),
)  # fmt: skip


def readers_of_many_kinds():
    """A residual tower; a tensor with two scales, one that is also an output, and a route."""
    tower = residual_tower((8, 24, 40))
    layers = (
        *tower.layers,
        Conv("again", ("thin1",), 12, 9, 3, 1, 1, activation="relu"),
        Route("both", ("thin2", "sum2")),
        Conv("routed", ("both",), 60, 17, 1),
    )
    return tower._replace(layers=layers, outputs=("sum2", "thin1", "again", "routed"))


def int8_network(largest=SEVEN_BITS):
    """The network, its tensors and the quantization of all layers but the first."""
    spec = readers_of_many_kinds()
    tensors = random_tensors(spec)
    quantization = {}
    for number, layer in enumerate(spec.weighted()):
        if layer.inputs == ("input",):
            continue
        weight = tensors[f"{layer.name}.weight"]
        if number % 3 == 0:  # filters change places, some filters and channels are empty
            weight = keep_columns(weight, 0.5, 4)
            weight[1], weight[:, 2] = 0, 0
        scales = (np.abs(weight).max(axis=(1, 2, 3)) / np.float32(largest)).astype(np.float32)
        scales[scales == 0] = 1
        integers = np.rint(weight / scales[:, None, None, None]).astype(np.int8)
        scale, zero_point = 0.02 + 0.003 * number, 20 + 10 * number % 200
        quantization[layer.name] = LayerQuantization(integers, scales, scale, zero_point)
        tensors[f"{layer.name}.weight"] = integers * scales[:, None, None, None]
    return spec, tensors, quantization


def choosing_of(target, kinds, seed):
    """A chooser that draws from the legal choices of some kinds, else the cheapest one."""
    generator = np.random.default_rng(seed)

    def choose(problem):
        analysis = LayerAnalysis(problem)
        legal = [c for kind in kinds for c in KINDS[kind].candidates(analysis, TARGETS[target])]
        if not legal:
            return cheapest(problem, TARGETS[target])
        return legal[generator.integers(len(legal))]

    return choose


def apart(steps, kept):
    """In place of `fold_rounding`: every layer keeps its own rounding step."""
    return list(steps)


def outputs_of(folder, network, target, choose, threads=1):
    spec, tensors, quantization = network
    folder.mkdir()
    made = generated(folder, spec, tensors, target, choose, quantization=quantization)
    instance = Instance(made.library, KernelLibrary(str(made.library)).output_shapes)
    found = []
    for seed in (1, 2):  # no step may read what no step of the same run has written
        instance.poison(made.plan.arena_floats)
        assert instance.run(random_image(spec, seed) * 4, threads=threads) == ""
        found.append({name: value.copy() for name, value in instance.outputs.items()})
    instance.close()
    return found


@needs_gcc
@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=[pytest.mark.slow] if n else []) for n in range(len(KINDS_OF_SEED))],
)
def test_outputs_are_bit_equal_wherever_values_are_rounded(tmp_path, monkeypatch, target, seed):
    network = int8_network()
    kinds = KINDS_OF_SEED[seed]
    found = outputs_of(tmp_path / "folded", network, target, choosing_of(target, kinds, seed), 3)
    monkeypatch.setattr(lowering, "fold_rounding", apart)
    expected = outputs_of(tmp_path / "apart", network, target, choosing_of(target, kinds, seed))
    for of_image, expected_of_image in zip(found, expected, strict=True):
        for name, value in expected_of_image.items():
            assert np.array_equal(of_image[name], value), name


@emulated
@pytest.mark.slow
def test_outputs_on_arm_are_bit_equal_wherever_values_are_rounded(tmp_path, monkeypatch):
    spec, tensors, quantization = int8_network(127)
    found = []
    for name in ("folded", "apart"):
        (tmp_path / name).mkdir()
        values, _ = run_emulated(
            tmp_path / name, spec, tensors, choosing_of("cortex-a76", ("columns", "dots"), 5),
            target="cortex-a76", quantization=quantization,
        )  # fmt: skip
        found.append(values)
        monkeypatch.setattr(lowering, "fold_rounding", apart)
    for name, value in found[1].items():
        assert np.array_equal(found[0][name], value), name


def test_rounding_steps_remain_where_readers_differ_or_tensors_join():
    spec, tensors, quantization = int8_network()
    target = TARGETS["x86-avx2"]

    def choose(problem):
        kind = KINDS["dots" if problem.quantization else "columns"]
        legal = kind.candidates(LayerAnalysis(problem), target)
        return next(c for c in legal if not c.piece_bytes and getattr(c, "group", 4) == 4)

    plan = lower(spec, tensors, target, choose, quantization=quantization)
    rounding = [step.name for step in plan.steps if isinstance(step, QuantizeStep)]
    formats = {s.name: s.formats for s in plan.steps if isinstance(s, ConvolutionStep)}
    assert rounding == ["again", "routed"]
    assert formats == {
        "stem": ("i8x4",),
        "down0": ("real", "i8x4"), "thin0": ("i8x4",), "wide0": ("i8x4",),
        "down1": ("real", "i8x4"), "thin1": ("real", "i8x4"), "wide1": ("i8x4",),
        "down2": ("real", "i8x4"), "thin2": ("real", "i8x4"), "wide2": ("real",),
        "again": ("real",), "routed": ("real",),
    }  # fmt: skip


def test_a_kernel_that_keeps_sums_in_its_output_writes_floats_too():
    spec, tensors, quantization = int8_network()
    spec = NetworkSpec("two", spec.input, (
        Conv("first", ("input",), 1, 16, 1), Conv("a", ("first",), 16, 16, 3, 1, 1),
        Conv("b", ("a",), 16, 4, 1),
    ), ("b",), ())  # fmt: skip
    tensors = random_tensors(spec)
    quantization = {
        name: LayerQuantization(
            np.ones(tensors[f"{name}.weight"].shape, np.int8),
            np.ones(len(tensors[f"{name}.bias"]), np.float32),
            1.0,
            0,
        )
        for name in ("a", "b")
    }
    target = TARGETS["x86-avx2"]

    def choose(problem):
        kind = KINDS["dots" if problem.quantization else "columns"]
        choice = next(iter(kind.candidates(LayerAnalysis(problem), target)))
        return choice._replace(piece_bytes=600) if problem.layer.name == "a" else choice

    plan = lower(spec, tensors, target, choose, quantization=quantization)
    (cut,) = (step for step in plan.steps if isinstance(step, DotsStep) and step.name == "a")
    assert cut.formats == ("real", "i8x4")


@pytest.mark.parametrize("kept", [1, 2, 7, 40])
def test_pairs_of_words_fit_16_bits_and_lose_no_weight(kept):
    generator = np.random.default_rng(kept)
    weights = generator.integers(-64, 65, (21, kept, 4)).astype(np.int8)
    weights[generator.random(weights.shape) < 0.5] = 0
    weights[:, 0] = 64  # never has a partner
    panels = pack_panels(weights.view(np.int32)[:, :, 0], 8)
    paired = pair_words(panels, 128)
    assert (paired.starts % 2 == 0).all()
    words = paired.weights.view(np.int8).reshape(-1, 2, 8, 2, 2).astype(int)  # pair, word, filter
    for sign in (1, -1):
        assert np.maximum(sign * words, 0).sum(axis=(1, 4)).max() <= 128
    for panel in range(len(panels.starts) - 1):
        dense = [np.zeros((kept, 8), np.int64) for _ in range(2)]
        for total, of in zip(dense, (panels, paired), strict=True):
            part = slice(of.starts[panel], of.starts[panel + 1])
            np.add.at(total, of.columns[part], of.weights[part].astype(np.int64))
        assert np.array_equal(*dense)
