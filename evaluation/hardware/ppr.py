"""Irregular against structured pruning: pruning-to-performance ratio, storage break-even."""

from typing import NamedTuple

from evaluation.hardware.storage import break_even_ratio

PPR_STRUCTURED = 1.0  # a smaller dense matrix product
PPR_IRREGULAR = 2.7  # best reported irregular accelerators; default without a measurement


def pruning_to_performance(rate: float, speedup: float) -> float:
    """PPR: pruning rate over the speed-up measured at that rate; 1 is ideal."""
    return rate / speedup


class IrregularVersusStructured(NamedTuple):
    """Irregular against structured pruning at equal accuracy and bits.

    Attributes:
        storage_needed: Rate at which the irregular model stores less than the structured one.
        compute_needed: Rate at which the irregular model is faster.
        storage_wins: Whether the irregular rate reaches `storage_needed`.
        compute_wins: Whether the irregular rate reaches `compute_needed`.
        ppr_irregular, ppr_structured: The ratios used.
        measured: Whether both ratios were measured.
    """

    storage_needed: float
    compute_needed: float
    storage_wins: bool
    compute_wins: bool
    ppr_irregular: float
    ppr_structured: float
    measured: bool


def compare(
    rate_irregular: float,
    rate_structured: float,
    bits: int,
    ppr_irregular: float | None = None,
    ppr_structured: float | None = None,
) -> IrregularVersusStructured:
    """Compare two rates of the same network at equal accuracy, bits and pruned layers.

    Args:
        rate_irregular: Weights / kept weights of the irregular model.
        rate_structured: Realised rate of the structured one, after dead paths were removed.
        bits: Bits of one stored weight.
        ppr_irregular: Measured ratio; None = the reported 2.7.
        ppr_structured: Measured ratio; None = 1.
    """
    irregular = PPR_IRREGULAR if ppr_irregular is None else ppr_irregular
    structured = PPR_STRUCTURED if ppr_structured is None else ppr_structured
    storage = rate_structured * break_even_ratio(1.0 / rate_irregular, bits)
    compute = rate_structured * irregular / structured
    return IrregularVersusStructured(
        storage_needed=storage,
        compute_needed=compute,
        storage_wins=rate_irregular >= storage,
        compute_wins=rate_irregular >= compute,
        ppr_irregular=irregular,
        ppr_structured=structured,
        measured=ppr_irregular is not None and ppr_structured is not None,
    )
