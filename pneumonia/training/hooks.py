"""Hooks that let other methods (ADMM, masked retraining) act inside the training loop."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pneumonia.network.module import Network


class TrainingHook:
    """Called by `training.loop.fit`. Derive from it and override what is needed: all do nothing.

    With several processes every one calls its own copy with the same values, so that a hook must
    be deterministic. `network` holds the raw weights, `ema` the averaged ones (the same object
    when there is no averaging).
    """

    def before_fit(self, network: Network, ema: Network) -> None:
        """Called once, after the weights are loaded or restored and before the first step."""

    def after_backward(self, network: Network) -> None:
        """Called with gradients summed over parts and processes, unclipped; may add to them."""

    def after_step(self, network: Network, ema: Network) -> None:
        """Called after the weights and their average are updated; may change both in place."""

    def after_epoch(self, network: Network, epoch: int) -> dict[str, float]:
        """End of epoch `epoch` (from 1), before validation.

        Returns:
            More columns of metrics.csv.
        """
        return {}

    def after_fit(self) -> None:
        """Called once when the fit ends, fails or is interrupted."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """State for an exact resume: named tensors, and JSON values."""
        return {}, {}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restore the value returned by `state`; called before `before_fit`."""
