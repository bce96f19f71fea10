"""The column kernel: filters across vector lanes, pixels broadcast, one list of kept columns.

Dense, filter-, column- and group-pattern-pruned, combined, 1x1, strided and fully connected layers
are all this kernel; only the list differs. A tile keeps `pixels * vectors` accumulators in
registers; every kept column costs `vectors` weight loads and `pixels` broadcasts.

A long list is cut into pieces whose weights and inputs stay in the first-level cache while they
run over a strip of pixels, all rows of it; the sums rest in the output between two pieces.
"""

from collections.abc import Sequence
from typing import Any

from deploy_jetson.kernels.kinds.columns.choice import ColumnsChoice, ColumnsVariant
from deploy_jetson.kernels.kinds.columns.cost import candidates, cycles
from deploy_jetson.kernels.kinds.columns.step import ColumnsStep
from deploy_jetson.kernels.kinds.kind import KernelFamily, KernelKind
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step
from deploy_jetson.kernels.targets import Target


def _context(variants: Sequence[ColumnsVariant], target: Target) -> dict[str, Any]:
    tiles = {
        (p, v.vectors, v.step, v.step_name, v.number, v.formats, v.suffix)
        for v in variants
        for p in v.widths
    }
    return {"variants": variants, "tiles": sorted(tiles)}


def _steps(choice: ColumnsChoice, base: ConvolutionStep, target: Target) -> tuple[Step, ...]:
    return (ColumnsStep(**vars(base), choice=choice),)


def _describe(choice: ColumnsChoice) -> str:
    pieces = f", pieces of {choice.piece_bytes} B" if choice.piece_bytes else ""
    return f"columns {choice.pixels}x{choice.vectors}{pieces}"


FAMILY = KernelFamily("columns", _context)
KIND = KernelKind(
    "columns", ColumnsChoice, FAMILY, candidates, cycles, _steps,
    lambda choice: (int(choice.piece_bytes > 0),), _describe,
)  # fmt: skip
