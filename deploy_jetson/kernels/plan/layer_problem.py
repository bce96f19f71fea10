"""One convolution or fully connected layer as the generator sees it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia.runtime.errors import ArtefactError, ExportError
from pneumonia.runtime.model.layers import Conv, Linear, pair
from pneumonia.runtime.model.spec import INPUT, NetworkSpec, tensor_shapes

Weights = npt.NDArray[np.float32]
HALF_MAX = 65504.0


class LayerQuantization(NamedTuple):
    """A convolution in int8: value = scale * integer of weights and inputs."""

    integers: npt.NDArray[np.int8]  # (O, I, K, K) int8 weights
    scales: Weights  # (O,) float32 of every filter's weights
    input_scale: float  # of the activations
    zero_point: int  # the activations' uint8 number that stands for 0


class LayerProblem(NamedTuple):
    """One weighted layer with everything the choice of its kernel depends on."""

    layer: Conv | Linear  # the layer
    weight: Weights  # (O, I, K, K) float32; a fully connected layer has K = 1
    # in_height, in_width, out_height, out_width: pixels
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    planar: bool  # whether it reads the network's input, which has one channel per plane
    storage: str = "fp32"  # how its weights are stored, see `weight_store.STORAGES`
    # its int8 weights and scales; None: float32 alone
    quantization: LayerQuantization | None = None

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return int(self.weight.shape[2])

    @property
    def stride(self) -> int:
        """Stride; 1 for a fully connected layer."""
        return pair(self.layer.stride)[0] if isinstance(self.layer, Conv) else 1

    @property
    def padding(self) -> int:
        """Padding; 0 for a fully connected layer."""
        return pair(self.layer.padding)[0] if isinstance(self.layer, Conv) else 0

    @property
    def stride_one_3x3(self) -> bool:
        """Whether it is 3x3 with stride 1 and blocked input, as patterns and Winograd need."""
        return self.kernel == 3 and self.stride == 1 and not self.planar


def problems_of(
    spec: NetworkSpec,
    dense: Mapping[str, Weights],
    storage: str = "fp32",
    quantization: Mapping[str, LayerQuantization] | None = None,
) -> dict[str, LayerProblem]:
    """Every weighted layer's problem; `quantization`: layer name -> its int8 weights.

    Raises:
        ArtefactError: A tensor is missing, has another shape, holds NaN or infinity, or a weight
            that half precision cannot hold.
        ExportError: Batch norm is not folded.
    """
    shapes = spec.shapes()
    _check_tensors(spec, dense)
    found = {}
    for layer in spec.weighted():
        if isinstance(layer, Conv) and layer.batch_norm:
            raise ExportError(
                "Batch norm is not folded", where=f"layer {layer.name!r}",
                fix="Export the run as a bundle first: pneumonia export",
            )  # fmt: skip
        weight = dense[layer.name + ".weight"]
        if weight.ndim == 2:
            weight = weight[:, :, None, None]
        _, in_height, in_width = shapes[layer.inputs[0]]
        _, out_height, out_width = shapes[layer.name]
        planar = layer.inputs[0] == INPUT and not isinstance(layer, Linear)
        found[layer.name] = LayerProblem(
            layer, weight, in_height, in_width, out_height, out_width, planar, storage,
            (quantization or {}).get(layer.name),
        )  # fmt: skip
    if storage == "fp16":
        check_halves(found, "Generate with --weights fp32")
    return found


def check_halves(problems: Mapping[str, LayerProblem], fix: str) -> None:
    """Refuse weights beyond the range of float16.

    Raises:
        ArtefactError: A weight exceeds 65504; `fix` says what to do.
    """
    for name, problem in problems.items():
        largest = np.abs(problem.weight).max(initial=0)
        if largest > HALF_MAX:
            raise ArtefactError(
                "Weights do not fit half precision", f"at most {HALF_MAX:g}", f"{largest:g}",
                f"layer {name!r}", fix,
            )  # fmt: skip


def _check_tensors(spec: NetworkSpec, dense: Mapping[str, Weights]) -> None:
    for name, shape in tensor_shapes(spec).items():
        if name not in dense or dense[name].shape != shape:
            found = "none" if name not in dense else str(dense[name].shape)
            raise ArtefactError("Weights do not fit the network", str(shape), found, repr(name))
        if not np.isfinite(dense[name]).all():
            raise ArtefactError("Weights are not finite", where=repr(name))
