"""Every kind of kernel under the address and undefined-behaviour sanitizers."""

import pytest

from deploy_jetson.kernels.choices import (
    ColumnsChoice,
    PatternChoice,
    RowsChoice,
    TapsChoice,
    WinogradChoice,
)
from deploy_jetson.kernels.cost import cheapest
from deploy_jetson.kernels.targets import TARGETS
from tests.deploy_jetson.kernels.networks import (
    keep_columns,
    keep_patterns,
    keep_some,
    one_layer,
    random_tensors,
)
from tests.deploy_jetson.kernels.programs import (
    HERE,
    assert_close,
    darb,
    forced,
    fully_connected,
    needs_gcc,
    needs_target,
    run_program,
)

pytestmark = needs_gcc
LAYER = one_layer((17, 35, 7, 11), skip=True)
CASES = {
    "pieces": (LAYER, lambda weight: keep_columns(weight, 0.4, 16), ColumnsChoice),
    "winograd": (LAYER, lambda weight: weight, WinogradChoice),
    "patterns": (LAYER, lambda weight: keep_patterns(weight, 0.4), PatternChoice),
    "taps": (one_layer((24, 18, 19, 26)), lambda weight: keep_some(weight, 0.2), TapsChoice),
    "rows": (fully_connected(37), darb, RowsChoice),
}


@needs_target
@pytest.mark.parametrize("kind", CASES)
def test_nothing_is_touched_that_is_not_ours(tmp_path, kind):
    spec, keep, choice = CASES[kind]
    target = HERE[-1]
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep(tensors["tested.weight"])
    choose = forced(target, choice, index=3)
    if kind == "pieces":

        def choose(problem):
            if problem.layer.name == "tested":
                return ColumnsChoice(4, 2, 3, 1500, 6)
            return cheapest(problem, TARGETS[target])

    build = [
        "gcc", "-std=gnu11", "-O1", "-g", "-ffp-contract=fast", *TARGETS[target].flags,
        "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
    ]  # fmt: skip
    found, expected = run_program(
        tmp_path, (spec, tensors), target, build, choose=choose, threads="2"
    )
    assert_close(found, expected, 1e-4)
