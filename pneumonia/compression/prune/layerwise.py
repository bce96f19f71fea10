"""Methods that treat every layer by itself, as the pruning pipeline sees them.

Each is the settings of one published family and one function: layer and rate to constraint.
"""

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.method import MethodSets, PruningMethod
from pneumonia.compression.sets.block import (
    DensityAdaptiveBlocks,
    Selector,
    block_count,
    largest_exponent,
)
from pneumonia.compression.sets.constraint import Constraint, JointConstraint, PerLayer, keep_count
from pneumonia.compression.sets.crossbar import Blocks, whole_arrays
from pneumonia.compression.sets.network_set import remove_dead_paths
from pneumonia.compression.sets.pattern import (
    FIXED_8,
    PatternConnectivity,
    Patterns,
    Spread,
    mine_patterns,
)
from pneumonia.compression.sets.units import Columns, Irregular

PATTERN_RATE = 9 / 4  # of 4 weights in a 3x3 kernel


class LayerwiseSet(PerLayer):
    """Single-layer sets of a network, and removal of the dead paths they leave.

    Args:
        constraints: Layer -> its set.
    """

    def __init__(self, graph: ChannelGraph, constraints: Mapping[str, Constraint]) -> None:
        super().__init__(constraints)
        self.graph = graph

    def remove_dead_paths(
        self,
        v: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        others: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Masks without dead paths: filters without a reader, channels without a source."""
        return remove_dead_paths(self.graph, masks, others)


class _Layerwise(PruningMethod):
    """What the methods of this module share: one set per layer."""

    def constraint(self, shape: torch.Size, rate: float) -> Constraint:
        """The set of one weight of that shape at a pruning rate."""
        raise NotImplementedError

    def split_constraints(self, shape: torch.Size, rate: float) -> tuple[Constraint, ...]:
        """The sets ADMM pulls to, each with its own Z and U; the hard set alone by default."""
        return (self.constraint(shape, rate),)

    def column_group(self) -> int:
        """Filters that share their columns, when the method's masks have that form; else -1."""
        return -1

    def sets(self, graph: ChannelGraph, rates: Mapping[str, float]) -> MethodSets:
        """Every selected layer's set at its rate."""
        shapes = {name: graph.weight_shape(name) for name in rates}
        hard = LayerwiseSet(graph, {n: self.constraint(shapes[n], rates[n]) for n in rates})
        parts = {name: self.split_constraints(shapes[name], rates[name]) for name in rates}
        splits: list[JointConstraint] = [
            PerLayer({name: part[i] for name, part in parts.items() if i < len(part)})
            for i in range(max((len(part) for part in parts.values()), default=0))
        ]
        group = self.column_group()
        budgets: dict[str, dict[str, int | float | str]] = {
            name: {"kept": keep_count(shapes[name].numel(), rate)} for name, rate in rates.items()
        }
        grouped = dict.fromkeys(rates, group) if group >= 0 else {}
        return MethodSets(tuple(splits), hard, grouped, budgets)

    def alone(self, graph: ChannelGraph, layer: str, rate: float) -> Constraint:
        """The set of one layer by itself."""
        return self.constraint(graph.weight_shape(layer), rate)


class IrregularMethod(_Layerwise):
    """Keeps the largest weights of each layer, wherever they are."""

    kind: Literal["irregular"] = "irregular"

    def constraint(self, shape: torch.Size, rate: float) -> Constraint:
        """The largest 1 / rate of the weights."""
        return Irregular(keep_count(shape.numel(), rate))


class PatternMethod(_Layerwise):
    """Every 3x3 kernel keeps 4 weights in one of a few patterns; whole kernels are removed.

    Kernels of other sizes are only removed as a whole. A 3x3 layer of a rate below 2.25 keeps
    whole kernels, too.

    Attributes:
        codes: Pattern set as 9-bit codes, sum of bit(3r+c) * 2**(3r+c), each 4 places with the
            centre; the default is four corner blocks and four T-shapes.
        mined: Take the so many most frequent patterns of the trained network's own 3x3 kernels
            instead of `codes`; they stay the same through all stages.
        group_size: Filters that share patterns and channels: 1 = free per kernel; 8, 16 or 32 is
            what generated kernels run fastest; 0 = the whole layer.
        spread: `layer`: kernels where they are worth most; `balanced`: equally many per filter.
        formulation: `joint`: one split. `two_split`: patterns and connectivity each have their
            own Z and U, as published; the hard mask is the joint one.
    """

    kind: Literal["pattern"] = "pattern"
    codes: tuple[int, ...] = Field(default=FIXED_8, min_length=1, max_length=56)
    mined: int | None = Field(default=None, ge=1, le=56)
    group_size: int = Field(default=16, ge=0)
    spread: Spread = "layer"
    formulation: Literal["joint", "two_split"] = "joint"

    def fitted(self, tensors: Mapping[str, Tensor]) -> Self:
        """The method with patterns mined from the weights, if the recipe asks for it."""
        if self.mined is None:
            return self
        weights = [tensor for name, tensor in tensors.items() if name.endswith(".weight")]
        codes = mine_patterns(weights, self.mined)
        return self.model_copy(update={"codes": codes, "mined": None})

    def _patterned(self, shape: torch.Size, rate: float) -> bool:
        return tuple(shape[2:]) == (3, 3) and rate >= PATTERN_RATE

    def constraint(self, shape: torch.Size, rate: float) -> Constraint:
        """Patterns and connectivity together."""
        patterned = self._patterned(shape, rate)
        units = -(-shape[0] // (self.group_size or shape[0])) * shape[1]
        n_keep = keep_count(units, rate / PATTERN_RATE if patterned else rate)
        codes = self.codes if patterned else ()
        return PatternConnectivity(n_keep, codes, self.group_size, self.spread)

    def split_constraints(self, shape: torch.Size, rate: float) -> tuple[Constraint, ...]:
        """Joint, or connectivity and patterns apart."""
        if self.formulation == "joint" or not self._patterned(shape, rate):
            return (self.constraint(shape, rate),)
        joint = self.constraint(shape, rate)
        assert isinstance(joint, PatternConnectivity)
        connectivity = PatternConnectivity(joint.n_keep, (), self.group_size, self.spread)
        return (connectivity, Patterns(self.codes, self.group_size))

    def column_group(self) -> int:
        """Shared patterns are shared columns."""
        return -1 if self.group_size == 1 else self.group_size


class BlockMethod(_Layerwise):
    """One weight per block of 2**e weights of a row, e chosen row by row (DARB).

    Attributes:
        selector: How block sizes are chosen: `energy` keeps most, `density` as published.
    """

    kind: Literal["block"] = "block"
    selector: Selector = "energy"

    def constraint(self, shape: torch.Size, rate: float) -> Constraint:
        """Blocks of 1 / rate of the weights; a row cannot keep less than its largest blocks do."""
        n = shape.numel() // shape[0]
        least = shape[0] * block_count(n, largest_exponent(n))
        return DensityAdaptiveBlocks(max(keep_count(shape.numel(), rate), least), self.selector)


class CrossbarMethod(_Layerwise):
    """Removes what frees memristor arrays: their word lines, or whole arrays.

    Attributes:
        unit: `column`: word lines (columns) of each group of bit_lines filters; `block`: whole
            tiles of the matrix.
        word_lines: Inputs of an array.
        bit_lines: Outputs of an array.
        whole: Columns are kept in multiples of word_lines, where a layer has more than one.
    """

    kind: Literal["crossbar"] = "crossbar"
    unit: Literal["column", "block"] = "column"
    word_lines: PositiveInt = 128
    bit_lines: PositiveInt = 64
    whole: bool = True

    def constraint(self, shape: torch.Size, rate: float) -> Constraint:
        """Columns in groups of filters, or tiles."""
        n_columns = shape.numel() // shape[0]
        if self.unit == "block":
            tiles = -(-shape[0] // self.bit_lines) * -(-n_columns // self.word_lines)
            return Blocks(keep_count(tiles, rate), self.word_lines, self.bit_lines)
        n_keep = keep_count(n_columns, rate)
        if self.whole and n_columns > self.word_lines:
            n_keep = whole_arrays(n_keep, n_columns, self.word_lines)
        return Columns(n_keep, self.bit_lines)

    def column_group(self) -> int:
        """Both forms share columns within a group of filters."""
        return self.bit_lines
