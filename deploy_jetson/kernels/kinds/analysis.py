"""Sparsity figures of a layer that the cost models use, each computed once."""

from collections.abc import Callable, Hashable
from typing import Any

from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.targets import Target

SCATTERED = 1.5  # weights of shared lists over weights kept: from here on own lists are tried


class LayerAnalysis:
    """A layer's sparsity; everything is computed once.

    Attributes:
        problem: The layer.
        kept_of_filter: (O,) kept weights of every filter.
        live: Input channels that any filter reads.
    """

    def __init__(self, problem: LayerProblem) -> None:
        self.problem = problem
        self._mask = problem.weight.reshape(len(problem.weight), -1) != 0
        self._memo: dict[Hashable, Any] = {}
        self.kept_of_filter = self._mask.sum(axis=1)
        self.live = int((problem.weight != 0).any(axis=(0, 2, 3)).sum())

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The value of `compute()`, remembered under `key`."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def columns(self, width: int) -> list[int]:
        """Kept columns of every panel of `width` filters."""
        starts = range(0, len(self._mask), width)
        found: list[int] = self.once(
            ("columns", width),
            lambda: [int(self._mask[at : at + width].any(axis=0).sum()) for at in starts],
        )
        return found

    def touched(self, columns: int, pixels: int, target: Target) -> int:
        """Bytes of the inputs that so many columns read for `pixels` outputs of a row."""
        problem = self.problem
        lanes = 1 if problem.planar else target.lanes
        sources = min(columns, -(-int(problem.weight.shape[1]) // lanes))
        span = (pixels - 1) * problem.stride + problem.kernel
        return sources * problem.kernel * span * lanes * target.number.bytes

    def scattered(self, lanes: int) -> bool:
        """Whether neighbouring filters differ so much that shared column lists cost more."""
        kept = int(self.kept_of_filter.sum())
        return sum(self.columns(lanes)) * lanes > SCATTERED * kept
