"""A trial on random images that a compacted network computes what the masked one does."""

import torch

from pneumonia.network.module import Network
from pneumonia.runtime.engines.comparison import relative_error
from pneumonia.runtime.errors import PruneError

EQUAL = 1e-4  # largest difference of a compacted output, relative to the output's largest value


def check_compacted(masked: Network, small: Network) -> None:
    """Compare all outputs on two random images; `small`, on the CPU, is left in evaluation mode.

    Raises:
        PruneError: An output differs by more than EQUAL.
    """
    entry = masked.spec.input
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, entry.channels, entry.height, entry.width, generator=generator)
    images = (images - entry.mean) / entry.std
    was_training = masked.training
    with torch.no_grad():
        device = next(masked.parameters()).device
        expected = Network.forward(masked.eval(), images.to(device))
        found = Network.forward(small.eval(), images)
    masked.train(was_training)
    for name, value in expected.items():
        difference = relative_error(found[name].numpy(), value.cpu().numpy())
        if not difference <= EQUAL:
            raise PruneError(
                "Compacted network is not the masked one",
                expected=f"outputs within {EQUAL:g}",
                found=f"{difference:.3g}",
                where=f"output {name!r}",
                fix="Report this as a fault",
            )
