"""Static analysis of hot loops."""

import shutil

from deploy_jetson.kernels.compile.mca import analyse, innermost_loops
from deploy_jetson.kernels.compile.targets import TARGETS

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
