"""The public names of `pneumonia`: read by type checkers, and by `__init__.py` to load them."""

__version__: str

from data_prep.importing.assemble import DatasetOptions as DatasetOptions
from data_prep.importing.own_images import (
    OwnImageOptions as OwnImageOptions,
    import_own_images as import_own_images,
)
from data_prep.importing.rsna import ImportOptions as ImportOptions, import_rsna as import_rsna
from data_prep.phantom.study import make_phantoms as make_phantoms
from deploy_jetson.kernels.bundle import KernelsResult as KernelsResult
from evaluation.report.comparison_page import CompareReport as CompareReport
from pneumonia.api.comparison import (
    ComparedModel as ComparedModel,
    CompareOptions as CompareOptions,
    compare as compare,
)
from pneumonia.api.evaluation import (
    EvaluateOptions as EvaluateOptions,
    EvaluateResult as EvaluateResult,
    evaluate as evaluate,
)
from pneumonia.api.int8 import (
    Int8Options as Int8Options,
    Int8Result as Int8Result,
    quantize_int8 as quantize_int8,
)
from pneumonia.api.kernel_library import KernelFile as KernelFile, write_kernels as write_kernels
from pneumonia.api.runs import (
    RunOptions as RunOptions,
    compile_kernels as compile_kernels,
    finetune as finetune,
    prune as prune,
    quantize as quantize,
    train as train,
)
from pneumonia.compression.admm.any_module import (
    ModuleCompression as ModuleCompression,
    match_parameters as match_parameters,
)
from pneumonia.compression.network_pruning import NetworkPruning as NetworkPruning
from pneumonia.compression.admm.engine import Admm as Admm, AdmmResidual as AdmmResidual
from pneumonia.compression.prune.depth_method import DepthMethod as DepthMethod
from pneumonia.compression.prune.structured_method import StructuredMethod as StructuredMethod
from pneumonia.compression.quantize.bit_serial import plan_bits as plan_bits
from pneumonia.compression.quantize.snap import ProgressiveSnap as ProgressiveSnap
from pneumonia.compression.sets.block import (
    BlockMax as BlockMax,
    DensityAdaptiveBlocks as DensityAdaptiveBlocks,
)
from pneumonia.compression.sets.combined import Combined as Combined
from pneumonia.compression.sets.constraint import (
    Constraint as Constraint,
    PerLayer as PerLayer,
    Projection as Projection,
)
from pneumonia.compression.sets.crossbar import (
    Blocks as Blocks,
    conductance_step as conductance_step,
    conductances as conductances,
)
from pneumonia.compression.sets.levels import (
    BINARY as BINARY,
    TERNARY as TERNARY,
    Quantized as Quantized,
)
from pneumonia.compression.sets.pattern import (
    PatternConnectivity as PatternConnectivity,
    Patterns as Patterns,
)
from pneumonia.compression.sets.units import (
    Channels as Channels,
    Columns as Columns,
    Filters as Filters,
    GlobalIrregular as GlobalIrregular,
    Irregular as Irregular,
)
from pneumonia.compression.prune.recipe import (
    FineTuneRecipe as FineTuneRecipe,
    PruneRecipe as PruneRecipe,
)
from pneumonia.compression.quantize.recipe import QuantizeRecipe as QuantizeRecipe
from pneumonia.compression.result import CompressionResult as CompressionResult
from pneumonia.exporting.bundle import (
    ExportOptions as ExportOptions,
    ExportResult as ExportResult,
    export as export,
)
from pneumonia.exporting.onnx_file import write_onnx as write_onnx
from pneumonia.network.to_torch import to_torch as to_torch
from pneumonia.network.torch_import.imported import (
    ImportedNetwork as ImportedNetwork,
    from_torch as from_torch,
)
from pneumonia.runtime.errors import PneumoniaError as PneumoniaError
from pneumonia.runtime.image.radiograph import (
    Radiograph as Radiograph,
    read_radiograph as read_radiograph,
)
from pneumonia.runtime.detection.detector import Detection as Detection, Detector as Detector
from pneumonia.scoring.batch.run import ScoreSummary as ScoreSummary, score_batch as score_batch
from pneumonia.scoring.outputs import OutputSettings as OutputSettings
from pneumonia.scoring.settings import ScoreSettings as ScoreSettings
from pneumonia.training.config import TrainRecipe as TrainRecipe
from pneumonia.training.loop import FitResult as FitResult
