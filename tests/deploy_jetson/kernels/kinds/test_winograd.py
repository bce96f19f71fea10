"""The Winograd kernel: against NumPy, and its transforms."""

import numpy as np
import pytest

from deploy_jetson.kernels.compile.targets import TARGETS
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.registry import KINDS, candidates, kind_of
from deploy_jetson.kernels.kinds.winograd import step
from deploy_jetson.kernels.kinds.winograd.matrices import transform_weights, winograd_matrices
from deploy_jetson.kernels.plan.layer_problem import problems_of
from tests.deploy_jetson.kernels.networks import (
    one_layer,
    random_tensors,
)
from tests.deploy_jetson.kernels.programs import (
    EACH_TARGET,
    assert_close,
    forced,
    needs_gcc,
    needs_target,
    run,
)

pytestmark = needs_gcc

SHAPES = [(1, 1, 5, 3), (16, 16, 13, 13), (17, 35, 7, 11), (24, 18, 19, 26), (3, 70, 4, 31)]


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(("out_tile", "shape"), list(zip([2, 4, 6], SHAPES[1:4], strict=True)))
def test_winograd(tmp_path, target, out_tile, shape, monkeypatch):
    monkeypatch.setattr(step, "PIECE_BYTES", 1200 * out_tile)  # several pieces, and one
    spec = one_layer(shape, skip=out_tile == 4)
    tensors = random_tensors(spec)
    tensors["tested.weight"][:, 0] = 0  # a channel that is not read
    choose = forced(target, KINDS["winograd"], index=shape[0], out_tile=out_tile)
    _, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert_close(found, expected, 1e-4)


def exact(matrix):
    return np.array([[float(value) for value in row] for row in matrix])


@pytest.mark.parametrize("m", [2, 4, 6])
def test_winograd_is_the_correlation(m):
    matrices = winograd_matrices(m)
    tile, kernel = np.random.default_rng(m).standard_normal((2, m + 2, m + 2))
    kernel = kernel[:3, :3]
    u = transform_weights(kernel[None, None].astype(np.float32), m).reshape(m + 2, m + 2)
    a, b = exact(matrices.output), exact(matrices.input)
    found = a @ (u * (b @ tile @ b.T)) @ a.T
    expected = [[(tile[i : i + 3, j : j + 3] * kernel).sum() for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_winograd_f2_is_the_published_one_up_to_signs():
    matrices = winograd_matrices(2)
    published = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
    np.testing.assert_array_equal(np.abs(exact(matrices.input)), np.abs(published))
    np.testing.assert_array_equal(exact(matrices.output), [[1, 1, 1, 0], [0, 1, -1, 1]])


def test_winograd_is_for_float32_alone():
    spec = one_layer((16, 16, 13, 13))
    tensors = random_tensors(spec)
    kinds = {
        storage: {
            kind_of(choice).name
            for choice in candidates(
                LayerAnalysis(problems_of(spec, tensors, storage)["tested"]),
                TARGETS["cortex-a57"],
            )
        }
        for storage in ("fp32", "fp16", "int8")
    }
    assert "winograd" in kinds["fp32"]
    assert kinds["fp16"] == kinds["int8"] == kinds["fp32"] - {"winograd"}
