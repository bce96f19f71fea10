"""No step reads memory that no step of the same run has written.

Activations of earlier layers, of the run before, or nothing at all lie in the arena: here it is
filled with NaN, which every sum keeps.
"""

import pytest

from deploy_jetson.kernels import chain
from deploy_jetson.kernels.choices import (
    ColumnsChoice,
    PatternChoice,
    RowsChoice,
    TapsChoice,
    WinogradChoice,
)
from deploy_jetson.kernels.cost import candidates
from deploy_jetson.kernels.generate import generate_library
from deploy_jetson.kernels.lower import problems_of
from deploy_jetson.kernels.targets import TARGETS
from pneumonia.runtime.engines.kernels import KernelLibrary
from tests.deploy_jetson.kernels.networks import (
    every_op,
    keep_columns,
    keep_patterns,
    keep_some,
    one_layer,
    random_image,
    random_tensors,
    reference,
    residual_tower,
)
from tests.deploy_jetson.kernels.programs import (
    EACH_TARGET,
    HERE,
    Instance,
    assert_close,
    darb,
    forced,
    fully_connected,
    needs_gcc,
    needs_target,
)

pytestmark = needs_gcc


def run_poisoned(folder, spec, tensors, target, choose=None):
    made = generate_library(spec, tensors, TARGETS[target], folder / "lib.so", choose)
    instance = Instance(made.library, KernelLibrary(str(made.library)).output_shapes)
    image = random_image(spec)
    assert instance.run(image, threads=2) == ""
    instance.poison(made.plan.arena_floats)
    assert instance.run(image, threads=2) == ""
    instance.close()
    return instance.outputs, reference(spec, tensors, image)


LAYER = one_layer((17, 35, 7, 11), skip=True)
KINDS = {
    "columns": (LAYER, lambda weight: keep_columns(weight, 0.4, 16), ColumnsChoice),
    "winograd": (LAYER, lambda weight: weight, WinogradChoice),
    "patterns": (LAYER, lambda weight: keep_patterns(weight, 0.9), PatternChoice),
    "taps": (LAYER, lambda weight: keep_some(weight, 0.5), TapsChoice),
    "rows": (fully_connected(37), darb, RowsChoice),
}


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize("kind", KINDS)
def test_one_layer(tmp_path, target, kind):
    spec, keep, choice = KINDS[kind]
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep(tensors["tested.weight"])
    problem = problems_of(spec, tensors)["tested"]
    legal = [c for c in candidates(problem, TARGETS[target]) if type(c) is choice]
    for index in sorted({0, len(legal) // 2, len(legal) - 1}):
        folder = tmp_path / str(index)
        found, expected = run_poisoned(
            folder, spec, tensors, target, forced(target, choice, index=index)
        )
        assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("spec", [every_op(), residual_tower()], ids=["every op", "chains"])
def test_whole_networks(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(chain, "WORTH_BYTES", 0)
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith(".weight"):
            tensors[name] = keep_columns(tensors[name], 0.5, 8)
    found, expected = run_poisoned(tmp_path, spec, tensors, HERE[-1])
    assert_close(found, expected, 1e-4)
