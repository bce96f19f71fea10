"""The Winograd kernel: against NumPy, and its transforms."""

import numpy as np
import pytest

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.registry import KINDS, candidates, kind_of
from deploy_jetson.kernels.kinds.winograd import step
from deploy_jetson.kernels.kinds.winograd.matrices import transform_weights, winograd_matrices
from deploy_jetson.kernels.plan.layer_problem import problems_of
from deploy_jetson.kernels.targets import TARGETS
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from tests.deploy_jetson.kernels.networks import (
    one_layer,
    random_image,
    random_tensors,
    reference,
)
from tests.deploy_jetson.kernels.programs import (
    EACH_TARGET,
    assert_close,
    forced,
    generated,
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


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
def test_panels_of_one_block_transform_its_inputs_once_per_thread_and_run(tmp_path, target):
    spec = one_layer((16, 64, 13, 13))
    tensors = random_tensors(spec)
    choose = forced(target, KINDS["winograd"], out_tile=4, vectors=1, block_tiles=16)
    path = str(generated(tmp_path, spec, tensors, target, choose).library)
    engines = [KernelLibrary(path, threads=threads) for threads in (1, 3)]
    image = random_image(spec)
    for scale in (1, -2, 1):  # what an earlier run left must not be read
        expected = reference(spec, tensors, np.float32(scale) * image)
        found = [engine.run(np.float32(scale) * image) for engine in engines]
        assert_close(found[0], expected, 1e-4)
        for name in expected:
            assert np.array_equal(found[0][name], found[1][name])
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("target", ["x86-avx512", "x86-avx2", "cortex-a57"])
@pytest.mark.parametrize("shape", [(8, 8, 208, 208), (24, 40, 52, 52), (88, 168, 13, 13)])
def test_two_threads_have_about_the_same_work(shape, target):
    spec = one_layer(shape)
    problem = problems_of(spec, random_tensors(spec))["tested"]
    legal = list(KINDS["winograd"].candidates(LayerAnalysis(problem), TARGETS[target]))
    assert len({choice.out_tile for choice in legal}) == 3
    for choice in {(c.out_tile, c.block_tiles, c.vectors): c for c in legal}.values():
        down, across = (-(-side // choice.out_tile) for side in shape[2:])
        blocks = np.diff([*range(0, down * across, choice.block_tiles), down * across])
        panels = -(-shape[1] // (choice.vectors * TARGETS[target].lanes))
        units = blocks if len(blocks) > 1 else np.full(panels, blocks[0])
        busy = [0, 0]
        for unit in units:
            busy[int(busy[1] < busy[0])] += unit
        assert max(busy) <= 0.57 * sum(busy), choice
        assert len(units) >= 4, choice


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
