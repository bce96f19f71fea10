"""Fully connected rows with lists of their own (DARB): filters across lanes.

Every lane has its own list of inputs; DARB rows of one block size have lists of equal length, so
sorting the filters by their number of weights leaves no lane idle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.kind import KernelFamily, KernelKind
from deploy_jetson.kernels.plan.filters import pad_filters
from deploy_jetson.kernels.plan.layer_problem import Weights
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step, StepRecord, Variant
from deploy_jetson.kernels.plan.tensors import Ints, int32
from deploy_jetson.kernels.plan.weight_store import WeightStore
from deploy_jetson.kernels.targets import Target

GATHER_CYCLES = 1.2  # of one lane


class RowsChoice(NamedTuple):
    """Vectors of filters of one unit of work."""

    vectors: int


class RowsVariant(NamedTuple):
    """The one kernel of this family; it has no parameters."""

    @property
    def family(self) -> str:
        """Name of its kernel family."""
        return "rows"

    @property
    def name(self) -> str:
        """Name of the step function in C."""
        return "run_rows"


@dataclass(eq=False)
class RowsStep(ConvolutionStep):
    """A fully connected layer whose rows keep inputs of their own."""

    choice: RowsChoice = field(default=RowsChoice(1))

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its record calls."""
        return [RowsVariant()]

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record."""
        vectors = self.choice.vectors
        width = vectors * target.lanes
        matrix = pad_filters(self.weight.reshape(len(self.order), -1), width)
        weights, inputs, starts = pack_rows(matrix, width, self.view.locations())
        fields = self.common()
        fields.update(
            weights=store.add(weights, weights=True),
            inputs=store.add(int32(inputs)),
            starts=store.add(starts),
            bias=store.add(pad_filters(self.bias[self.order], width)),
            vectors=vectors,
        )
        return [StepRecord(self.name, "run_rows", "rows_layer", fields, len(matrix) // width)]


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


def candidates(analysis: LayerAnalysis, target: Target) -> Iterator[RowsChoice]:
    """Legal choices: fully connected layers whose filters keep different inputs."""
    problem = analysis.problem
    connected = problem.kernel == 1 and problem.in_height == problem.in_width == 1
    if connected and analysis.scattered(target.lanes):
        blocks = -(-len(problem.weight) // target.lanes)
        yield from (RowsChoice(vectors) for vectors in (1, 2) if vectors <= blocks)


def cycles(analysis: LayerAnalysis, choice: RowsChoice, target: Target) -> float:
    """Cycles on one core: every lane waits for the longest list of its group."""
    counts = analysis.kept_of_filter
    width = choice.vectors * target.lanes
    longest = sum(int(counts[i : i + width].max()) for i in range(0, len(counts), width))
    return longest * width * GATHER_CYCLES


def _steps(choice: RowsChoice, base: ConvolutionStep, target: Target) -> tuple[Step, ...]:
    return (RowsStep(**vars(base), choice=choice),)


def _context(variants: Sequence[RowsVariant], target: Target) -> dict[str, Any]:
    return {}


FAMILY = KernelFamily("rows", _context)
KIND = KernelKind(
    "rows", RowsChoice, FAMILY, candidates, cycles, _steps, lambda choice: (),
    lambda choice: f"rows x{choice.vectors}",
)  # fmt: skip
