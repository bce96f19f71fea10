"""A pneumonia detector for embedded devices: train, prune with ADMM, export, score.

The names of `__all__` are the public API (docs/reference/python-api.md). Importing this package
imports nothing else: a name is loaded from the module that defines it at its first use.
Research use only. Not a medical device.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing it
if TYPE_CHECKING:
    from typing import Any

    from pneumonia.api.comparison import ComparedModel, CompareOptions, compare
    from pneumonia.api.evaluation import EvaluateOptions, EvaluateResult, evaluate
    from pneumonia.api.int8 import Int8Options, Int8Result, quantize_int8
    from pneumonia.api.kernel_library import KernelFile, write_kernels
    from pneumonia.api.runs import (
        ExportOptions,
        RunOptions,
        compile_kernels,
        export,
        prune,
        quantize,
        train,
    )
    from pneumonia.compression.admm.any_module import ModuleCompression, match_parameters
    from pneumonia.compression.admm.any_network import NetworkPruning
    from pneumonia.compression.admm.engine import Admm, AdmmResidual
    from pneumonia.compression.prune.depth_method import DepthMethod
    from pneumonia.compression.prune.structured_method import StructuredMethod
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
    from pneumonia.exporting.onnx_file import write_onnx
    from pneumonia.network.to_torch import to_torch
    from pneumonia.network.torch_import.imported import ImportedNetwork, from_torch
    from pneumonia.runtime.errors import PneumoniaError
    from pneumonia.runtime.image.radiograph import Radiograph, read_radiograph
    from pneumonia.runtime.model.detector import Detection, Detector

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
    "CompareOptions",
    "ComparedModel",
    "Constraint",
    "DensityAdaptiveBlocks",
    "DepthMethod",
    "Detection",
    "Detector",
    "EvaluateOptions",
    "EvaluateResult",
    "ExportOptions",
    "Filters",
    "GlobalIrregular",
    "ImportedNetwork",
    "Int8Options",
    "Int8Result",
    "Irregular",
    "KernelFile",
    "ModuleCompression",
    "NetworkPruning",
    "PatternConnectivity",
    "Patterns",
    "PerLayer",
    "PneumoniaError",
    "ProgressiveSnap",
    "Projection",
    "Quantized",
    "Radiograph",
    "RunOptions",
    "StructuredMethod",
    "compare",
    "compile_kernels",
    "conductance_step",
    "conductances",
    "evaluate",
    "export",
    "from_torch",
    "match_parameters",
    "plan_bits",
    "prune",
    "quantize",
    "quantize_int8",
    "read_radiograph",
    "to_torch",
    "train",
    "write_kernels",
    "write_onnx",
]
_NAMES = {  # module -> the public names that it defines
    "api.comparison": ("ComparedModel", "CompareOptions", "compare"),
    "api.evaluation": ("EvaluateOptions", "EvaluateResult", "evaluate"),
    "api.int8": ("Int8Options", "Int8Result", "quantize_int8"),
    "api.kernel_library": ("KernelFile", "write_kernels"),
    "api.runs": (
        "ExportOptions",
        "RunOptions",
        "compile_kernels",
        "export",
        "prune",
        "quantize",
        "train",
    ),
    "compression.admm.any_module": ("ModuleCompression", "match_parameters"),
    "compression.admm.any_network": ("NetworkPruning",),
    "compression.admm.engine": ("Admm", "AdmmResidual"),
    "compression.prune.depth_method": ("DepthMethod",),
    "compression.prune.structured_method": ("StructuredMethod",),
    "compression.quantize.bit_serial": ("plan_bits",),
    "compression.quantize.snap": ("ProgressiveSnap",),
    "compression.sets.block": ("BlockMax", "DensityAdaptiveBlocks"),
    "compression.sets.combined": ("Combined",),
    "compression.sets.constraint": ("Constraint", "PerLayer", "Projection"),
    "compression.sets.crossbar": ("Blocks", "conductance_step", "conductances"),
    "compression.sets.irregular": ("GlobalIrregular", "Irregular"),
    "compression.sets.levels": ("BINARY", "TERNARY", "Quantized"),
    "compression.sets.pattern": ("PatternConnectivity", "Patterns"),
    "compression.sets.structured": ("Channels", "Columns", "Filters"),
    "exporting.onnx_file": ("write_onnx",),
    "network.to_torch": ("to_torch",),
    "network.torch_import.imported": ("ImportedNetwork", "from_torch"),
    "runtime.errors": ("PneumoniaError",),
    "runtime.image.radiograph": ("Radiograph", "read_radiograph"),
    "runtime.model.detector": ("Detection", "Detector"),
}


def __getattr__(name: str) -> "Any":
    """Load a public name at its first use (PEP 562)."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next(module for module, names in _NAMES.items() if name in names)
    value = getattr(importlib.import_module("pneumonia." + home), name)
    globals()[name] = value
    return value


def __dir__() -> "list[str]":
    return sorted([*__all__, "__version__"])
