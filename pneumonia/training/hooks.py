"""Where other methods (ADMM, masked retraining) reach into the training loop."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pneumonia.network.module import Network


@runtime_checkable
class TrainingHook(Protocol):
    """Called by `training.loop.fit`; derive from it and override what is needed.

    With several processes every one calls its own copy with the same values, so that a hook must
    be deterministic. `network` holds the raw weights, `ema` the averaged ones (the same object
    when there is no averaging).
    """

    def before_fit(self, network: Network, ema: Network) -> None:
        """Once, after weights were loaded or restored and before the first step."""

    def after_backward(self, network: Network) -> None:
        """Gradients are whole (over parts and processes) and not yet clipped; may add to them."""

    def after_step(self, network: Network, ema: Network) -> None:
        """Weights and average have moved; may change both in place, for example mask them."""

    def after_epoch(self, network: Network, epoch: int) -> dict[str, float]:
        """End of epoch `epoch` (from 1), before validation.

        Returns:
            More columns of metrics.csv.
        """
        return {}

    def after_fit(self) -> None:
        """Once, when the fit is over, has failed or was interrupted. Need not be overridden."""
        return

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What an exact resume needs: tensors, and values JSON can hold."""
        return {}, {}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take back what `state` gave; called before `before_fit`."""
