"""Processing in SOT-MRAM: weight levels of a cell row, and bits of each layer within a memory."""

import math
from collections.abc import Mapping

from pneumonia.compression.sets.constraint import check_integer
from pneumonia.compression.sets.levels import BINARY, Levels, k_bit
from pneumonia.runtime.errors import PruneError


def fixed_point(bits: int) -> Levels:
    """Weight levels of a b-bit two's-complement cell row; 1 bit means +-1.

    Raises:
        PruneError: Not 1 to 8 bits.
    """
    if not 1 <= bits <= 8:
        raise PruneError("Bit width does not fit SOT-MRAM", expected="1 to 8", found=repr(bits))
    return BINARY if bits == 1 else k_bit(bits, "level")


def _check_plan(
    n_weights: Mapping[str, int],
    sensitivity: Mapping[str, Mapping[int, float]],
    capacity_bits: int,
) -> None:
    check_integer(capacity_bits, "Capacity in bits", 1)
    if set(n_weights) != set(sensitivity):
        raise PruneError(
            "Layers of weights and sensitivities differ",
            expected=", ".join(sorted(n_weights)),
            found=", ".join(sorted(sensitivity)) or "none",
        )
    for name, options in sensitivity.items():
        check_integer(n_weights[name], f"Number of weights of {name!r}", 0)
        for bits, loss in options.items():
            check_integer(bits, f"Bits of {name!r}", 1)
            if not math.isfinite(loss):
                raise PruneError(
                    "Loss is not finite", found=repr(loss), where=f"{name!r}, {bits} bits"
                )
        if not options:
            raise PruneError("Layer has no bits to choose from", where=repr(name))


def plan_bits(
    n_weights: Mapping[str, int],
    sensitivity: Mapping[str, Mapping[int, float]],
    capacity_bits: int,
) -> dict[str, int]:
    """Bits of each layer so that the network fits the memory: greedy, before training.

    Starts at the most bits offered and takes, step by step, the step down that costs least
    validation metric per bit saved, until sum of n_l * b_l <= capacity.

    Args:
        n_weights: Kept weights of each layer (r_l * c_l).
        sensitivity: Layer -> bits -> loss of the validation metric with that layer at those bits.
        capacity_bits: Cells of the memory.

    Raises:
        PruneError: Even the fewest bits do not fit, the layers of both mappings differ, or a number
            is not valid.
    """
    _check_plan(n_weights, sensitivity, capacity_bits)
    bits = {name: max(options) for name, options in sensitivity.items()}
    while sum(n_weights[name] * bits[name] for name in bits) > capacity_bits:
        steps = []
        for order, (name, now) in enumerate(bits.items()):
            lower = [b for b in sensitivity[name] if b < now]
            if lower:
                loss = sensitivity[name][max(lower)] - sensitivity[name][now]
                saved = n_weights[name] * (now - max(lower))
                steps.append((loss / max(saved, 1), order, name, max(lower)))
        if not steps:
            least = sum(n_weights[name] * bits[name] for name in bits)
            raise PruneError(
                "Network does not fit the memory", expected=f"<= {capacity_bits} cells",
                found=f"{least} at the fewest bits", fix="Prune more, or offer fewer bits",
            )  # fmt: skip
        _, _, name, fewer = min(steps)
        bits[name] = fewer
    return bits
