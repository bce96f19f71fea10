"""Network description as data: a list of layer records.

The torch module, the ONNX file, the generated C, the NumPy reference engine and the storage and MAC
tables are all derived from a `NetworkSpec`. It is read and written as JSON with a schema version.

Shapes are `(channels, height, width)`; a flat vector of n features is `(n, 1, 1)`.
Weights are stored separately as named tensors (see `tensor_shapes`), float32 unless said otherwise.
"""

import json
from collections import OrderedDict
from math import isfinite
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type, Union

from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.model.layers import (
    ACTIVATIONS,
    AXES,
    BN_EPS,
    BOX_CODINGS,
    DENSE,
    LEAKY_SLOPE,
    NORMS,
    PAD_MODES,
    UPSAMPLE_MODES,
    Activation,
    Attention,
    AvgPool,
    Constant,
    Conv,
    Crop,
    Detect,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    Multiply,
    Norm,
    Opaque,
    Pad,
    Pair,
    PixelShuffle,
    Reshape,
    Reuse,
    Route,
    Select,
    Shape,
    Shortcut,
    Softmax,
    StorageSpec,
    Upsample,
    Weighted,
    pair,
)
from pneumonia.runtime.model.ops import OPS, layer_shape, op_of, parts_of, shape_error, weight_shape

__all__ = [
    "ACTIVATIONS",
    "BN_EPS",
    "BOX_CODINGS",
    "DENSE",
    "INPUT",
    "LEAKY_SLOPE",
    "STATISTICS",
    "Activation",
    "Attention",
    "AvgPool",
    "Constant",
    "Conv",
    "Crop",
    "Detect",
    "Flatten",
    "GlobalAvgPool",
    "InputSpec",
    "Layer",
    "Linear",
    "MaxPool",
    "Multiply",
    "NetworkSpec",
    "Norm",
    "Opaque",
    "Pad",
    "Pair",
    "PixelShuffle",
    "Reshape",
    "Reuse",
    "Route",
    "Select",
    "Shape",
    "Shortcut",
    "Softmax",
    "StorageSpec",
    "Upsample",
    "Weighted",
    "dense_weight_count",
    "infer_shapes",
    "op_of",
    "pair",
    "parameter_count",
    "parts_of",
    "positions",
    "tensor_shapes",
    "weight_shape",
]  # fmt: skip

