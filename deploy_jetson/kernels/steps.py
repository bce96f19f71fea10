"""The steps of a plan: what each reads and writes, and its record in C."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from deploy_jetson.kernels.choices import ColumnsChoice, Problem, Weights, WinogradChoice
from deploy_jetson.kernels.packing import Blob, cut_panels, pack_panels, pad_filters
from deploy_jetson.kernels.targets import Target
from deploy_jetson.kernels.tensors import Blocks, Buffer, Ints, View, arena_offsets
from deploy_jetson.kernels.variants import (
    ColumnsVariant,
    Variant,
    WinogradVariant,
    register_tiles,
    split_row,
)  # fmt: skip
from deploy_jetson.kernels.winograd import transform_weights
from pneumonia.runtime.spec import LEAKY_SLOPE

SLOPES = {"linear": 1.0, "relu": 0.0, "leaky_relu": LEAKY_SLOPE}
NO_SKIP = -1
PIECE_BYTES = 20 * 1024  # of Winograd products: what stays in a first-level cache of 32 KiB


class Record(NamedTuple):
    """One entry of the C step table.

    Attributes:
        name: Shown by profiles.
        run: The step function.
        type: C type of the layer record.
        fields: Its designated initialisers, in order.
        units: Independent pieces of work.
        barrier: Whether later steps read what this one writes.
        chain: The levels of a chain of convolutions.
    """

    name: str
    run: str
    type: str
    fields: dict[str, object]
    units: int
    barrier: bool = True
    chain: "tuple[ChainLevel, ...]" = ()

    def initialiser(self, index: int = 0) -> str:
        """C initialiser of the record that is number `index` of the table."""
        fields = dict(self.fields)
        if self.chain:
            fields["levels"] = f"layer_{index}_levels"
        return "{" + ", ".join(f".{key} = {value}" for key, value in fields.items()) + "}"


class ChainLevel(NamedTuple):
    """One convolution of a chain: its records, and the fields of its `chain_level`."""

    parts: tuple[Record, ...]
    fields: dict[str, object]


class Step(Protocol):
    """One step of the plan."""

    @property
    def name(self) -> str:
        """Layer the step belongs to."""

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Buffers it reads."""

    @property
    def out(self) -> Buffer | None:
        """The buffer it fills."""

    def records(self, blob: Blob, target: Target) -> list[Record]:
        """Put its data into the weights and describe it for C."""


@runtime_checkable
class KernelStep(Step, Protocol):
    """A step that calls generated kernels."""

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its records call."""


def activation(name: str) -> str:
    """C initialiser of an activation."""
    slope = SLOPES[name]
    return f"{{{(1 + slope) / 2!r}f, {(1 - slope) / 2!r}f}}"


def blocked(buffer: Buffer) -> str:
    """C initialiser of a blocked tensor."""
    return (
        f"{{.base = {buffer.base}, .block = {buffer.block}, .row = {buffer.row}, "
        f".blocks = {buffer.blocks}, .height = {buffer.height}, .width = {buffer.width}, "
        f".halo = {buffer.halo}}}"
    )


def int32(values: Ints) -> "np.ndarray[tuple[int, ...], np.dtype[np.int32]]":
    """Offsets as the kernels read them."""
    assert not len(values) or abs(values).max() < 2**31, "the arena exceeds 8 GB"
    return values.astype(np.int32)


@dataclass(eq=False)
class ConvolutionStep:
    """What the convolution kernels share.

    Attributes:
        problem: Layer, weights and shapes.
        bias: (O,).
        view: Input channels.
        out: Output buffer.
        order: (O,) old index of each physical filter.
        skip: Tensor added after the activation, laid out like `out`.
        after: Activation after the sum.
    """

    problem: Problem
    bias: Weights
    view: View
    out: Buffer
    order: Ints
    skip: Buffer | None = None
    after: str = "linear"

    @property
    def name(self) -> str:
        """Layer name."""
        return self.problem.layer.name

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Input and skip."""
        return self.view.buffers + ((self.skip,) if self.skip else ())

    @property
    def weight(self) -> Weights:
        """(O, I, K, K) in physical order of the filters."""
        return self.problem.weight[self.order]

    def common(self) -> dict[str, object]:
        """Fields every convolution record begins with."""
        return {
            "out": blocked(self.out),
            "skip": self.skip.base if self.skip else NO_SKIP,
            "act": activation(self.problem.layer.activation),
            "act_after": activation(self.after),
        }


