"""Where activations live: blocked buffers in one arena, and views of channels in them.

A buffer holds `blocks` planes of (height + 2 halo) x (width + 2 halo) pixels with `lanes` channels
side by side. A view says for every channel in which buffer and at which offset its pixel (0, 0)
lies; so a concatenation, a flattening or a permutation of filters moves no data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
ALIGNMENT = 64  # floats: buffers start four cache lines apart at least


@dataclass(eq=False)
class Buffer:
    """One tensor in the arena."""

    name: str  # of the layer that fills it
    blocks: int  # planes
    # height, width: without the halo
    height: int
    width: int
    halo: int  # zero pixels on every side
    lanes: int  # channels of a plane; 1 for the network's planar input
    offset: int = field(default=-1)  # first float in the arena; -1 until the memory plan is made

    @property
    def row(self) -> int:
        """Floats from a pixel to the one below."""
        return (self.width + 2 * self.halo) * self.lanes

    @property
    def block(self) -> int:
        """Floats of a plane."""
        return (self.height + 2 * self.halo) * self.row

    @property
    def inner(self) -> int:
        """Floats from the start of a plane to its pixel (0, 0)."""
        return self.halo * (self.row + self.lanes)

    @property
    def floats(self) -> int:
        """Floats of the whole buffer."""
        return self.blocks * self.block

    @property
    def base(self) -> int:
        """Arena offset of pixel (0, 0) of the first plane."""
        assert self.offset >= 0, "memory is not planned yet"
        return self.offset + self.inner


class ChannelView(NamedTuple):
    """Channels scattered over buffers of one geometry."""

    buffers: tuple[Buffer, ...]  # the buffers it refers to, each once
    buffer_of: Ints  # (C,) index into `buffers`
    offset_of: Ints  # (C,) float offset of the channel's pixel (0, 0) from its buffer's start
    # height, width: pixels
    height: int
    width: int
    # row, pixel: floats to the pixel below and to the right
    row: int
    pixel: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.buffer_of)

    def locations(self) -> Ints:
        """(C,) arena offsets of pixel (0, 0), once memory is planned."""
        starts = np.array([buffer.offset for buffer in self.buffers], dtype=np.int64)
        return starts[self.buffer_of] + self.offset_of


def view_of(buffer: Buffer, channels: int, order: Ints | None = None) -> ChannelView:
    """The view of a buffer whose physical channel p holds logical channel `order[p]`."""
    physical = np.arange(channels, dtype=np.int64)
    offsets = physical // buffer.lanes * buffer.block + buffer.inner + physical % buffer.lanes
    if order is not None:
        logical = np.empty_like(offsets)
        logical[order] = offsets
        offsets = logical
    return ChannelView(
        (buffer,), np.zeros(channels, np.int64), offsets, buffer.height, buffer.width, buffer.row,
        buffer.lanes,
    )  # fmt: skip


def is_natural(view: ChannelView, lanes: int) -> bool:
    """Whether the view is one whole blocked buffer with its channels in order."""
    if len(view.buffers) != 1 or view.buffers[0].lanes != lanes or view.pixel != lanes:
        return False
    buffer = view.buffers[0]
    plain = view_of(buffer, view.channels)
    return (
        buffer.blocks == -(-view.channels // lanes)
        and (view.height, view.width) == (buffer.height, buffer.width)
        and bool(np.array_equal(plain.offset_of, view.offset_of))
    )


def concatenate(views: Sequence[ChannelView]) -> ChannelView:
    """Channels of all views one after another; all have the same geometry."""
    buffers = list(dict.fromkeys(buffer for view in views for buffer in view.buffers))
    places = [
        np.array([buffers.index(buffer) for buffer in view.buffers], np.int64)[view.buffer_of]
        for view in views
    ]
    return ChannelView(
        tuple(buffers), np.concatenate(places), np.concatenate([v.offset_of for v in views]),
        *views[0][3:],
    )  # fmt: skip


def flatten(view: ChannelView) -> ChannelView:
    """(C, H, W) as H = W = 1 with C * H * W channels in C order."""
    inside = np.arange(view.height)[:, None] * view.row + np.arange(view.width) * view.pixel
    offsets = (view.offset_of[:, None] + inside.ravel()).ravel()
    buffer_of = np.repeat(view.buffer_of, view.height * view.width)
    return ChannelView(view.buffers, buffer_of, offsets, 1, 1, view.pixel, view.pixel)


class ChannelVectors(NamedTuple):
    """A view as whole vectors, in the order in which they lie in its buffers."""

    # buffer_of, offset_of: (n,) where each vector's pixel (0, 0) lies
    buffer_of: Ints
    offset_of: Ints
    # block_of, lane_of: (C,) vector and lane of every channel
    block_of: Ints
    lane_of: Ints


def vectors_of(view: ChannelView, lanes: int) -> ChannelVectors:
    """Group the channels of a blocked view into its vectors."""
    lane_of = view.offset_of % lanes
    start = view.offset_of - lane_of
    places = np.stack([view.buffer_of, start], axis=1)
    vectors, block_of = np.unique(places, axis=0, return_inverse=True)
    return ChannelVectors(vectors[:, 0], vectors[:, 1], block_of.reshape(-1), lane_of)


def arena_offsets(view: ChannelView, blocks: ChannelVectors) -> Ints:
    """(n,) arena offsets of the vectors, once memory is planned."""
    starts = np.array([buffer.offset for buffer in view.buffers], dtype=np.int64)
    return starts[blocks.buffer_of] + blocks.offset_of


def int32(values: Ints) -> npt.NDArray[np.int32]:
    """Offsets as the kernels read them."""
    assert not len(values) or abs(values).max() < 2**31, "the arena exceeds 8 GB"
    return values.astype(np.int32)


def round_up(floats: int) -> int:
    """Floats of a buffer with its padding to ALIGNMENT."""
    return -(-floats // ALIGNMENT) * ALIGNMENT
