"""Networks of one's own: import, pruning, and the way back, as `import pneumonia` offers them."""

from pneumonia.compression.admm.any_network import NetworkPruning
from pneumonia.compression.prune.depth_method import DepthMethod
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.exporting.onnx_file import write_onnx
from pneumonia.network.to_torch import to_torch
from pneumonia.network.torch_import.imported import ImportedNetwork, from_torch

__all__ = [
    "DepthMethod",
    "ImportedNetwork",
    "NetworkPruning",
    "StructuredMethod",
    "from_torch",
    "to_torch",
    "write_onnx",
]
