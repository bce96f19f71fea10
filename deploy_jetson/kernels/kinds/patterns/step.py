"""The steps of layers whose filters have lists of their own: planes, then patterns or taps."""

from dataclasses import dataclass, field

from deploy_jetson.kernels.kinds.patterns.choice import PatternChoice, PatternVariant
from deploy_jetson.kernels.kinds.patterns.packing import Pattern, kernel_patterns, pack_patterns
from deploy_jetson.kernels.kinds.register_tiles import split_row
from deploy_jetson.kernels.plan.c_values import CValue
from deploy_jetson.kernels.plan.filters import pad_filters
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.plan.steps import ConvolutionStep, CopyStep, StepRecord, Variant
from deploy_jetson.kernels.plan.tensors import (
    Buffer,
    ChannelVectors,
    arena_offsets,
    int32,
    vectors_of,
)
from deploy_jetson.kernels.plan.weight_store import WeightStore
from deploy_jetson.kernels.targets import Target

# By bytes of a vector: inputs that one tile position touches in a block of channels, the likeliest
# first. Short runs of kernels cost a mispredicted branch each, inputs beyond the first-level cache
# cost more loads.
CACHE_FLOATS = {16: (7 * 1024,), 32: (3 * 1024, 2 * 1024, 8 * 1024), 64: (96 * 1024, 12 * 1024)}
SUM_FLOATS = 24 * 1024  # of the filters of one unit of work
MAX_BLOCK_FILTERS = 64
LINE_FLOATS = 16  # of a cache line


def row_pitch(width: int, lanes: int, vectors: int, frames: int) -> int:
    """Floats of a planar row: whole tiles, and a zero behind the last pixel if it is read."""
    wide = vectors * lanes
    covered = -(-width // wide) * wide
    return covered if covered > width or frames > 1 else covered + lanes


def plane_floats(problem: LayerProblem, pitch: int) -> int:
    """Floats from a plane to the next: an odd number of cache lines.

    A tile reads the same pixels of many planes; at an even distance they would share half or an
    eighth of the first-level cache.
    """
    rows = problem.in_height + 2 * (problem.kernel // 2)
    return (-(-rows * pitch // LINE_FLOATS) | 1) * LINE_FLOATS


@dataclass(eq=False)
class PlanesStep(CopyStep):
    """Writes the input channels as planes."""

    blocks: ChannelVectors  # the channels as whole vectors
    pitch: int  # floats of a planar row
    pad: int  # rows above and below
    plane: int  # floats from a plane to the next

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record."""
        fields: dict[str, CValue] = {
            "sources": store.add(int32(arena_offsets(self.view, self.blocks))),
            "x": self.out.offset + target.lanes,
            "plane": self.plane,
            "blocks": len(self.blocks.buffer_of),
            "height": self.view.height,
            "width": self.view.width,
            "row": self.view.row,
            "pitch": self.pitch,
            "pad": self.pad,
        }
        units = len(self.blocks.buffer_of)
        return [StepRecord(self.name, "run_planes", "planes_layer", fields, units)]


@dataclass(eq=False)
class PatternStep(ConvolutionStep):
    """Convolution of stride 1 whose filters keep channels and taps of their own.

    Attributes:
        choice: Register tile.
        planes: The planar input.
        blocks: Where each channel's plane is: vector and lane of the blocked input.
        pitch: Floats of a planar row.
        patterns: Of the layer, or its single taps.
    """

    choice: PatternChoice = field(default=PatternChoice(1, 1, 1, 1))
    planes: Buffer = field(default=None)  # type: ignore[assignment]
    blocks: ChannelVectors = field(default=None)  # type: ignore[assignment]
    pitch: int = 0
    patterns: tuple[Pattern, ...] = ()

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """The planes of the input, and the buffer that is added."""
        return (self.planes, self.skip) if self.skip else (self.planes,)

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its record calls."""
        choice = self.choice
        return [PatternVariant(*choice[:4], self.pitch, self.problem.kernel, self.patterns)]

    def span(self, lanes: int) -> int:
        """Floats of a row of sums: whole tiles."""
        wide = self.choice.vectors * lanes
        return -(-self.problem.out_width // wide) * wide

    def block_filters(self, lanes: int) -> int:
        """Filters of one unit of work: their sums stay in the cache."""
        floats = self.choice.frames * self.choice.rows * self.span(lanes) * lanes
        vectors = max(1, min(MAX_BLOCK_FILTERS // lanes, SUM_FLOATS // floats))
        return min(vectors, self.out.blocks) * lanes

    def scratch_floats(self, target: Target) -> int:
        """Floats of the sums of one unit, and the neighbours that shifted loads touch."""
        lanes = target.lanes
        sums = self.choice.frames * self.choice.rows * self.span(lanes)
        return self.block_filters(lanes) * sums + 2 * lanes

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record."""
        problem, choice, lanes = self.problem, self.choice, target.lanes
        pad = problem.kernel // 2
        touched = (choice.rows + 2 * pad) * choice.vectors * lanes
        channels = max(1, (choice.cache_floats or CACHE_FLOATS[target.vector_bytes][0]) // touched)
        filters = pad_filters(self.weight, lanes)
        block = self.block_filters(lanes)
        lists = pack_patterns(filters, self.patterns, block, channels, choice.filters)
        plane = plane_floats(problem, self.pitch)
        plane_of = (self.blocks.block_of * lanes + self.blocks.lane_of) * plane
        tall, low = split_row(problem.out_height, choice.rows)
        fields = self.common()
        fields.update(
            x=self.planes.offset + lanes,
            counts=store.add(lists.counts),
            channels=store.add(int32(plane_of[lists.channels])),
            weights=store.add(lists.weights, weights=True),
            starts=store.add(lists.starts),
            bias=store.add(pad_filters(self.bias[self.order], lanes)),
            tall=tall,
            low=low,
            tiles_x=self.span(lanes) // (choice.vectors * lanes),
            block_filters=block,
            channel_blocks=-(-problem.weight.shape[1] // channels),
        )
        units = len(lists.starts) * (tall + low)
        name = self.variants(target)[0].name
        return [StepRecord(self.name, name, "pattern_layer", fields, units)]


def steps(
    choice: PatternChoice, base: ConvolutionStep, target: Target
) -> tuple[PlanesStep, PatternStep]:
    """The steps of a layer with free patterns."""
    patterns = kernel_patterns(base.problem.weight)
    assert patterns is not None, "a pattern choice is legal for layers with patterns only"
    return list_steps(choice, base, target, patterns)


def list_steps(
    choice: PatternChoice, base: ConvolutionStep, target: Target, patterns: tuple[Pattern, ...]
) -> tuple[PlanesStep, PatternStep]:
    """The two steps of a layer: its input as planes, then the lists."""
    problem, lanes = base.problem, target.lanes
    blocks = vectors_of(base.view, lanes)
    pitch = row_pitch(problem.out_width, lanes, choice.vectors, choice.frames)
    pad = problem.kernel // 2
    n_planes = len(blocks.buffer_of) * lanes
    plane = plane_floats(problem, pitch)
    # One vector before and behind: the first and the last row reach one float out.
    floats = n_planes * plane + 2 * lanes
    planes = Buffer(base.name + " planes", 1, 1, -(-floats // lanes), 0, lanes)
    return (
        PlanesStep(base.name, base.view, planes, blocks, pitch, pad, plane),
        PatternStep(
            **vars(base), choice=choice, planes=planes, blocks=blocks, pitch=pitch,
            patterns=patterns,
        ),
    )  # fmt: skip
