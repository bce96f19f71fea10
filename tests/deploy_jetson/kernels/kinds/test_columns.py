"""The column kernel: against NumPy, in pieces, in chains, and its lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.columns import chain
from deploy_jetson.kernels.kinds.columns.choice import ColumnsChoice
from deploy_jetson.kernels.kinds.columns.packing import cut_panels, pack_panels
from deploy_jetson.kernels.kinds.registry import KINDS, cheapest, predicted_cycles
from deploy_jetson.kernels.targets import TARGETS
from tests.deploy_jetson.kernels.networks import (
    keep_columns,
    layer_problem,
    one_layer,
    random_tensors,
    random_weight,
    residual_tower,
)
from tests.deploy_jetson.kernels.programs import (
    EACH_TARGET,
    assert_close,
    emulated,
    forced,
    needs_gcc,
    needs_target,
    run,
    run_emulated,
)

pytestmark = needs_gcc

SHAPES = [(1, 1, 5, 3), (16, 16, 13, 13), (17, 35, 7, 11), (24, 18, 19, 26), (3, 70, 4, 31)]


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(
    ("kernel", "stride", "group", "density"),
    [(1, 1, 0, 1), (1, 2, 8, 0.3), (3, 1, 16, 0.2), (3, 2, 0, 0.1), (5, 1, 4, 0.5), (7, 2, 0, 1)],
)
def test_columns(tmp_path, target, kernel, stride, group, density):
    shape = SHAPES[(kernel + stride) % len(SHAPES)]
    spec = one_layer(shape, kernel, stride, skip=True)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_columns(tensors["tested.weight"], density, group)
    choose = forced(target, KINDS["columns"], index=kernel * 3 + stride)
    _, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(
    "piece_bytes", [3000, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 20_000))]
)
@pytest.mark.parametrize(("kernel", "stride", "strip"), [(3, 1, 8), (3, 2, 0), (1, 1, 12)])
def test_columns_in_pieces(tmp_path, target, piece_bytes, kernel, stride, strip):
    spec = one_layer((24, 50, 19, 26), kernel, stride, skip=True)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_columns(tensors["tested.weight"], 0.4, 16)
    tensors["tested.weight"][32:48] = 0  # a panel without weights has one empty piece

    def choose(problem):
        if problem.layer.name == "tested":
            return ColumnsChoice(5, 2, 7, piece_bytes, strip)
        return cheapest(problem, TARGETS[target])

    made, found, expected = run(tmp_path, spec, tensors, target, choose, threads=2)
    assert "columns_5x2" in "".join(record.run for record in made.sources.records)
    assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(("scratch", "threads"), [(8_000, 1), (60_000, 2)])
def test_chains_of_bands(tmp_path, target, threads, scratch, monkeypatch):
    monkeypatch.setattr(chain, "WORTH_BYTES", 0)
    monkeypatch.setattr(chain, "SCRATCH_BYTES", scratch)  # bands of one row, and of many
    spec = residual_tower()
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith(".weight"):
            tensors[name] = keep_columns(tensors[name], 0.5, 8)

    def choose(problem):
        return next(KINDS["columns"].candidates(LayerAnalysis(problem), TARGETS[target]))

    made, found, expected = run(tmp_path, spec, tensors, target, choose, threads)
    records = made.sources.records
    lengths = [len(r.fields["levels"].items) for r in records if r.run == "run_chain"]
    assert lengths
    assert scratch < 60_000 or max(lengths) == 3
    assert_close(found, expected, 1e-4)


@emulated
@pytest.mark.slow
def test_a57_chains(tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "WORTH_BYTES", 0)
    spec = residual_tower()
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith(".weight"):
            tensors[name] = keep_columns(tensors[name], 0.3, 0)
    found, expected = run_emulated(tmp_path, spec, tensors)
    assert_close(found, expected, 1e-4)


def test_panels_keep_the_union_of_columns():
    matrix = np.array([[1, 0, 2, 0], [0, 0, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 7, 0, 0]])
    panels = pack_panels(matrix.astype(np.float32), 2)
    assert panels.starts.tolist() == [0, 2, 2, 3]
    assert panels.columns.tolist() == [0, 2, 1]
    assert panels.weights.tolist() == [[1, 0], [2, 3], [7, 0]]


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 5), st.floats(0, 1), st.integers())
def test_panels_give_the_matrix_back(rows, columns, width, density, seed):
    generator = np.random.default_rng(abs(seed))
    matrix = generator.standard_normal((rows, columns)).astype(np.float32)
    matrix[generator.random(matrix.shape) > density] = 0
    panels = pack_panels(matrix, width)
    back = np.zeros((-(-rows // width) * width, columns), np.float32)
    for p in range(len(panels.starts) - 1):
        span = slice(panels.starts[p], panels.starts[p + 1])
        back[p * width : (p + 1) * width, panels.columns[span]] = panels.weights[span].T
    np.testing.assert_array_equal(back[:rows], matrix)
    assert not back[rows:].any()


def test_pieces_of_a_hand_made_list():
    matrix = np.array([[1, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]], np.float32)
    panels = pack_panels(matrix, 1)
    source_of = np.array([7, 7, 8, 8, 9, 9])
    # A source costs 10, a column 1: {0, 1 of 7} = 12, {2 of 8} = 11, {4, 5 of 9} = 12.
    pieces = cut_panels(panels, source_of, (10, 1), 23)
    assert pieces.first.tolist() == [0, 2, 3, 4]
    assert pieces.starts.tolist() == [0, 3, 5, 5, 6]
    whole = cut_panels(panels, source_of, (10, 1), 0)
    assert whole.first.tolist() == [0, 1, 2, 3]
    assert whole.starts.tolist() == [0, 5, 5, 6]


@given(
    st.integers(1, 40), st.integers(1, 6), st.integers(0, 300), st.floats(0, 1), st.integers(0, 99)
)
def test_pieces_hold_their_budget_and_nothing_is_lost(columns, rows, budget, density, seed):
    generator = np.random.default_rng(seed)
    panels = pack_panels((generator.random((rows, columns)) < density).astype(np.float32), 2)
    source_of = np.arange(columns) // 3
    pieces = cut_panels(panels, source_of, (16, 5), budget)
    assert len(pieces.first) == len(panels.starts)
    assert pieces.starts[pieces.first].tolist() == panels.starts.tolist()
    for low, high in zip(pieces.starts[:-1], pieces.starts[1:], strict=True):
        sources = len(set(source_of[panels.columns[low:high]].tolist()))
        cost = sources * 16 + (high - low) * 5
        assert budget == 0 or cost <= budget or high - low == 1


def test_predicted_time_falls_with_the_kept_columns():
    target = TARGETS["cortex-a57"]
    weight = random_weight(64, 64, 3, 3)
    choice = ColumnsChoice(7, 3, 13)
    layers = [layer_problem(keep_columns(weight, density, 0)) for density in (1, 0.5, 0.1)]
    cycles = [predicted_cycles(LayerAnalysis(layer), choice, target) for layer in layers]
    assert cycles[0] > 1.8 * cycles[1] > 5 * cycles[2]
