"""Steps of a free-pattern layer: its input as planes, then the convolution itself."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from deploy_jetson.kernels.choices import PatternChoice, Problem
from deploy_jetson.kernels.packing import Blob, pad_filters
from deploy_jetson.kernels.patterns import Pattern, kernel_patterns, pack_patterns
from deploy_jetson.kernels.steps import ConvolutionStep, Record, int32
from deploy_jetson.kernels.targets import Target
from deploy_jetson.kernels.tensors import Blocks, Buffer, View, arena_offsets
from deploy_jetson.kernels.variants import PatternVariant, Variant, split_row

BLOCK_FILTERS = 64
# Floats of one block of inputs. Short runs of kernels cost a mispredicted branch each, so with a
# private second-level cache the block is larger than the first-level one.
CACHE_FLOATS = {4: 7 * 1024, 8: 28 * 1024, 16: 28 * 1024}
SPARE_REGISTERS = 6  # four weights, one input vector, one address or temporary


def pattern_tiles(problem: Problem, target: Target) -> Iterator[PatternChoice]:
    """Legal register tiles of a layer with free patterns; none for other layers."""
    if not problem.winograd or problem.padding != 1 or kernel_patterns(problem.weight) is None:
        return
    across = -(-problem.out_width // target.lanes)
    spare = SPARE_REGISTERS if target.lanes > 4 else SPARE_REGISTERS + 2
    for filters in (1, 2):
        room = (target.registers - spare - 4 * (filters - 1)) // filters
        fewest = -(-across // room)
        # Wide vectors are shifted in registers, which needs whole rows.
        splits = (fewest,) if target.lanes > 4 else (fewest, fewest + 1)
        for vectors in dict.fromkeys(-(-across // split) for split in splits):
            yield from _balanced(problem.out_height, vectors, filters, room // vectors)


def _balanced(height: int, vectors: int, filters: int, tallest: int) -> Iterator[PatternChoice]:
    """Tiles of up to `tallest` rows that cut the map into equal bands."""
    limits = range(min(height, tallest), max(0, min(height, tallest) - 3), -1)
    for rows in dict.fromkeys(-(-height // -(-height // limit)) for limit in limits):
        yield PatternChoice(rows, vectors, filters)


def row_pitch(width: int, lanes: int, vectors: int) -> int:
    """Floats of a planar row: whole tiles, and at least one zero behind the last pixel."""
    wide = vectors * lanes
    covered = -(-width // wide) * wide
    return covered if covered > width else covered + lanes


@dataclass(eq=False)
class PlanesStep:
    """Writes the input channels as planes."""

    name: str
    view: View
    blocks: Blocks
    out: Buffer
    pitch: int

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """The blocked input."""
        return self.view.buffers

    def records(self, blob: Blob, target: Target) -> list[Record]:
        """One record."""
        fields: dict[str, object] = {
            "sources": blob.add(int32(arena_offsets(self.view, self.blocks))),
            "x": self.out.offset + target.lanes,
            "plane": (self.view.height + 2) * self.pitch,
            "blocks": len(self.blocks.buffer_of),
            "height": self.view.height,
            "width": self.view.width,
            "row": self.view.row,
            "pitch": self.pitch,
        }
        units = len(self.blocks.buffer_of)
        return [Record(self.name, "run_planes", "planes_layer", fields, units)]


@dataclass(eq=False)
class PatternStep(ConvolutionStep):
    """3x3 convolution of stride 1 whose filters keep channels and patterns of their own.

    Attributes:
        choice: Register tile.
        planes: The planar input.
        blocks: Where each channel's plane is: vector and lane of the blocked input.
        pitch: Floats of a planar row.
    """

    choice: PatternChoice = field(default=PatternChoice(1, 1, 1))
    planes: Buffer = field(default=None)  # type: ignore[assignment]
    blocks: Blocks = field(default=None)  # type: ignore[assignment]
    pitch: int = 0

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Planes and skip."""
        return (self.planes, self.skip) if self.skip else (self.planes,)

    def patterns(self) -> tuple[Pattern, ...]:
        """Patterns of the layer."""
        patterns = kernel_patterns(self.problem.weight)
        assert patterns is not None, "chosen only for layers with patterns"
        return patterns

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its record calls."""
        return [PatternVariant(*self.choice, self.pitch, self.patterns())]

    def scratch_floats(self, lanes: int) -> int:
        """Floats of the sums of one unit."""
        return BLOCK_FILTERS * self.choice.rows * self.choice.vectors * lanes

    def records(self, blob: Blob, target: Target) -> list[Record]:
        """One record."""
        problem, choice, lanes = self.problem, self.choice, target.lanes
        channels = max(1, CACHE_FLOATS[lanes] // ((choice.rows + 2) * self.pitch))
        filters = pad_filters(self.weight, lanes)
        block = min(BLOCK_FILTERS, len(filters))
        lists = pack_patterns(filters, self.patterns(), block, channels, choice.filters)
        plane_of = self.blocks.block_of * lanes + self.blocks.lane_of
        tall, low = split_row(problem.out_height, choice.rows)
        tiles_x = -(-problem.out_width // (choice.vectors * lanes))
        fields = self.common()
        fields.update(
            x=self.planes.offset + lanes,
            plane=(problem.in_height + 2) * self.pitch,
            counts=blob.add(lists.counts),
            channels=blob.add(int32(plane_of[lists.channels])),
            weights=blob.add(lists.weights),
            starts=blob.add(lists.starts),
            bias=blob.add(pad_filters(self.bias[self.order], lanes)),
            tall=tall,
            low=low,
            tiles_x=tiles_x,
            block_filters=block,
            channel_blocks=-(-problem.weight.shape[1] // channels),
        )
        units = len(lists.starts) * (tall + low) * tiles_x
        name = self.variants(target)[0].name
        return [Record(self.name, name, "pattern_layer", fields, units)]


def pattern_steps(
    choice: PatternChoice, base: ConvolutionStep, blocks: Blocks, lanes: int
) -> tuple[PlanesStep, PatternStep]:
    """The two steps of a layer."""
    problem = base.problem
    pitch = row_pitch(problem.out_width, lanes, choice.vectors)
    n_planes = len(blocks.buffer_of) * lanes
    # One vector before and behind: the first and the last row reach one float out.
    floats = n_planes * (problem.in_height + 2) * pitch + 2 * lanes
    planes = Buffer(base.name + " planes", 1, 1, -(-floats // lanes), 0, lanes)
    return (
        PlanesStep(base.name, base.view, blocks, planes, pitch),
        PatternStep(**vars(base), choice=choice, planes=planes, blocks=blocks, pitch=pitch),
    )