@dataclass(eq=False)
class ColumnsStep(ConvolutionStep):
    """Convolution by lists of kept columns."""

    choice: ColumnsChoice = field(default=ColumnsChoice(1, 1, 1))

    def records(self, blob: Blob, target: Target) -> list[Record]:
        """One record for the full panels and one for the remaining vectors of filters."""
        lanes, vectors = target.lanes, self.choice.vectors
        full = self.out.blocks // vectors * vectors
        parts = [(0, full, self.choice.pixels, vectors)] if full else []
        if self.out.blocks > full:
            rest = self.out.blocks - full
            parts.append((full, rest, tail_pixels(target, self.out.width, rest), rest))
        records = []
        for index, (first, blocks, pixels, nv) in enumerate(parts):
            last = index == len(parts) - 1
            records.append(self._record(blob, lanes, (first, blocks, pixels, nv), last))
        return records

    def _record(
        self, blob: Blob, lanes: int, part: tuple[int, int, int, int], barrier: bool
    ) -> Record:
        first, blocks, pixels, nv = part
        problem = self.problem
        matrix = self.weight.reshape(len(self.order), -1)[first * lanes : (first + blocks) * lanes]
        sources = self._sources()
        panels = pack_panels(matrix, nv * lanes, np.argsort(sources, kind="stable"))
        strip = strip_tiles(self.choice, self.out.width, pixels)
        span = min(strip * pixels, self.out.width) * problem.stride + problem.kernel - 1
        touched = problem.kernel * span * self.view.pixel * 4
        sizes = (touched, nv * lanes * 4 + 4)
        pieces = cut_panels(panels, sources, sizes, self.choice.piece_bytes)
        variant = self._variant(lanes, pixels, nv)
        rows = min(self.choice.rows_per_unit, self.out.height)
        n_panels = blocks // nv
        wide, narrow = split_row(self.out.width, pixels)
        bias = self.bias[self.order][first * lanes : (first + blocks) * lanes]
        fields = self.common()
        fields.update(
            x_row=self.view.row * problem.stride,
            skip_block=self.skip.block if self.skip else 0,
            skip_row=self.skip.row if self.skip else 0,
            weights=blob.add(panels.weights, weights=True),
            columns=blob.add(int32(self._offsets(panels.columns))),
            pieces=blob.add(pieces.first),
            starts=blob.add(pieces.starts),
            bias=blob.add(pad_filters(bias, nv * lanes)),
            first_block=first,
            panels=n_panels,
            rows_per_unit=rows,
            wide=wide,
            narrow=narrow,
            strip=strip,
        )
        units = n_panels * -(-self.out.height // rows)
        return Record(self.name, variant.name, "columns_layer", fields, units, barrier)

    def _sources(self) -> Ints:
        """(P,) the plane of the input each column reads, as a number."""
        places = self.view.locations()
        planes = places - self.view.offset_of % self.view.pixel
        return np.repeat(planes, self.problem.kernel**2)

    def _offsets(self, columns: Ints) -> Ints:
        """Arena offset of the input that output pixel (0, 0) multiplies with each column."""
        side, padding = self.problem.kernel, self.problem.padding
        channel, tap = columns // (side * side), columns % (side * side)
        down, right = tap // side - padding, tap % side - padding
        return self.view.locations()[channel] + down * self.view.row + right * self.view.pixel

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its records call."""
        vectors = self.choice.vectors
        rest = self.out.blocks % vectors
        found: list[Variant] = []
        if self.out.blocks >= vectors:
            found.append(self._variant(target.lanes, self.choice.pixels, vectors))
        if rest:
            pixels = tail_pixels(target, self.out.width, rest)
            found.append(self._variant(target.lanes, pixels, rest))
        return found

    def _variant(self, lanes: int, pixels: int, vectors: int) -> ColumnsVariant:
        planar = self.view.pixel == 1 != lanes
        _, narrow = split_row(self.out.width, pixels)
        return ColumnsVariant(pixels, vectors, self.problem.stride, planar, narrow > 0)


def strip_tiles(choice: ColumnsChoice, width: int, pixels: int) -> int:
    """Tiles of a strip, for tiles of `pixels`: strips of nearly equal width."""
    tiles = -(-width // pixels)
    if not choice.strip_pixels:
        return tiles
    strips = -(-width // max(choice.strip_pixels, pixels))
    return -(-tiles // min(strips, tiles))


def tail_pixels(target: Target, width: int, vectors: int) -> int:
    """The widest legal tile for the vectors of filters that full panels leave over."""
    return max(pixels for pixels, nv in register_tiles(target, width, vectors) if nv == vectors)


def winograd_piece(n_channels: int, choice: WinogradChoice, lanes: int) -> int:
    """Channels of a piece: its weights and inputs of one position fill the first-level cache."""
    most = PIECE_BYTES // (4 * (choice.vectors * lanes + choice.pixels))
    pieces = -(-n_channels // most)
    return max(1, -(-n_channels // max(1, pieces)))


@dataclass(eq=False)
class WinogradStep(ConvolutionStep):
    """3x3 convolution of stride 1 by tiles."""

    choice: WinogradChoice = field(default=WinogradChoice(2, 1, 1, 1))
    blocks: Blocks = field(default=None)  # type: ignore[assignment]

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its record calls."""
        return [WinogradVariant(self.choice.out_tile, self.choice.pixels, self.choice.vectors)]

    def grid(self) -> tuple[int, int]:
        """Tiles down and across."""
        m = self.choice.out_tile
        return -(-self.out.height // m), -(-self.out.width // m)

    def scratch_floats(self, lanes: int) -> int:
        """Floats of transformed inputs and products of one unit."""
        tiles, positions = self.choice.block_tiles, (self.choice.out_tile + 2) ** 2
        n_blocks = len(self.blocks.buffer_of)
        return positions * lanes * ((n_blocks * tiles | 1) + (self.choice.vectors * tiles | 1))

    def records(self, blob: Blob, target: Target) -> list[Record]:
        """One record."""
        lanes, choice = target.lanes, self.choice
        width = choice.vectors * lanes
        weight = self.weight
        live = np.flatnonzero((weight != 0).any(axis=(0, 2, 3)))
        transformed = transform_weights(pad_filters(weight[:, live], width), choice.out_tile)
        positions, n_filters, n = transformed.shape
        panels = n_filters // width
        packed = transformed.reshape(positions, panels, width, n).transpose(1, 0, 3, 2)
        columns = (
            self.blocks.block_of[live] * choice.block_tiles * lanes + self.blocks.lane_of[live]
        )
        tiles_y, tiles_x = self.grid()
        n_tile_blocks = -(-tiles_y * tiles_x // choice.block_tiles)
        wide, narrow = split_row(choice.block_tiles, choice.pixels)
        # Every group of panels transforms the inputs again: few groups, yet work for all threads.
        per_unit = panels if n_tile_blocks >= 4 else -(-panels // 4)
        fields = self.common()
        fields.update(
            inputs=blob.add(int32(arena_offsets(self.view, self.blocks))),
            weights=blob.add(np.ascontiguousarray(packed)),
            columns=blob.add(int32(columns)),
            bias=blob.add(pad_filters(self.bias[self.order], width)),
            in_blocks=len(self.blocks.buffer_of),
            in_height=self.view.height,
            in_width=self.view.width,
            in_row=self.view.row,
            padding=self.problem.padding,
            piece=winograd_piece(n, choice, lanes),
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
        return [Record(self.name, name, "winograd_layer", fields, units)]
