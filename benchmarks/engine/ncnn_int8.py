"""An int8 network for ncnn, of its float32 files and the integers of a quantized ONNX file.

The wheel of ncnn has no converter (`ncnn2int8` is a program of its source tree); what that program
writes is little: weights as bytes, then the scales. ncnn's activations are symmetric: of the
calibrated range the larger end becomes 127.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy_jetson.kernels.plan.layer_problem import LayerQuantization

INT8_TAG = 0x000D4B38  # in front of weights of one byte each; 0 in front of float32
OUTPUTS, BIAS, WEIGHTS, SCALES = "0", "5", "6", "8"  # keys of a convolution's parameters
HAS_SCALES = 2  # of the filters and of the input
HIGHEST = 127
Weights = np.ndarray[Any, np.dtype[np.float32]]


def write_int8(
    source: Path,
    out: Path,
    tensors: Mapping[str, Weights],
    integers: Mapping[str, LayerQuantization],
) -> int:
    """Write OUT.ncnn.param and OUT.ncnn.bin; returns the number of int8 convolutions.

    Args:
        source: Float32 files of pnnx without their endings; all weights are convolutions'.
        out: The same for the files to write.
        tensors: `NAME.weight` of every layer, by which ncnn's layers are recognised.
        integers: Layer name -> int8 weights; other convolutions stay float32.
    """
    name_of = {
        np.ascontiguousarray(value).tobytes(): key.removesuffix(".weight")
        for key, value in tensors.items() if key.endswith(".weight")
    }  # fmt: skip
    data = Path(f"{source}.ncnn.bin").read_bytes()
    lines, parts, at, found = [], [], 0, 0
    for line in Path(f"{source}.ncnn.param").read_text().splitlines():
        words = line.split()
        if words[0] != "Convolution":
            lines.append(line)
            continue
        values = dict(word.split("=") for word in words if "=" in word)
        weight_end = at + 4 + 4 * int(values[WEIGHTS])
        end = weight_end + 4 * int(values[OUTPUTS]) * int(values.get(BIAS, "0"))
        weight, bias = data[at + 4 : weight_end], data[weight_end:end]
        quantization = integers.get(name_of[weight])
        if quantization is None:
            lines.append(line)
            parts.append(data[at:end])
        else:
            lines.append(f"{line} {SCALES}={HAS_SCALES}")
            parts.append(_convolution(quantization, bias))
            found += 1
        at = end
    assert at == len(data), "only convolutions have weights"
    Path(f"{out}.ncnn.param").write_text("\n".join([*lines, ""]))
    Path(f"{out}.ncnn.bin").write_bytes(b"".join(parts))
    return found


def _convolution(quantization: LayerQuantization, bias: bytes) -> bytes:
    """Tag, weights, bias, scales of the filters and of the input."""
    weights = quantization.integers.astype(np.int8).tobytes()
    zero_point = quantization.zero_point
    largest = quantization.input_scale * max(zero_point, 255 - zero_point)
    scales = np.append(1 / quantization.scales, HIGHEST / largest).astype(np.float32)
    padding = bytes(-len(weights) % 4)
    return np.uint32(INT8_TAG).tobytes() + weights + padding + bias + scales.tobytes()
