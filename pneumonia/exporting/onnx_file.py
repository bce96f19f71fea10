"""One network as an ONNX file, checked against torch."""

from pathlib import Path

from pneumonia.exporting.onnx_check import OnnxReport, check_onnx
from pneumonia.exporting.onnx_graph import emit_onnx
from pneumonia.network.fold import fold_batch_norm
from pneumonia.network.module import Network, check_network
from pneumonia.runtime.atomic import write_bytes


def write_onnx(network: Network, path: str | Path, batch: int = 1) -> OnnxReport:
    """Write a network as ONNX (opset 13, batch norm folded) and check it with onnxruntime.

    Args:
        network: Of `from_torch` or of this package.
        path: The file.
        batch: The fixed number of images of its input.

    Returns:
        Ops, versions and the largest difference to torch.

    Raises:
        ExportError: A layer has no ONNX form (it is named), or the numbers differ.
        OutputError: The file cannot be written.
        ConfigError: The network is a plain torch module.
    """
    check_network(network)
    tensors = {name: tensor.cpu() for name, tensor in network.tensors().items()}
    folded, values = fold_batch_norm(network.spec, tensors)
    graph = emit_onnx(folded, {name: tensor.numpy() for name, tensor in values.items()}, batch)
    write_bytes(str(path), graph.model.SerializeToString())
    return check_onnx(Path(path), network.spec, tensors, batch)
