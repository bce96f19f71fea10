"""Constraints and ADMM for any `torch.nn.Module`: the names that `import pneumonia` offers."""

from pneumonia.compression.admm import Admm, AdmmResidual
from pneumonia.compression.any_module import ModuleCompression, match_parameters
from pneumonia.compression.combined import Combined
from pneumonia.compression.constraint import Constraint, PerLayer, Projection
from pneumonia.compression.methods.block import BlockMax, DensityAdaptiveBlocks
from pneumonia.compression.methods.connectivity import PatternConnectivity
from pneumonia.compression.methods.crossbar import Blocks
from pneumonia.compression.methods.irregular import GlobalIrregular, Irregular
from pneumonia.compression.methods.pattern import Patterns
from pneumonia.compression.methods.quantize import BINARY, TERNARY, Quantized
from pneumonia.compression.snap import ProgressiveSnap
from pneumonia.compression.structured import Channels, Columns, Filters

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
    "match_parameters",
]
