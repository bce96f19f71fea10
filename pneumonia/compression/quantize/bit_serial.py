"""Processing in SOT-MRAM: few-bit weights, convolved bit by bit with AND and pop-count.

    <I, W> = sum over m < M, n < N of +- 2**(m+n) * popcount(I_m AND W_n)

with a minus for the sign plane n = N-1 of two's-complement weights and unsigned activations.
Binary weights +-1 use 2 * popcount(I_m AND W_0) - popcount(I_m).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

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


def bit_planes(values: Tensor, bits: int) -> Tensor:
    """Two's-complement planes of whole numbers: int64 (bits, *shape), each 0 or 1."""
    shifts = torch.arange(bits).reshape(-1, *[1] * values.dim())
    return (values.to(torch.int64).unsqueeze(0) >> shifts) & 1


def bit_serial_matmul(
    activations: Tensor, weights: Tensor, activation_bits: int, weight_bits: int
) -> Tensor:
    """What the arrays compute: exact whole-number products (N, P) x (O, P) -> (N, O).

    Args:
        activations: int, 0 .. 2**activation_bits - 1, (N, P).
        weights: int (O, P), two's complement in `weight_bits`; with 1 bit, +1 and -1.
        activation_bits: Planes of the activations.
        weight_bits: Planes of the weights.

    Raises:
        PruneError: A number does not fit its bits.
    """
    low, high = _weight_range(weight_bits)
    _check_range(activations, 0, (1 << activation_bits) - 1, "activations")
    _check_range(weights, low, high, "weights")
    binary = weight_bits == 1
    planes = bit_planes((weights > 0).long() if binary else weights, weight_bits)
    total = torch.zeros(activations.shape[0], weights.shape[0], dtype=torch.int64)
    for m, inputs in enumerate(bit_planes(activations, activation_bits)):
        for n, plane in enumerate(planes):
            count = inputs @ plane.T  # popcount of the AND of two bit rows
            if binary:
                total += (2 * count - inputs.sum(1, keepdim=True)) << m
            else:
                total += (-1 if n == weight_bits - 1 else 1) * (count << (m + n))
    return total


def _weight_range(bits: int) -> tuple[int, int]:
    return (-1, 1) if bits == 1 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _check_range(values: Tensor, low: int, high: int, what: str) -> None:
    if values.numel() and not (low <= int(values.min()) and int(values.max()) <= high):
        raise PruneError(
            f"Numbers do not fit the bits of the {what}", expected=f"{low} .. {high}",
            found=f"{int(values.min())} .. {int(values.max())}",
        )  # fmt: skip


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
        PruneError: Even the fewest bits do not fit.
    """
    bits = {name: max(options) for name, options in sensitivity.items()}
    while sum(n_weights[name] * bits[name] for name in bits) > capacity_bits:
        steps = []
        for order, (name, now) in enumerate(bits.items()):
            lower = [b for b in sensitivity[name] if b < now]
            if lower:
                loss = sensitivity[name][max(lower)] - sensitivity[name][now]
                saved = n_weights[name] * (now - max(lower))
                steps.append((loss / saved, order, name, max(lower)))
        if not steps:
            least = sum(n_weights[name] * bits[name] for name in bits)
            raise PruneError(
                "Network does not fit the memory", expected=f"<= {capacity_bits} cells",
                found=f"{least} at the fewest bits", fix="Prune more, or offer fewer bits",
            )  # fmt: skip
        _, _, name, fewer = min(steps)
        bits[name] = fewer
    return bits
