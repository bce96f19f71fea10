"""Several channels side by side in one 32-bit word."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.plan.tensors import Ints

WORD_BITS = 32


class ChannelWords(NamedTuple):
    """Which word holds a channel, and at which place in it.

    Neighbours of a vector share a word; a block of `lanes` words holds `group` vectors.

    Attributes:
        block_of, lane_of: (I,) vector and lane of every channel.
        lanes: Channels of a vector; words of a block.
        group: Channels in a word.
    """

    block_of: Ints
    lane_of: Ints
    lanes: int
    group: int

    @classmethod
    def natural(cls, channels: int, lanes: int, group: int) -> "ChannelWords":
        """Channels in order."""
        numbers = np.arange(channels, dtype=np.int64)
        return cls(numbers // lanes, numbers % lanes, lanes, group)

    @property
    def blocks(self) -> int:
        """Blocks of words."""
        return int(self.block_of.max()) // self.group + 1

    def pack(self, integers: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
        """(O, I, K, K) int8 weights as (O, words, K, K) int32; absent channels are 0."""
        bits = WORD_BITS // self.group
        word_of = (self.block_of * self.lanes + self.lane_of) // self.group
        place_of = self.lane_of % self.group
        n_filters, _, *kernel = integers.shape
        words = np.zeros((n_filters, self.blocks * self.lanes, *kernel), np.uint32)
        for place in range(self.group):
            here = place_of == place
            part = integers[:, here].astype(np.int64) & ((1 << bits) - 1)
            words[:, word_of[here]] |= (part << (bits * place)).astype(np.uint32)
        return words.view(np.int32)
