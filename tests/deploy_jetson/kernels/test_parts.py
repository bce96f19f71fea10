"""The generator's parts against hand-made answers: transforms, packing, memory, search, loads."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_jetson.kernels.choices import ColumnsChoice, Problem, WinogradChoice
from deploy_jetson.kernels.cost import Facts, candidates, cheapest, predicted_cycles
from deploy_jetson.kernels.mca import analyse, innermost_loops
from deploy_jetson.kernels.memory import Lifetime, plan_memory
from deploy_jetson.kernels.packing import Blob, cut_panels, filter_order, pack_panels
from deploy_jetson.kernels.patterns import (
    count_loads,
    distinct_loads,
    kernel_patterns,
    pack_patterns,
    pattern_of_kernels,
    sections,
)
from deploy_jetson.kernels.search import search
from deploy_jetson.kernels.targets import TARGETS, cpu_features, find_target
from deploy_jetson.kernels.tensors import Buffer
from deploy_jetson.kernels.tuner import TuningCache, shortlist, signature, tune
from deploy_jetson.kernels.variants import register_tiles, split_row
from deploy_jetson.kernels.winograd import transform_weights, winograd_matrices
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.spec import Conv
from tests.deploy_jetson.kernels.networks import PATTERNS, keep_columns, keep_patterns


def problem(weight, height=13, width=13, stride=1):
    n_filters, n_inputs, kernel, _ = weight.shape
    layer = Conv("tested", ("before",), n_inputs, n_filters, kernel, stride, kernel // 2)
    return Problem(layer, weight, height * stride, width * stride, height, width, False)


def random_weight(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- Winograd ---------------------------------------------------------------------------------


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


# --- packing ----------------------------------------------------------------------------------


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


def test_filters_with_equal_supports_come_together_and_empty_ones_last():
    matrix = np.array([[0, 0], [1, 0], [0, 2], [3, 0], [0, 0], [0, 4]], np.float32)
    assert filter_order(matrix).tolist() == [1, 3, 2, 5, 0, 4]


def test_blob_aligns_and_stores_equal_arrays_once():
    blob = Blob()
    first = blob.add(np.arange(3, dtype=np.float32))
    second = blob.add(np.ones(20, np.float32))
    assert (first, second, blob.add(np.arange(3, dtype=np.float32))) == (0, 64, 0)
    assert len(blob.data()) == 192
    assert np.frombuffer(blob.data(), np.float32, 20, 64).tolist() == [1] * 20
    assert Blob().data()  # a symbol needs an address


# --- register tiles and memory ------------------------------------------------------------------


@given(st.sampled_from(sorted(TARGETS)), st.integers(1, 300), st.integers(1, 64))
def test_tiles_fit_the_registers_and_cover_the_row_exactly(target, width, blocks):
    tiles = list(register_tiles(TARGETS[target], width, blocks))
    assert tiles
    for pixels, vectors in tiles:
        assert pixels * vectors + min(pixels, vectors) + 1 <= TARGETS[target].registers
        wide, narrow = split_row(width, pixels)
        assert wide * pixels + narrow * (pixels - 1) == width
        assert wide >= 1
        assert narrow >= 0


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(0, 8), st.integers(0, 8)),
        min_size=1, max_size=14,
    )
)  # fmt: skip
def test_buffers_alive_together_do_not_overlap(buffers):
    lives = [
        Lifetime(Buffer(str(i), blocks, size, size, 1, 16), min(a, b), max(a, b))
        for i, (blocks, size, a, b) in enumerate(buffers)
    ]
    total = plan_memory(lives)
    for i, one in enumerate(lives):
        assert one.buffer.offset >= 0
        assert one.buffer.offset + one.buffer.floats <= total
        for two in lives[:i]:
            apart = (
                one.buffer.offset + one.buffer.floats <= two.buffer.offset
                or two.buffer.offset + two.buffer.floats <= one.buffer.offset
            )
            assert apart or one.first > two.last or two.first > one.last


def test_memory_of_the_dead_is_used_again():
    lives = [Lifetime(Buffer(str(i), 1, 8, 8, 0, 16), i, i + 1) for i in range(10)]
    assert plan_memory(lives) == 2 * 8 * 8 * 16


# --- free patterns ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taps", "rows", "loads"),
    [
        # methods.md 3.7: a 2 x 2 block, and the cross-like {01, 10, 11, 12}
        ((0, 1, 3, 4), 2, 6),
        ((0, 1, 3, 4), 4, 10),
        ((1, 3, 4, 5), 2, 7),
        ((1, 3, 4, 5), 4, 13),
        ((1, 3, 4, 5), 1, 4),
    ],
)
def test_loads_of_one_pattern(taps, rows, loads):
    assert distinct_loads(taps, rows) == loads


def test_loads_fall_with_rows_and_with_filters_that_share():
    weight = np.zeros((2, 3, 3, 3), np.float32)
    block = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]], np.float32)
    weight[:, 0] = block  # both filters
    weight[0, 2] = block  # one alone
    layer = problem(weight)
    assert count_loads(layer, 1, 1) == (12, 12)
    assert count_loads(layer, 4, 1) == (48, 30)
    assert count_loads(layer, 4, 2) == (48, 20)
    with pytest.raises(ValueError, match="no patterns"):
        count_loads(problem(random_weight(2, 3, 3, 3)), 1, 1)


def test_patterns_are_found_and_a_zero_weight_keeps_its_pattern():
    weight = keep_patterns(random_weight(16, 12, 3, 3), 0.6)
    weight[0, np.flatnonzero(weight[0].any(axis=(1, 2)))[0]].ravel()[4] = 0
    patterns = kernel_patterns(weight)
    assert set(patterns) <= set(PATTERNS)
    number = pattern_of_kernels(weight, patterns)
    for index in np.ndindex(*number.shape):
        inside = np.zeros(9, bool)
        if number[index] >= 0:
            inside[list(patterns[number[index]])] = True
        assert not (weight[index].ravel() != 0)[~inside].any()
    assert kernel_patterns(random_weight(4, 4, 3, 3)) is None
    assert kernel_patterns(np.zeros((2, 2, 3, 3), np.float32)) is None


@pytest.mark.parametrize("filters", [1, 2])
@pytest.mark.parametrize("channels", [1, 5, 64])
def test_packed_patterns_give_the_weights_back(filters, channels):
    weight = keep_patterns(random_weight(16, 11, 3, 3), 0.5)
    if filters == 2:
        weight[1] = weight[0] * 2  # something to share
    patterns = kernel_patterns(weight)
    lists = pack_patterns(weight, patterns, 8, channels, filters)
    back = np.zeros_like(weight).reshape(16, 11, 9)
    count = iter(lists.counts.tolist())
    kernel = values = 0
    shared = 0
    for first in range(0, 16, 8):
        assert lists.starts[first // 8].tolist()[1:] == [kernel, values]
        for low in range(0, 11, channels):
            for f in range(first, first + 8, filters):
                for members in sections(filters):
                    for taps in patterns:
                        for _ in range(next(count)):
                            channel = lists.channels[kernel]
                            assert low <= channel < low + channels
                            for member in members:
                                span = slice(values, values + len(taps))
                                back[f + member, channel, list(taps)] = lists.weights[span]
                                values += len(taps)
                            shared += len(members) == 2
                            kernel += 1
    np.testing.assert_array_equal(back.reshape(weight.shape), weight)
    assert (shared > 0) == (filters == 2)


# --- cost model, search, tuner -------------------------------------------------------------------


def test_cost_model_prefers_winograd_for_dense_and_columns_for_sparse():
    target = TARGETS["x86-avx512"]
    weight = random_weight(256, 128, 3, 3)
    assert isinstance(cheapest(problem(weight, 52, 52), target), WinogradChoice)
    sparse = keep_columns(weight, 0.1, 0)
    assert isinstance(cheapest(problem(sparse, 52, 52), target), ColumnsChoice)


def test_predicted_time_falls_with_the_kept_columns():
    target = TARGETS["cortex-a57"]
    weight = random_weight(64, 64, 3, 3)
    choice = ColumnsChoice(7, 3, 13)
    cycles = [
        predicted_cycles(Facts(problem(keep_columns(weight, density, 0))), choice, target)
        for density in (1, 0.5, 0.1)
    ]
    assert cycles[0] > 1.8 * cycles[1] > 5 * cycles[2]


def test_search_of_a_small_space_is_exhaustive():
    space = [ColumnsChoice(p, 1, 1) for p in range(1, 9)]
    found, seconds = search(space, [0.0] * 8, lambda some: [abs(c.pixels - 6) for c in some])
    assert (found, seconds) == (space[5], 0)


def test_genetic_search_finds_what_the_model_ranks_badly_and_measures_little():
    space = [ColumnsChoice(p, v, r) for p in range(1, 13) for v in range(1, 7) for r in (1, 4, 9)]
    measured = []

    def seconds(some):
        measured.extend(some)
        return [(c.pixels - 7) ** 2 + 3 * (c.vectors - 3) ** 2 + c.rows_per_unit for c in some]

    model = [abs(c.pixels - 10) + abs(c.vectors - 4) for c in space]
    found, best = search(space, model, seconds)
    assert best <= 4
    assert found in space
    assert len(measured) == len(set(measured)) < len(space) / 2
    assert search(space, model, seconds) == (found, best)  # the same seed, the same way


def test_shortlist_holds_every_kind():
    weight = keep_patterns(random_weight(32, 32, 3, 3), 0.5)
    target = TARGETS["x86-avx2"]
    chosen = shortlist(problem(weight, 26, 26), target)
    kinds = {(type(c), getattr(c, "out_tile", 0)) for c in chosen}
    assert kinds == {
        (type(c), getattr(c, "out_tile", 0))
        for c in candidates(problem(weight, 26, 26), target)
    }  # fmt: skip
    assert len(chosen) == len(set(chosen))


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
@pytest.mark.skipif("avx2" not in cpu_features(), reason="needs AVX2")
def test_tuner_measures_once_and_remembers(tmp_path, monkeypatch):
    from deploy_jetson.kernels import tuner

    monkeypatch.setattr(tuner, "SHORTLIST", 4)
    monkeypatch.setattr(tuner, "PER_KIND", 1)
    target = TARGETS["x86-avx2"]
    problems = {
        "a": problem(keep_columns(random_weight(20, 16, 3, 3), 0.3, 0)),
        "b": problem(keep_columns(random_weight(20, 16, 3, 3, seed=1), 0.3, 0)),
        "c": problem(random_weight(9, 5, 1, 1)),
    }
    cache = tmp_path / "cache.json"
    steps = []
    chosen = tune(problems, target, cache, lambda *step: steps.append(step))
    assert set(chosen) == {"a", "b", "c"}
    keys = {name: signature(p, target) for name, p in problems.items()}
    assert len(steps) == len(set(keys.values()))
    steps.clear()
    assert tune(problems, target, cache, lambda *step: steps.append(step)) == chosen
    assert steps == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other"}', '{"choices": 3}'])
def test_damaged_tuning_cache_counts_as_empty(tmp_path, text):
    path = tmp_path / "cache.json"
    path.write_text(text)
    assert TuningCache(path).get("key", [ColumnsChoice(1, 1, 1)]) is None


def test_cached_choice_that_is_not_legal_any_more_is_dropped(tmp_path):
    cache = TuningCache(tmp_path / "cache.json")
    cache.put("key", ColumnsChoice(3, 2, 1))
    assert cache.get("key", [ColumnsChoice(3, 2, 1)]) == ColumnsChoice(3, 2, 1)
    assert cache.get("key", [ColumnsChoice(4, 2, 1)]) is None


# --- targets and static analysis -----------------------------------------------------------------


def test_unknown_target_names_the_known_ones():
    with pytest.raises(ConfigError, match="x86-avx512, x86-avx2, cortex-a57"):
        find_target("sparc")


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
