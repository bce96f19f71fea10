"""One network as an ONNX file, checked against torch."""

import numbers
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from pneumonia.exporting.onnx_graph import ALLOWED_OPS, IR_VERSION, OPSET, emit_onnx
from pneumonia.network.batch_norm import fold_batch_norm
from pneumonia.network.module import Network, check_network
from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.engines.comparison import relative_error
from pneumonia.runtime.errors import ExportError
from pneumonia.runtime.model.spec import INPUT, InputSpec, NetworkSpec

TOLERANCE = 1e-4
SEED = 20180726


class OnnxReport(NamedTuple):
    """Properties of a file that passed the checks."""

    opset: int  # read back from the file
    ir_version: int  # read back from the file
    ops: dict[str, int]  # how often each op occurs
    # largest difference to torch over all outputs, relative to the largest magnitude of that output
    relative_error: float


def check_format(path: Path, further_ops: Collection[str] = ()) -> tuple[int, int, dict[str, int]]:
    """Opset, IR version and ops of the file as written.

    Args:
        further_ops: Ops that TensorRT 8.2 need not take.

    Raises:
        ExportError: Not valid ONNX, or something TensorRT 8.2 does not take.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf, checker and shape inference share no other base
        raise ExportError(
            "ONNX file is not valid", found=str(error)[:200], where=str(path)
        ) from None
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets != {"ai.onnx": OPSET} or model.ir_version > IR_VERSION:
        raise ExportError(
            "ONNX file has another version",
            expected=f"opset {OPSET}, IR <= {IR_VERSION}",
            found=f"{opsets}, IR {model.ir_version}",
            where=str(path),
        )
    for node in model.graph.node:
        if node.op_type not in ALLOWED_OPS and node.op_type not in further_ops:
            raise ExportError(
                "Op is not on the list of TensorRT 8.2",
                expected=", ".join(sorted(ALLOWED_OPS)),
                found=repr(node.op_type),
                where=f"node {node.name!r}",
            )
    ops = dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
    return opsets["ai.onnx"], model.ir_version, ops


def check_batch(batch: object) -> None:
    """Raise ExportError for a batch that is not a number of images."""
    if not isinstance(batch, numbers.Integral) or batch < 1:
        raise ExportError("Batch is a count of images", expected="an int >= 1", found=repr(batch))


def check_onnx(
    path: Path,
    spec: NetworkSpec,
    tensors: Mapping[str, Tensor],
    batch: int,
    further_ops: Collection[str] = (),
) -> OnnxReport:
    """Check a file's format, and its numbers in onnxruntime against torch.

    Args:
        spec: The network before folding, so that folding is part of what is proved.
        batch: Images of the graph's input.
        further_ops: Ops that TensorRT 8.2 need not take.

    Raises:
        ExportError: Wrong format, or an output that differs by more than TOLERANCE.
    """
    opset, ir_version, ops = check_format(path, further_ops)
    images = sample_input(spec.input, batch)
    expected = _torch_outputs(spec, tensors, images)
    found = _onnxruntime_outputs(path, images)
    error = 0.0
    for name in spec.outputs:
        if name not in found or found[name].shape != expected[name].shape:
            raise ExportError(
                "ONNX output has another shape",
                expected=str(expected[name].shape),
                found=str(found[name].shape) if name in found else "no such output",
                where=f"output {name!r}",
            )
        difference = relative_error(found[name], expected[name])
        if not difference <= TOLERANCE:
            raise ExportError(
                "ONNX and torch disagree",
                expected=f"a relative difference <= {TOLERANCE:g}",
                found=f"{difference:.3g}",
                where=f"output {name!r}",
            )
        error = max(error, difference)
    return OnnxReport(opset, ir_version, ops, error)


def sample_input(spec: InputSpec, batch: int) -> NDArray[np.float32]:
    """Random network inputs, float32 (batch, C, H, W): grey noise over grey blocks."""
    generator = np.random.default_rng(SEED)
    coarse = generator.random((batch, 1, -(-spec.height // 16), -(-spec.width // 16)))
    blocks = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, : spec.height, : spec.width]
    noise = generator.random((batch, 1, spec.height, spec.width))
    grey = ((0.7 * blocks + 0.3 * noise) - spec.mean) / spec.std
    return np.ascontiguousarray(grey.repeat(spec.channels, axis=1), dtype=np.float32)


def _torch_outputs(
    spec: NetworkSpec, tensors: Mapping[str, Tensor], images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    network = Network(spec, tensors).eval()
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images))
    return {name: value.numpy() for name, value in outputs.items()}


def _onnxruntime_outputs(path: Path, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {INPUT: images})
    except Exception as error:  # onnxruntime's own exceptions share no base but this one
        raise ExportError(
            "onnxruntime cannot run the file", found=str(error)[:200], where=str(path)
        ) from None
    return dict(zip(names, values, strict=True))


def write_onnx(network: Network, path: str | Path, batch: int = 1) -> OnnxReport:
    """Write a network as ONNX (opset 13, batch norm folded) and check it with onnxruntime.

    Args:
        network: Of `from_torch` or of this package.
        path: The file.
        batch: The fixed number of images of its input.

    Returns:
        Ops, versions and the largest difference to torch.

    Raises:
        ExportError: A layer has no ONNX form (it is named), the numbers differ (then nothing is
            written), or the batch is not a number of images.
        OutputError: The file cannot be written.
        ConfigError: The network is a plain torch module.
    """
    check_network(network)
    check_batch(batch)
    tensors = {name: tensor.cpu() for name, tensor in network.tensors().items()}
    folded, values = fold_batch_norm(network.spec, tensors)
    graph = emit_onnx(folded, {name: tensor.numpy() for name, tensor in values.items()}, batch)
    content = graph.model.SerializeToString()
    with TemporaryDirectory() as folder:  # a file that fails the check replaces nothing
        draft = Path(folder) / "model.onnx"
        write_bytes(str(draft), content)
        report = check_onnx(draft, network.spec, tensors, batch)
    write_bytes(str(path), content)
    return report
