"""A pneumonia detector for embedded devices: train, prune with ADMM, export, score.

The names of `__all__` are the public API (docs/reference/python-api.md). Importing this package
imports nothing else: a name is loaded from its module of `pneumonia.api` at its first use.
Research use only. Not a medical device.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing it
if TYPE_CHECKING:
    from typing import Any

    from pneumonia.api.comparison import ComparedModel, CompareOptions, compare
    from pneumonia.api.compression import (
        BINARY,
        TERNARY,
        Admm,
        AdmmResidual,
        BlockMax,
        Blocks,
        Channels,
        Columns,
        Combined,
        Constraint,
        DensityAdaptiveBlocks,
        Filters,
        GlobalIrregular,
        Irregular,
        ModuleCompression,
        PatternConnectivity,
        Patterns,
        PerLayer,
        ProgressiveSnap,
        Projection,
        Quantized,
        conductance_step,
        conductances,
        match_parameters,
        plan_bits,
    )
    from pneumonia.api.detection import (
        Detection,
        Detector,
        PneumoniaError,
        Radiograph,
        read_radiograph,
    )
    from pneumonia.api.evaluation import EvaluateOptions, EvaluateResult, evaluate
    from pneumonia.api.int8 import Int8Options, Int8Result, quantize_int8
    from pneumonia.api.own_network import (
        DepthMethod,
        ImportedNetwork,
        NetworkPruning,
        StructuredMethod,
        from_torch,
        to_torch,
        write_onnx,
    )
    from pneumonia.api.runs import (
        ExportOptions,
        RunOptions,
        compile_kernels,
        export,
        prune,
        quantize,
        train,
    )

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
    "write_onnx",
]
_MODULES = {
    "comparison": ("ComparedModel", "CompareOptions", "compare"),
    "detection": ("Detection", "Detector", "PneumoniaError", "Radiograph", "read_radiograph"),
    "evaluation": ("EvaluateOptions", "EvaluateResult", "evaluate"),
    "int8": ("Int8Options", "Int8Result", "quantize_int8"),
    "own_network": (
        "DepthMethod",
        "ImportedNetwork",
        "NetworkPruning",
        "StructuredMethod",
        "from_torch",
        "to_torch",
        "write_onnx",
    ),
    "runs": (
        "ExportOptions",
        "RunOptions",
        "compile_kernels",
        "export",
        "prune",
        "quantize",
        "train",
    ),
}  # every other name is in `compression`


def __getattr__(name: str) -> "Any":
    """Load a public name at its first use (PEP 562)."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = [module for module, names in _MODULES.items() if name in names]
    module = importlib.import_module("pneumonia.api." + (homes[0] if homes else "compression"))
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> "list[str]":
    return sorted([*__all__, "__version__"])
