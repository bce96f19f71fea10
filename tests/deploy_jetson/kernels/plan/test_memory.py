"""Register tiles and the memory plan."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deploy_jetson.kernels.kinds.register_tiles import register_tiles, split_row
from deploy_jetson.kernels.plan.filters import filter_order
from deploy_jetson.kernels.plan.memory import BufferLifetime, plan_memory
from deploy_jetson.kernels.plan.tensors import Buffer
from deploy_jetson.kernels.targets import TARGETS


def test_filters_with_equal_supports_come_together_and_empty_ones_last():
    matrix = np.array([[0, 0], [1, 0], [0, 2], [3, 0], [0, 0], [0, 4]], np.float32)
    assert filter_order(matrix).tolist() == [1, 3, 2, 5, 0, 4]


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
        BufferLifetime(Buffer(str(i), blocks, size, size, 1, 16), min(a, b), max(a, b))
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


def test_memory_of_buffers_that_are_read_no_more_is_reused():
    lives = [BufferLifetime(Buffer(str(i), 1, 8, 8, 0, 16), i, i + 1) for i in range(10)]
    assert plan_memory(lives) == 2 * 8 * 8 * 16
