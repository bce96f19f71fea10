"""The pattern kernel: against NumPy, its lists, and the loads it saves."""

import numpy as np
import pytest

from deploy_jetson.kernels.kinds.patterns.packing import (
    count_loads,
    distinct_loads,
    kernel_patterns,
    pack_patterns,
    pattern_of_kernels,
    sections,
)
from deploy_jetson.kernels.kinds.patterns.step import plane_floats
from deploy_jetson.kernels.kinds.registry import KINDS
from tests.deploy_jetson.kernels.networks import (
    PATTERNS,
    keep_patterns,
    layer_problem,
    one_layer,
    random_tensors,
    random_weight,
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
@pytest.mark.parametrize("shape", [*SHAPES[2:], (9, 12, 6, 64)])
def test_free_patterns(tmp_path, target, shape):
    legal_frames = 1 if shape[0] % 3 == 0 else 3
    filters = 2 if shape[2] > 7 and shape[0] % 2 else 1
    spec = one_layer(shape, skip=filters == 2)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_patterns(tensors["tested.weight"], 0.4)
    tensors["tested.weight"][shape[1] // 2] = 0  # an empty filter
    choose = forced(target, KINDS["pattern"], index=shape[0], filters=filters, frames=legal_frames)
    made, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert_close(found, expected, 1e-4)
    assert any("pattern" in record.run for record in made.sources.records)


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(
    "patterns",
    [
        pytest.param(((0,), (1,), (2, 5), (3, 6, 7, 8), (4,)), id="of any length"),
        pytest.param(((2,), (5,)), id="two single taps", marks=pytest.mark.slow),
        pytest.param(tuple((t,) for t in range(9)), id="every tap", marks=pytest.mark.slow),
    ],
)
def test_patterns_of_any_length(tmp_path, target, patterns):
    """Few columns of a group look like patterns, of one tap each some of them."""
    spec = one_layer((17, 35, 7, 11))
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_patterns(tensors["tested.weight"], 0.5, patterns=patterns)
    for number in range(3):
        choose = forced(target, KINDS["pattern"], index=number * 4)
        folder = tmp_path / str(number)
        _, found, expected = run(folder, spec, tensors, target, choose)
        assert_close(found, expected, 1e-4)


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
    layer = layer_problem(weight)
    assert count_loads(layer, 1, 1) == (12, 12)
    assert count_loads(layer, 4, 1) == (48, 30)
    assert count_loads(layer, 4, 2) == (48, 20)
    with pytest.raises(ValueError, match="no patterns"):
        count_loads(layer_problem(random_weight(2, 3, 3, 3)), 1, 1)


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


@pytest.mark.parametrize("side", range(1, 60, 7))
@pytest.mark.parametrize("pitch", [4, 16, 32, 64, 416])
def test_planes_are_an_odd_number_of_cache_lines(side, pitch):
    floats = plane_floats(layer_problem(random_weight(1, 1, 3, 3), side, side), pitch)
    assert floats % 32 == 16
    assert 0 <= floats - (side + 2) * pitch < 32
