"""The step of the Winograd kernel: its transformed weights in the order the C code reads them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.kinds.register_tiles import split_row
from deploy_jetson.kernels.kinds.winograd.choice import WinogradChoice, WinogradVariant
from deploy_jetson.kernels.kinds.winograd.matrices import transform_weights
from deploy_jetson.kernels.plan.filters import pad_filters
from deploy_jetson.kernels.plan.layer_problem import Weights
from deploy_jetson.kernels.plan.steps import ConvolutionStep, StepRecord, Variant
from deploy_jetson.kernels.plan.tensors import ChannelVectors, Ints, arena_offsets, int32
from deploy_jetson.kernels.plan.weight_store import WeightStore
from deploy_jetson.kernels.targets import Target

PIECE_BYTES = 20 * 1024  # what of the products stays in a first-level cache of 32 KiB


def winograd_piece(n_channels: int, choice: WinogradChoice, target: Target) -> int:
    """Channels of a piece: its weights and inputs of one position fill the first-level cache."""
    most = PIECE_BYTES // (choice.vectors * target.vector_bytes + 4 * choice.pixels)
    pieces = -(-n_channels // most)
    return max(1, -(-n_channels // max(1, pieces)))


@dataclass(eq=False)
class WinogradStep(ConvolutionStep):
    """3x3 convolution of stride 1 by tiles."""

    choice: WinogradChoice = field(default=WinogradChoice(2, 1, 1, 1))
    blocks: ChannelVectors = field(default=None)  # type: ignore[assignment]
    may_round = True

    @property
    def number(self) -> str:
        """Its arithmetic, see `TileVariant`."""
        return "real"

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its record calls."""
        choice = self.choice
        _, narrow = split_row(choice.block_tiles, choice.pixels)
        return [
            WinogradVariant(
                out_tile=choice.out_tile, pixels=choice.pixels, vectors=choice.vectors,
                narrow=narrow > 0, number=self.number, formats=self.formats,
            )
        ]  # fmt: skip

    def grid(self) -> tuple[int, int]:
        """Tiles down and across."""
        m = self.choice.out_tile
        return -(-self.out.height // m), -(-self.out.width // m)

    def scratch_floats(self, target: Target) -> int:
        """Floats of transformed inputs and products of one unit."""
        lanes = target.lanes
        tiles, positions = self.choice.block_tiles, (self.choice.out_tile + 2) ** 2
        n_blocks = len(self.blocks.buffer_of)
        return positions * lanes * ((n_blocks * tiles | 1) + (self.choice.vectors * tiles | 1))

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record."""
        lanes, choice = target.lanes, self.choice
        width = choice.vectors * lanes
        transformed, live, scales = self._transformed(width)
        positions, n_filters, n = transformed.shape
        panels = n_filters // width
        packed = transformed.reshape(positions, panels, width, n).transpose(1, 0, 3, 2)
        columns = live // lanes * choice.block_tiles * lanes + live % lanes
        tiles_y, tiles_x = self.grid()
        n_tile_blocks = -(-tiles_y * tiles_x // choice.block_tiles)
        wide, narrow = split_row(choice.block_tiles, choice.pixels)
        # Threads share blocks of tiles, or the panels of one block, whose inputs each transforms.
        per_unit = panels if n_tile_blocks > 1 else 1
        fields = self.common()
        fields.update(
            inputs=store.add(int32(arena_offsets(self.view, self.blocks))),
            weights=store.add(np.ascontiguousarray(packed)),
            scales=store.add(self._by_panel(scales, width)),
            columns=store.add(int32(np.append(columns, 0))),  # the loop loads one index ahead
            bias=store.add(pad_filters(self.bias[self.order], width)),
            in_blocks=len(self.blocks.buffer_of),
            in_height=self.view.height,
            in_width=self.view.width,
            in_row=self.view.row,
            padding=self.problem.padding,
            piece=winograd_piece(n, choice, target),
            n_columns=n,
            tiles_y=tiles_y,
            tiles_x=tiles_x,
            block_tiles=choice.block_tiles,
            n_tile_blocks=n_tile_blocks,
            panels=panels,
            panels_per_unit=per_unit,
            wide=wide,
            narrow=narrow,
        )
        units = n_tile_blocks * -(-panels // per_unit)
        name = self.variants(target)[0].name
        return [StepRecord(self.name, name, "winograd_layer", fields, units)]

    def _transformed(self, width: int) -> tuple[npt.NDArray[Any], Ints, Weights]:
        """Weights of every tile position, filters padded to a multiple of `width`.

        Returns:
            (positions, O, n) weights; (n,) the place of every input among the vectors' lanes; and
            (positions, O) what every sum is multiplied by, empty for none.
        """
        weight, m = self.weight, self.choice.out_tile
        live = np.flatnonzero((weight != 0).any(axis=(0, 2, 3)))
        lanes = self.out.lanes
        places = self.blocks.block_of[live] * lanes + self.blocks.lane_of[live]
        transformed = transform_weights(pad_filters(weight[:, live], width), m)
        return transformed.astype(np.float32), places, np.zeros((0, 0), np.float32)

    @staticmethod
    def _by_panel(scales: Weights, width: int) -> Weights:
        """(positions, O) as (panels, positions, width)."""
        if not scales.size:
            return scales
        panels = scales.reshape(len(scales), -1, width)
        return np.ascontiguousarray(panels.transpose(1, 0, 2))
