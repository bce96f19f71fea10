"""Kernels whose filters have lists of their own: single taps, and fully connected rows.

Spans: deploy_jetson.kernels.kinds.registry.
"""

import pytest

from deploy_jetson.kernels.kinds.registry import KINDS
from tests.deploy_jetson.kernels.networks import (
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
    run,
)

pytestmark = needs_gcc


@needs_target
@pytest.mark.parametrize("target", HERE[:1])
@pytest.mark.parametrize(("kernel", "shape"), [(3, (24, 18, 19, 26)), (1, (17, 35, 7, 11))])
def test_single_taps(tmp_path, target, kernel, shape):
    spec = one_layer(shape, kernel, skip=kernel == 1)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_some(tensors["tested.weight"], 0.2)
    choose = forced(target, KINDS["taps"], index=kernel, frames=kernel)
    made, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert any(record.run.startswith("taps") for record in made.sources.records)
    assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("target", HERE[:1])
@pytest.mark.parametrize("vectors", [1, 2])
def test_darb_rows(tmp_path, target, vectors):
    spec = fully_connected(37)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = darb(tensors["tested.weight"])
    choose = forced(target, KINDS["rows"], vectors=vectors)
    made, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert "run_rows" in {record.run for record in made.sources.records}
    assert_close(found, expected, 1e-4)
