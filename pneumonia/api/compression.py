"""Constraints and ADMM for any `torch.nn.Module`: the names that `import pneumonia` offers."""

from pneumonia.compression.admm.any_module import ModuleCompression, match_parameters
from pneumonia.compression.admm.engine import Admm, AdmmResidual
from pneumonia.compression.quantize.bit_serial import plan_bits
from pneumonia.compression.quantize.snap import ProgressiveSnap
from pneumonia.compression.sets.block import BlockMax, DensityAdaptiveBlocks
from pneumonia.compression.sets.combined import Combined
from pneumonia.compression.sets.constraint import Constraint, PerLayer, Projection
from pneumonia.compression.sets.crossbar import Blocks, conductance_step, conductances
from pneumonia.compression.sets.irregular import GlobalIrregular, Irregular
from pneumonia.compression.sets.levels import BINARY, TERNARY, Quantized
from pneumonia.compression.sets.pattern import PatternConnectivity, Patterns
from pneumonia.compression.sets.structured import Channels, Columns, Filters

__all__ = [
    "BINARY",
    "TERNARY",
    "Admm",
    "AdmmResidual",
    "BlockMax",
    "Blocks",
    "Channels",
    "Columns",
    "Combined",
    "Constraint",
    "DensityAdaptiveBlocks",
    "Filters",
    "GlobalIrregular",
    "Irregular",
    "ModuleCompression",
    "PatternConnectivity",
    "Patterns",
    "PerLayer",
    "ProgressiveSnap",
    "Projection",
    "Quantized",
    "conductance_step",
    "conductances",
    "match_parameters",
    "plan_bits",
]
