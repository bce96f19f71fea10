"""Interface of a compression method: sets for ADMM, a hard set, and weight counts.

The pipeline never asks which method it runs. A method is given the layers it may constrain and how
strongly, and answers with constraints; everything after that is projection.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.sets.constraint import Constraint, JointConstraint
from pneumonia.network.module import NamedTensors
from pneumonia.recipes import RecipePart


class HardSet(JointConstraint, Protocol):
    """The set the hard mask comes from."""

    def remove_dead_paths(
        self,
        v: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        others: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Masks of a projection of `v`, without the weights that compaction would remove.

        Args:
            others: Masks that earlier runs left in layers out of the set.
        """
        ...


class MethodSets(NamedTuple):
    """A method at one strength."""

    splits: tuple[JointConstraint, ...]  # the sets ADMM pulls the weights to, one (Z, U) pair each
    hard: HardSet  # the set of the hard mask, inside all of them
    # layers stored by columns -> filters that share one list of columns
    group_sizes: dict[str, int]
    # layer -> what the set allows, for compression.json
    budgets: dict[str, dict[str, int | float | str]]
    round_to: int = 1  # filters that are left of a layer are a multiple of this


class LadderStage(NamedTuple):
    """One rung of a ladder."""

    rate: float  # global pruning rate over all convolution and linear weights to reach
    method: "PruningMethod"  # the method, perhaps in a variant of its own


class PruningMethod(RecipePart):
    """A compression method with its settings, as recipes hold it."""

    def fitted(self, tensors: NamedTensors) -> Self:
        """The method with parameters derived from the trained network; unchanged by default.

        Called once at the start.
        """
        return self

    def stages(self, rates: Sequence[float]) -> list[LadderStage]:
        """The rungs for a ladder of global rates; one per rate by default."""
        return [LadderStage(rate, self) for rate in rates]

    def sets(self, graph: ChannelGraph, rates: Mapping[str, float]) -> MethodSets:
        """The method at given strengths.

        Args:
            rates: Selected layer -> pruning rate of its weight, >= 1.
        """
        raise NotImplementedError

    def alone(self, graph: ChannelGraph, layer: str, rate: float) -> Constraint:
        """The set of one layer by itself, for measuring how sensitive it is."""
        raise NotImplementedError
