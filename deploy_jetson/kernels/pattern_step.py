"""Steps of layers whose filters have lists of their own: planes, then patterns or taps; rows."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.choices import PatternChoice, Problem, TapsChoice, Weights
from deploy_jetson.kernels.packing import Blob, pad_filters
from deploy_jetson.kernels.patterns import Pattern, kernel_patterns, pack_patterns, single_taps
from deploy_jetson.kernels.steps import ConvolutionStep, Record, int32
from deploy_jetson.kernels.targets import Target
from deploy_jetson.kernels.tensors import Blocks, Buffer, Ints, View, arena_offsets
from deploy_jetson.kernels.variants import PatternVariant, Variant, split_row

# Floats of inputs one tile position touches in a block of channels, the likeliest first. Short runs
# of kernels cost a mispredicted branch each, inputs beyond the first-level cache cost more loads.
CACHE_FLOATS = {4: (7 * 1024,), 8: (8 * 1024, 4 * 1024, 48 * 1024), 16: (96 * 1024, 12 * 1024)}
SUM_FLOATS = 24 * 1024  # of the filters of one unit of work
MAX_BLOCK_FILTERS = 64
WEIGHT_REGISTERS = 4  # of one kernel
SPARE_REGISTERS = 2  # an input vector, a temporary
MIN_SUMS = 6  # fewer leave the multiply-adds waiting for each other
MAX_FRAMES = 3


def pattern_tiles(problem: Problem, target: Target) -> Iterator[PatternChoice]:
    """Legal register tiles of a layer with free patterns; none for other layers."""
    if (
        not problem.stride_one_3x3
        or problem.padding != 1
        or kernel_patterns(problem.weight) is None
    ):
        return
    for frames in frame_counts(target, problem.kernel):
        for filters in (1, 2):
            weights = WEIGHT_REGISTERS * filters
            for rows, vectors in _tiles(problem, target, frames * filters, weights):
                yield PatternChoice(rows, vectors, filters, frames)
                for floats in CACHE_FLOATS[target.lanes][1:]:
                    yield PatternChoice(rows, vectors, filters, frames, floats)


def taps_tiles(problem: Problem, target: Target) -> Iterator[TapsChoice]:
    """Legal register tiles for lists of single taps: 3x3 and 1x1 maps of stride 1."""
    fits = problem.kernel in (1, 3) and problem.stride == 1 and not problem.planar
    if not fits or problem.padding != problem.kernel // 2 or problem.out_width == 1:
        return
    for frames in frame_counts(target, problem.kernel):
        for rows, vectors in _tiles(problem, target, frames, 1):
            yield TapsChoice(rows, vectors, frames)


def frame_counts(target: Target, side: int) -> tuple[int, ...]:
    """Frames worth trying: wide vectors gain from aligned loads, four lanes do not."""
    return (1,) if side == 1 or target.lanes <= 4 else (1, MAX_FRAMES)


def _tiles(problem: Problem, target: Target, sets: int, weights: int) -> Iterator[tuple[int, int]]:
    """(rows, vectors) of tiles with `sets` sums for every pixel, bands of equal height."""
    across = -(-problem.out_width // target.lanes)
    spare = SPARE_REGISTERS + (2 if target.lanes <= 4 and sets > 1 else 0)
    room = (target.registers - weights - spare) // sets
    found = set()
    for split in range(1, across + 1):
        vectors = -(-across // split)
        tallest = min(problem.out_height, room // vectors)
        for limit in range(tallest, max(0, tallest - 3), -1):
            rows = -(-problem.out_height // -(-problem.out_height // limit))
            low = rows - (problem.out_height % rows > 0)  # of the bands of one row less
            whole = rows == problem.out_height and sets != 2
            if (_worthwhile(target, low, vectors, sets) or whole) and (rows, vectors) not in found:
                found.add((rows, vectors))
                yield rows, vectors


def _worthwhile(target: Target, rows: int, vectors: int, sets: int) -> bool:
    """Whether a tile of so few rows still shares enough loads.

    For the Cortex-A57 by llvm-mca: a tile below these does less than 0.85 multiply-adds a cycle.
    """
    if target.lanes > 4:
        return rows >= 2 and rows * vectors * sets >= MIN_SUMS
    return (rows >= 7 and vectors == 1) if sets > 1 else rows >= 3 and rows * vectors >= MIN_SUMS


def row_pitch(width: int, lanes: int, vectors: int, frames: int) -> int:
    """Floats of a planar row: whole tiles, and a zero behind the last pixel if it is read."""
    wide = vectors * lanes
    covered = -(-width // wide) * wide
    return covered if covered > width or frames > 1 else covered + lanes


@dataclass(eq=False)
class PlanesStep:
    """Writes the input channels as planes."""

    name: str
    view: View
    blocks: Blocks
    out: Buffer
    pitch: int
    pad: int

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """The blocked input."""
        return self.view.buffers

    def records(self, blob: Blob, target: Target) -> list[Record]:
        """One record."""
        fields: dict[str, object] = {
            "sources": blob.add(int32(arena_offsets(self.view, self.blocks))),
            "x": self.out.offset + target.lanes,
            "plane": (self.view.height + 2 * self.pad) * self.pitch,
            "blocks": len(self.blocks.buffer_of),
            "height": self.view.height,
            "width": self.view.width,
            "row": self.view.row,
            "pitch": self.pitch,
            "pad": self.pad,
        }
        units = len(self.blocks.buffer_of)
        return [Record(self.name, "run_planes", "planes_layer", fields, units)]


@dataclass(eq=False)
class PatternStep(ConvolutionStep):
    """Convolution of stride 1 whose filters keep channels and taps of their own.

    Attributes:
        choice: Register tile; taps are the same as patterns of one tap each.
        planes: The planar input.
        blocks: Where each channel's plane is: vector and lane of the blocked input.
        pitch: Floats of a planar row.
    """

    choice: PatternChoice = field(default=PatternChoice(1, 1, 1, 1))
    planes: Buffer = field(default=None)  # type: ignore[assignment]
    blocks: Blocks = field(default=None)  # type: ignore[assignment]
    pitch: int = 0
    taps: bool = False

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Planes and skip."""
        return (self.planes, self.skip) if self.skip else (self.planes,)

    def patterns(self) -> tuple[Pattern, ...]:
        """Patterns of the layer, or its single taps."""
        found = None if self.taps else kernel_patterns(self.problem.weight)
        return found or single_taps(self.problem.kernel)

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its record calls."""
        choice = self.choice
        return [PatternVariant(*choice[:4], self.pitch, self.problem.kernel, self.patterns())]

    def span(self, lanes: int) -> int:
        """Floats of a row of sums: whole tiles."""
        wide = self.choice.vectors * lanes
        return -(-self.problem.out_width // wide) * wide

    def block_filters(self, lanes: int) -> int:
        """Filters of one unit of work: their sums stay in the cache."""
        floats = self.choice.frames * self.choice.rows * self.span(lanes) * lanes
        vectors = max(1, min(MAX_BLOCK_FILTERS // lanes, SUM_FLOATS // floats))
        return min(vectors, self.out.blocks) * lanes

    def scratch_floats(self, lanes: int) -> int:
        """Floats of the sums of one unit, and the neighbours that shifted loads touch."""
        sums = self.choice.frames * self.choice.rows * self.span(lanes)
        return self.block_filters(lanes) * sums + 2 * lanes

    def records(self, blob: Blob, target: Target) -> list[Record]:
        """One record."""
        problem, choice, lanes = self.problem, self.choice, target.lanes
        pad = problem.kernel // 2
        touched = (choice.rows + 2 * pad) * choice.vectors * lanes
        channels = max(1, (choice.cache_floats or CACHE_FLOATS[lanes][0]) // touched)
        filters = pad_filters(self.weight, lanes)
        block = self.block_filters(lanes)
        lists = pack_patterns(filters, self.patterns(), block, channels, choice.filters)
        plane = (problem.in_height + 2 * pad) * self.pitch
        plane_of = (self.blocks.block_of * lanes + self.blocks.lane_of) * plane
        tall, low = split_row(problem.out_height, choice.rows)
        fields = self.common()
        fields.update(
            x=self.planes.offset + lanes,
            counts=blob.add(lists.counts),
            channels=blob.add(int32(plane_of[lists.channels])),
            weights=blob.add(lists.weights, weights=True),
            starts=blob.add(lists.starts),
            bias=blob.add(pad_filters(self.bias[self.order], lanes)),
            tall=tall,
            low=low,
            tiles_x=self.span(lanes) // (choice.vectors * lanes),
            block_filters=block,
            channel_blocks=-(-problem.weight.shape[1] // channels),
        )
        units = len(lists.starts) * (tall + low)
        name = self.variants(target)[0].name
        return [Record(self.name, name, "pattern_layer", fields, units)]


def pattern_steps(
    choice: PatternChoice | TapsChoice, base: ConvolutionStep, blocks: Blocks, lanes: int
) -> tuple[PlanesStep, PatternStep]:
    """The two steps of a layer."""
    problem = base.problem
    taps = isinstance(choice, TapsChoice)
    tile = PatternChoice(choice.rows, choice.vectors, 1, choice.frames) if taps else choice
    assert isinstance(tile, PatternChoice)
    pitch = row_pitch(problem.out_width, lanes, tile.vectors, tile.frames)
    pad = problem.kernel // 2
    n_planes = len(blocks.buffer_of) * lanes
    # One vector before and behind: the first and the last row reach one float out.
    floats = n_planes * (problem.in_height + 2 * pad) * pitch + 2 * lanes
    planes = Buffer(base.name + " planes", 1, 1, -(-floats // lanes), 0, lanes)
    return (
        PlanesStep(base.name, base.view, blocks, planes, pitch, pad),
        PatternStep(
            **vars(base), choice=tile, planes=planes, blocks=blocks, pitch=pitch, taps=taps
        ),
    )


@dataclass(eq=False)
class RowsStep(ConvolutionStep):
    """A fully connected layer whose rows keep inputs of their own: filters across lanes.

    Every lane has its own list of inputs; DARB rows of one block size have lists of equal length,
    so sorting the filters by their number of weights leaves no lane idle.
    """

    vectors: int = 1

    def records(self, blob: Blob, target: Target) -> list[Record]:
        """One record."""
        width = self.vectors * target.lanes
        matrix = pad_filters(self.weight.reshape(len(self.order), -1), width)
        lists = pack_rows(matrix, width, self.view.locations())
        fields = self.common()
        fields.update(
            weights=blob.add(lists[0], weights=True),
            inputs=blob.add(int32(lists[1])),
            starts=blob.add(lists[2]),
            bias=blob.add(pad_filters(self.bias[self.order], width)),
            vectors=self.vectors,
        )
        units = len(matrix) // width
        return [Record(self.name, "run_rows", "rows_layer", fields, units)]


def pack_rows(
    matrix: Weights, width: int, places: Ints
) -> tuple[Weights, Ints, npt.NDArray[np.int32]]:
    """Lists of `width` rows side by side, as long as the longest of them.

    Args:
        matrix: (O, P), O a multiple of `width`.
        width: Rows that run together.
        places: (P,) where each input lies.

    Returns:
        Weights (sum n, width) float32, places of their inputs (sum n, width) int64, and
        (O / width + 1,) int32 where each group starts. A short row ends in zero weights of its
        first input.
    """
    kept = matrix != 0
    counts = kept.sum(axis=1)
    longest = counts.reshape(-1, width).max(axis=1)
    starts = np.concatenate([[0], np.cumsum(longest)])
    weights = np.zeros((int(starts[-1]), width), np.float32)
    inputs = np.full((int(starts[-1]), width), places[0], np.int64)
    row, column = np.nonzero(kept)
    before = np.concatenate([[0], np.cumsum(counts)])[row]
    at = (starts[row // width] + np.arange(len(row)) - before, row % width)
    weights[at] = matrix[row, column]
    inputs[at] = places[column]
    return weights, inputs, starts.astype(np.int32)