SCHEMA = "pneumonia.network/1"
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
    """A whole network.

    Attributes:
        name: Zoo name, for example `yolov3`.
        input: The image the network takes.
        layers: In execution order; a layer may only refer to `input` and to earlier layers.
        outputs: Names of the layers whose values leave the network: Detect layers (raw head maps)
            and any other layer (logits).
        class_names: One per class.
    """

    name: str
    input: InputSpec
    layers: Tuple[Layer, ...]
    outputs: Tuple[str, ...]
    class_names: Tuple[str, ...]

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

    def consumers(self) -> "OrderedDict[str, List[str]]":
        """Layer (or `input`) -> names of the layers that read it."""
        readers = OrderedDict([(INPUT, [])] + [(layer.name, []) for layer in self.layers])  # type: OrderedDict[str, List[str]]
        for layer in self.layers:
            for source in layer.inputs:
                readers[source].append(layer.name)
        return readers

    def shapes(self) -> "OrderedDict[str, Shape]":
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

    def to_json(self) -> str:
        """JSON text with the schema version; `from_json` is its inverse."""
        document = OrderedDict([("schema", SCHEMA), ("name", self.name)])  # type: Dict[str, Any]
        document["input"] = self.input._asdict()
        document["class_names"] = list(self.class_names)
        document["outputs"] = list(self.outputs)
        document["layers"] = [_layer_to_dict(layer) for layer in self.layers]
        return json.dumps(document, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "NetworkSpec":
        """Parse and validate.

        Raises:
            SpecError: Not JSON, another schema, unknown op or field, wrong type, broken graph.
        """
        return _parse(text)


def tensor_shapes(spec: NetworkSpec) -> "OrderedDict[str, Tuple[int, ...]]":
    """Every named tensor of the dense network: name -> shape.

    `L.weight` (O, I / groups, KH, KW) or (O, I); `L.bias` (O,); with batch norm `L.bn_weight`,
    `L.bn_bias`, `L.bn_mean`, `L.bn_var`, each (O,). Norm layers: `L.norm_weight`, `L.norm_bias`,
    `L.norm_mean`, `L.norm_var`, each (C,). Constants: `L.value` (C, H, W). Layers in
    another storage format replace `L.weight` by the tensors of `runtime.storage.packing`.
    """
    return OrderedDict(
        (layer.name + "." + part, shape)
        for layer in spec.layers
        for part, shape in parts_of(layer).items()
    )


def positions(layer: Weighted, shapes: Mapping[str, Shape]) -> int:
    """How often each weight of the layer is multiplied for one image.

    Args:
        layer: A convolution or fully connected layer.
        shapes: Of the network's values, see `infer_shapes`.
    """
    transposed = isinstance(layer, Conv) and layer.transposed
    _, height, width = shapes[layer.inputs[0] if transposed else layer.name]
    return height * width


def _count(tensors: Mapping[str, Sequence[int]]) -> int:
    total = 0
    for shape in tensors.values():
        size = 1
        for extent in shape:
            size *= extent
        total += size
    return total


def dense_weight_count(spec: NetworkSpec) -> int:
    """Places for weights of convolutions and fully connected layers; biases are not weights."""
    shapes = tensor_shapes(spec).items()
    return _count({name: shape for name, shape in shapes if name.endswith(".weight")})


def parameter_count(spec: NetworkSpec) -> int:
    """Trainable parameters of the dense network (batch-norm statistics are not parameters)."""
    shapes = tensor_shapes(spec).items()
    return _count({k: shape for k, shape in shapes if not k.endswith(STATISTICS)})


def infer_shapes(spec: NetworkSpec) -> "OrderedDict[str, Shape]":
    """Output shape of the input and every layer.

    Raises:
        SpecError: Duplicate or unknown names, wrong input counts, shapes that do not fit.
    """
    shapes = OrderedDict()  # type: OrderedDict[str, Shape]
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


# --- JSON -------------------------------------------------------------------------------------


def _layer_to_dict(layer: Layer) -> Dict[str, Any]:
    record = OrderedDict([("op", op_of(layer))])  # type: Dict[str, Any]
    defaults = type(layer)._field_defaults
    for key, value in layer._asdict().items():
        if key in defaults and defaults[key] == value:
            continue
        record[key] = value._asdict() if isinstance(value, StorageSpec) else value
    return record


_CHOICES = {
    "activation": ACTIVATIONS, "function": ACTIVATIONS, "box_coding": BOX_CODINGS, "kind": NORMS,
    "axis": AXES,
}  # type: Dict[str, Tuple[str, ...]]  # fmt: skip
_MODES = {Pad: PAD_MODES, Upsample: UPSAMPLE_MODES}  # type: Dict[Type[Any], Tuple[str, ...]]
_POSITIVE = (
    "in_channels", "out_channels", "channels", "height", "width", "kernel", "stride", "scale",
    "groups", "dilation", "heads",
)  # fmt: skip


def _reject(what: str, expected: str, found: object, where: str) -> SpecError:
    return SpecError(what, expected=expected, found=repr(found)[:80], where=where)


def _names(value: Any, where: str) -> Tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _reject("Not a list of names", "a list of strings", value, where)
    return tuple(value)


def _anchors(value: Any, where: str) -> Tuple[Tuple[float, float], ...]:
    pairs = []
    for anchor in value if isinstance(value, list) else [None]:
        if (
            not isinstance(anchor, list)
            or len(anchor) != 2
            or not all(isinstance(side, (int, float)) and 0 < side < 1e9 for side in anchor)
        ):
            raise _reject("Not a list of anchors", "[[width, height], ...]", value, where)
        pairs.append((float(anchor[0]), float(anchor[1])))
    return tuple(pairs)


def _record(cls: Type[Any], value: Any, where: str) -> Any:
    """Build a NamedTuple of this module from a JSON object, checking names and types."""
    if not isinstance(value, dict):
        raise _reject("Not a record", "a JSON object", value, where)
    hints = cls.__annotations__
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise _reject("Unknown field", ", ".join(hints), unknown[0], where)
    fields = {}
    for key, hint in hints.items():
        if key not in value:
            if key not in cls._field_defaults:
                raise SpecError("Field is missing", expected=repr(key), where=where)
            continue
        fields[key] = _field(key, hint, value[key], where)
    return cls(**fields)


def _field(key: str, hint: Any, value: Any, where: str) -> Any:
    place = "{}, field {!r}".format(where, key)
    if hint in (bool, str, int, float):
        value = _scalar(key, hint, value, place)
        if key in _CHOICES and value not in _CHOICES[key]:
            what = "Unknown " + key.replace("_", " ")
            raise _reject(what, ", ".join(_CHOICES[key]), value, place)
        return value
    if hint is StorageSpec:
        return _record(StorageSpec, value, place)
    if key == "anchors":
        return _anchors(value, place)
    if hint == Pair and not isinstance(value, list):
        return _scalar(key, int, value, place)
    if hint in (Pair, Tuple[int, ...]):
        return _numbers(key if hint == Pair else "", value, place, 2 if hint == Pair else None)
    return _names(value, place)


def _numbers(key: str, value: Any, place: str, count: Optional[int]) -> Tuple[int, ...]:
    if not isinstance(value, list) or count not in (None, len(value)):
        raise _reject("Not a list of numbers", "a list of whole numbers", value, place)
    return tuple(_scalar(key, int, item, place) for item in value)


def _scalar(key: str, hint: Any, value: Any, place: str) -> Any:
    if hint is bool or hint is str:
        if not isinstance(value, hint):
            raise _reject("Wrong type", hint.__name__, value, place)
        return value
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _reject("Wrong type", "a whole number >= 0", value, place)
        if value == 0 and key in _POSITIVE:
            raise _reject("Number is zero", ">= 1", value, place)
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise _reject("Wrong type", "a finite number", value, place)
    if value <= 0 and key == "std":
        raise _reject("Number is not positive", "> 0", value, place)
    return float(value)


def _parse_layer(value: Any, index: int) -> Layer:
    where = "layers[{}]".format(index)
    if not isinstance(value, dict) or "op" not in value:
        raise _reject("Not a layer", "an object with 'op'", value, where)
    if not isinstance(value["op"], str) or value["op"] not in OPS:
        raise _reject("Unknown op", ", ".join(OPS), value["op"], where)
    fields = {key: item for key, item in value.items() if key != "op"}
    where = "{} {!r}".format(where, fields.get("name", "?"))
    record: Layer = _record(OPS[value["op"]].record, fields, where)
    modes = _MODES.get(type(record), ())
    if modes and record.mode not in modes:  # type: ignore[union-attr]
        raise _reject("Unknown mode", ", ".join(modes), record.mode, where)  # type: ignore[union-attr]
    return record


def _parse(text: str) -> NetworkSpec:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError("Network description is not JSON", found=str(error)) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise SpecError(
            "Network description has another schema", expected=repr(SCHEMA), found=repr(found)
        )
    missing = {"name", "input", "layers", "outputs", "class_names"} - set(document)
    if missing or not isinstance(document["layers"], list):
        raise SpecError("Network description is incomplete", found="no " + str(sorted(missing)))
    spec = NetworkSpec(
        name=_field("name", str, document["name"], "network"),
        input=_record(InputSpec, document["input"], "input"),
        layers=tuple(_parse_layer(item, i) for i, item in enumerate(document["layers"])),
        outputs=_names(document["outputs"], "outputs"),
        class_names=_names(document["class_names"], "class_names"),
    )
    infer_shapes(spec)
    return spec
