"""Network description as data: a list of layer records.

The torch module, the ONNX file, the generated C, the NumPy reference engine and the storage and MAC
tables are all derived from a `NetworkSpec`; `spec_json` reads and writes it as JSON.

Shapes are `(channels, height, width)`; a flat vector of n features is `(n, 1, 1)`.
Weights are stored separately as named tensors (see `tensor_shapes`), float32 unless said otherwise.
"""

from typing import Dict, List, Mapping, NamedTuple, Tuple, Union

from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.model.layers import (
    DENSE,
    Conv,
    Detect,
    Flatten,
    Layer,
    Linear,
    Reuse,
    Shape,
    Weighted,
)
from pneumonia.runtime.model.ops import layer_shape, parts_of, shape_error, weight_shape

STATISTICS = (".bn_mean", ".bn_var", ".norm_mean", ".norm_var")  # tensors that are not parameters
INPUT = "input"  # the name by which layers refer to the network's input


class InputSpec(NamedTuple):
    """The network's input: one letterboxed image.

    A grey image x in 0..255 enters as `(x / 255 - mean) / std`, repeated over `channels`.
    """

    channels: int
    height: int
    width: int
    mean: float = 0.0
    std: float = 1.0
    pad_value: int = 0


class NetworkSpec(NamedTuple):
    """A whole network."""

    name: str  # zoo name, for example `yolov3`
    input: InputSpec  # the image the network takes
    # in execution order; a layer may only refer to `input` and to earlier layers
    layers: Tuple[Layer, ...]
    # names of the layers whose values leave the network: Detect layers (raw head maps) and any
    # other layer (logits)
    outputs: Tuple[str, ...]
    class_names: Tuple[str, ...]  # one per class

    def layer(self, name: str) -> Layer:
        """The layer of that name; raises SpecError naming the known ones otherwise."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise SpecError(
            "Unknown layer",
            expected="one of " + ", ".join(layer.name for layer in self.layers),
            found=repr(name),
            where="network {!r}".format(self.name),
        )

    def weighted(self) -> List[Union[Conv, Linear]]:
        """Convolutions and fully connected layers, in execution order."""
        return [layer for layer in self.layers if isinstance(layer, (Conv, Linear))]

    def executed(self, layer: Layer) -> Layer:
        """What the layer computes: of a `Reuse`, the repeated layer on the other input."""
        if not isinstance(layer, Reuse):
            return layer
        return self.layer(layer.layer)._replace(inputs=layer.inputs)

    def detect_layers(self) -> List[Detect]:
        """The detection heads, in execution order."""
        return [layer for layer in self.layers if isinstance(layer, Detect)]

    def consumers(self) -> Dict[str, List[str]]:
        """Layer (or `input`) -> names of the layers that read it."""
        readers: Dict[str, List[str]] = {
            name: [] for name in [INPUT] + [layer.name for layer in self.layers]
        }
        for layer in self.layers:
            for source in layer.inputs:
                readers[source].append(layer.name)
        return readers

    def shapes(self) -> Dict[str, Shape]:
        """Output shape (C, H, W) of the input and of every layer; raises SpecError."""
        return infer_shapes(self)

    def replace_layers(self, changes: Mapping[str, Layer]) -> "NetworkSpec":
        """A copy in which the named layers are replaced."""
        return self._replace(layers=tuple(changes.get(layer.name, layer) for layer in self.layers))

    def densely_stored(self) -> "NetworkSpec":
        """The same network with dense storage in every layer."""
        return self.replace_layers(
            {layer.name: layer._replace(storage=DENSE) for layer in self.weighted()}
        )


def tensor_shapes(spec: NetworkSpec) -> Dict[str, Tuple[int, ...]]:
    """Every named tensor of the dense network: name -> shape.

    `L.weight` (O, I / groups, KH, KW) or (O, I); `L.bias` (O,); with batch norm `L.bn_weight`,
    `L.bn_bias`, `L.bn_mean`, `L.bn_var`, each (O,). Norm layers: `L.norm_weight`, `L.norm_bias`,
    `L.norm_mean`, `L.norm_var`, each (C,). Constants: `L.value` (C, H, W). Layers in
    another storage format replace `L.weight` by the tensors of `runtime.storage.packing`.
    """
    return {
        layer.name + "." + part: shape
        for layer in spec.layers
        for part, shape in parts_of(layer).items()
    }


def output_shape(spec: NetworkSpec, name: str) -> Tuple[int, ...]:
    """Shape of one image's value of an output: (C, H, W), or (n,) for linear and flatten layers."""
    shape = spec.shapes()[name]
    flat = (
        name != INPUT
        and shape[1:] == (1, 1)
        and isinstance(spec.executed(spec.layer(name)), (Linear, Flatten))
    )
    return shape[:1] if flat else shape


def positions(layer: Weighted, shapes: Mapping[str, Shape]) -> int:
    """How often each weight of the layer is multiplied for one image.

    Args:
        layer: A convolution or fully connected layer.
        shapes: Of the network's values, see `infer_shapes`.
    """
    transposed = isinstance(layer, Conv) and layer.transposed
    _, height, width = shapes[layer.inputs[0] if transposed else layer.name]
    return height * width


def dense_weight_count(spec: NetworkSpec) -> int:
    """Places for weights of convolutions and fully connected layers; biases are not weights."""
    total = 0
    for layer in spec.weighted():
        size = 1
        for extent in weight_shape(layer):
            size *= extent
        total += size
    return total


def infer_shapes(spec: NetworkSpec) -> Dict[str, Shape]:
    """Output shape of the input and every layer.

    Raises:
        SpecError: Duplicate or unknown names, wrong input counts, shapes that do not fit.
    """
    shapes: Dict[str, Shape] = {}
    shapes[INPUT] = (spec.input.channels, spec.input.height, spec.input.width)
    seen = set()
    for layer in spec.layers:
        if layer.name in shapes:
            raise SpecError("Layer name is used twice", found=repr(layer.name))
        for source in layer.inputs:
            if source not in shapes:
                raise shape_error(
                    layer, "Input is not an earlier layer", "an earlier layer", repr(source)
                )
        if isinstance(layer, Reuse) and layer.layer not in seen:
            raise shape_error(layer, "Layer to repeat", "an earlier layer", repr(layer.layer))
        runs = spec.executed(layer)
        shapes[layer.name] = layer_shape(runs, [shapes[source] for source in layer.inputs])
        if not isinstance(layer, Reuse):
            seen.add(layer.name)
    for output in spec.outputs:
        if output not in shapes:
            raise SpecError("Output is not a layer", found=repr(output))
    return shapes
