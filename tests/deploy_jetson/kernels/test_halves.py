"""Targets with float16 arithmetic: same kernels, errors of half precision, on request only.

Spans: deploy_jetson.kernels.targets, deploy_jetson.kernels.kinds, deploy_jetson.kernels.generate.
"""

import numpy as np
import pytest

from deploy_jetson.kernels.bundle import add_kernels
from deploy_jetson.kernels.compile.lower import lower
from deploy_jetson.kernels.compile.source import write_plan
from deploy_jetson.kernels.generate import model_chooser
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.registry import KINDS
from deploy_jetson.kernels.plan.layer_problem import problems_of
from deploy_jetson.kernels.targets import HALF, SINGLE, TARGETS, native_targets
from pneumonia.runtime.engines.processor import Processor, precision_of
from pneumonia.runtime.errors import ArtefactError
from tests.deploy_jetson.kernels.networks import one_layer, random_tensors
from tests.deploy_jetson.kernels.programs import assert_close, emulated, network_limit, run_emulated
from tests.runtime.bundles import varied_detector, write_bundle

HALVES = [name for name, target in TARGETS.items() if target.number is HALF]


def test_every_core_with_float16_arithmetic_has_such_a_target():
    assert HALVES == [
        "cortex-a76-fp16", "cortex-a78ae-fp16", "neoverse-n1-fp16", "neoverse-v1-fp16",
    ]  # fmt: skip
    for name in HALVES:
        half, single = TARGETS[name], TARGETS[name.removesuffix("-fp16")]
        assert (half.lanes, half.vector_bytes) == (2 * single.lanes, single.vector_bytes)
        assert half.flags == single.flags
        assert half.core == single.core
        assert half.dots == ()


@pytest.mark.parametrize("name", HALVES)
def test_halves_are_never_chosen_for_a_machine(name):
    target = TARGETS[name]
    processor = Processor("aarch64", frozenset(target.cpu_features), frozenset(target.cpu_parts))
    assert [found.number for found in native_targets(processor)] == [SINGLE]
    assert precision_of(name) == "fp16"  # the limit that a board's self-test allows


@emulated
@pytest.mark.parametrize("storage", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_network_in_halves_agrees_with_float32(tmp_path, storage):
    spec, tensors = varied_detector()
    found, expected = run_emulated(
        tmp_path, spec, tensors, storage=storage, target="cortex-a76-fp16", threads="2"
    )
    assert_close(found, expected, network_limit("cortex-a76-fp16") if storage == "fp32" else 0.03)


def test_weights_are_stored_as_the_halves_they_are():
    spec, tensors = varied_detector()
    sizes = {}
    for name in ("cortex-a76", "cortex-a76-fp16"):
        target = TARGETS[name]
        plan = lower(spec, tensors, target, model_chooser(target), "fp16")
        sizes[name] = write_plan(plan, "").image_bytes
    half = lower(spec, tensors, target, model_chooser(target), "fp32")
    assert "STORED" not in write_plan(half, "").texts["network.c"]
    assert write_plan(half, "").weights == write_plan(plan, "").weights
    assert sizes["cortex-a76-fp16"] < 0.75 * sizes["cortex-a76"]


def test_weights_beyond_half_precision_name_their_layer(tmp_path):
    spec, tensors = varied_detector()
    weight = tensors["c4.weight"]
    weight[tuple(np.argwhere(weight)[0])] = 70000
    bundle = write_bundle(tmp_path / "bundle", spec, tensors)
    with pytest.raises(ArtefactError, match=r"at most 65504; found 70000 .*'c4'.*without float16"):
        add_kernels(bundle, "cortex-a76-fp16")


def test_winograd_in_halves_uses_the_small_tiles_only():
    spec = one_layer((32, 32, 24, 24))
    problem = problems_of(spec, random_tensors(spec))["tested"]
    tiles = {
        name: {c.out_tile for c in KINDS["winograd"].candidates(LayerAnalysis(problem), target)}
        for name, target in TARGETS.items()
    }
    assert tiles["cortex-a76"] == {2, 4, 6}
    assert tiles["cortex-a76-fp16"] == {2}
