"""Is irregular pruning worth it? Pruning-to-performance ratio and storage break-even."""

from typing import NamedTuple

from evaluation.hardware.storage import break_even_ratio

PPR_STRUCTURED = 1.0  # a smaller dense matrix product
PPR_IRREGULAR = 2.7  # the best reported irregular accelerators; replace by measurement


def pruning_to_performance(rate: float, speedup: float) -> float:
    """PPR: pruning rate over the speed-up measured at that rate; 1 is ideal."""
    return rate / speedup


class IrregularVersusStructured(NamedTuple):
    """Irregular against structured pruning at equal accuracy and bits.

    Attributes:
        storage_needed: Irregular rate from which it stores less than the structured model.
        compute_needed: Irregular rate from which it is faster.
        storage_wins: The irregular rate reaches the first.
        compute_wins: It reaches the second.
        ppr_irregular, ppr_structured: What was used.
        measured: Both ratios are measured ones.
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
    """Judge two rates of the same network at the same accuracy, bits and covered layers.

    Args:
        rate_irregular: Weights / kept weights of the irregular model.
        rate_structured: Realised rate of the structured one, after dead paths were removed.
        bits: Of one stored weight.
        ppr_irregular: Measured ratio; None = the reported 2.7.
        ppr_structured: Measured ratio; None = 1.
    """
    loose = PPR_IRREGULAR if ppr_irregular is None else ppr_irregular
    firm = PPR_STRUCTURED if ppr_structured is None else ppr_structured
    storage = rate_structured * break_even_ratio(1.0 / rate_irregular, bits)
    compute = rate_structured * loose / firm
    return IrregularVersusStructured(
        storage_needed=storage,
        compute_needed=compute,
        storage_wins=rate_irregular >= storage,
        compute_wins=rate_irregular >= compute,
        ppr_irregular=loose,
        ppr_structured=firm,
        measured=ppr_irregular is not None and ppr_structured is not None,
    )
