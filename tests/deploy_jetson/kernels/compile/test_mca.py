"""Static analysis of hot loops."""

import shutil

import pytest

from deploy_jetson.kernels.compile.lower import lower
from deploy_jetson.kernels.compile.mca import (
    analyse,
    find_mca,
    has_model,
    hot_loops,
    innermost_loops,
)
from deploy_jetson.kernels.generate import model_chooser
from deploy_jetson.kernels.kinds.columns.choice import ColumnsVariant
from deploy_jetson.kernels.plan.steps import variants_of
from deploy_jetson.kernels.targets import SINGLE, TARGETS
from pneumonia.runtime.detection.detector import bundle_path
from pneumonia.runtime.storage.bundle import load_bundle

ASSEMBLY = """
	.text
outer_function:
.L2:
	mov	x0, 0
.L3:
	ldr	q0, [x1]
	fmla	v1.4s, v0.4s, v2.s[0]
	fmla	v3.4s, v0.4s, v2.s[1]
	str	q1, [sp, 16]
	bne	.L3
	add	x2, x2, 1
	fmla	v1.4s, v0.4s, v2.s[0]
	b.ne	.L2
	ret
cold:
.L9:
	ldr	q0, [x1]
	ldr	q0, [x1]
	ldr	q0, [x1]
	fmla	v1.4s, v0.4s, v2.s[0]
	cbnz	w3, .L9
"""


def test_static_analysis_finds_the_innermost_hot_loop_and_its_spills():
    loops = list(innermost_loops(ASSEMBLY))
    assert [(name, len(body)) for name, body in loops] == [("outer_function", 5)]
    found = list(analyse(ASSEMBLY, TARGETS["cortex-a57"]))
    assert [(loop.fused, loop.instructions, loop.spills) for loop in found] == [(2, 5, 1)]
    if shutil.which("llvm-mca"):
        assert 0.1 < found[0].per_cycle <= 1


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="needs gcc for aarch64")
@pytest.mark.parametrize("number", ["real", "i8x4"])
@pytest.mark.parametrize(
    "name",
    ["cortex-a57", *(pytest.param(name, marks=pytest.mark.slow) for name, target in TARGETS.items()
                     if target.model and name != "cortex-a57")],
)  # fmt: skip
def test_tiles_of_several_vectors_keep_the_pipes_of_arm_busy(name, number):
    target = TARGETS[name]
    program = find_mca()
    if not program or not has_model(program, target):
        pytest.skip("needs llvm-mca with a model of this core")
    if number == "i8x4" and not target.dots:
        pytest.skip(f"{name} has no dot product of int8 values")
    tiles = [(13, 2), (8, 3), (6, 4), (3, 6)]
    variants = [
        ColumnsVariant(pixels=pixels, vectors=vectors, stride=1, pixel=None, narrow=False,
                       number=number)
        for pixels, vectors in tiles
    ]  # fmt: skip
    loops = hot_loops(target, variants)
    assert len(loops) == len(tiles)
    for loop in loops:
        assert loop.spills == 0, loop
        assert loop.per_cycle >= 0.95 * target.fma_per_cycle, loop


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="needs gcc for aarch64")
@pytest.mark.parametrize(
    "name", [n for n, target in TARGETS.items() if target.model and target.number is SINGLE]
)
def test_every_hot_loop_of_the_shipped_model_keeps_the_pipes_busy(name):
    target = TARGETS[name]
    program = find_mca()
    if not program or not has_model(program, target):
        pytest.skip("needs llvm-mca with a model of this core")
    bundle = load_bundle(bundle_path())
    plan = lower(bundle.spec, bundle.weights(), target, model_chooser(target))
    for loop in hot_loops(target, variants_of(plan.steps, plan.target)):
        assert loop.spills == 0, loop
        assert loop.per_cycle >= 0.95 * target.fma_per_cycle, loop
