"""Network description as data: a list of layer records.

The torch module, the ONNX file, the generated C, the NumPy reference engine and the storage and MAC
tables are all derived from a `NetworkSpec`. It is read and written as JSON with a schema version.

Shapes are `(channels, height, width)`; a flat vector of n features is `(n, 1, 1)`.
Weights are stored separately as named tensors (see `tensor_shapes`), float32 unless said otherwise.
"""

import json
from collections import OrderedDict
from math import isfinite
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple, Type, Union

from pneumonia.runtime.errors import SpecError

SCHEMA = "pneumonia.network/1"
INPUT = "input"  # the name by which layers refer to the network's input
ACTIVATIONS = ("linear", "leaky_relu", "relu")
LEAKY_SLOPE = 0.1
BN_EPS = 1e-5
BOX_CODINGS = ("darknet", "scaled")

Shape = Tuple[int, int, int]


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


class StorageSpec(NamedTuple):
    """How a layer's weight is stored; `runtime.storage.packing` decodes every format to dense.

    Attributes:
        format: `dense`, `columns`, ... (the keys of `runtime.storage.FORMATS`).
        group_size: Filters that share one list of kept columns; 0 = all filters of the layer.
        n_kept: Weights actually stored.
        bits: Bits of one stored weight.
    """

    format: str = "dense"
    group_size: int = 0
    n_kept: int = 0
    bits: int = 32


DENSE = StorageSpec()


class Conv(NamedTuple):
    """Square 2-D convolution, then optional batch norm, then the activation.

    Weight OIHW. `bias` and `batch_norm` exclude each other in the zoo but need not.
    """

    name: str
    inputs: Tuple[str, ...]
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    bias: bool = True
    batch_norm: bool = False
    activation: str = "linear"
    storage: StorageSpec = DENSE


class Linear(NamedTuple):
    """Fully connected layer over a flat input; weight (O, I), treated as (O, I, 1, 1)."""

    name: str
    inputs: Tuple[str, ...]
    in_channels: int
    out_channels: int
    bias: bool = True
    activation: str = "linear"
    storage: StorageSpec = DENSE


class Shortcut(NamedTuple):
    """Element-wise sum of equally shaped inputs, then the activation."""

    name: str
    inputs: Tuple[str, ...]
    activation: str = "linear"


class Route(NamedTuple):
    """Concatenation over channels, in the order of `inputs`; one input is the identity."""

    name: str
    inputs: Tuple[str, ...]


class Upsample(NamedTuple):
    """Nearest-neighbour upsampling by an integer."""

    name: str
    inputs: Tuple[str, ...]
    scale: int = 2


class MaxPool(NamedTuple):
    """Max pooling; the padding may differ at the two ends (Darknet's size 2, stride 1 pool)."""

    name: str
    inputs: Tuple[str, ...]
    kernel: int
    stride: int
    pad_begin: int = 0
    pad_end: int = 0


class GlobalAvgPool(NamedTuple):
    """Mean over height and width: (C, H, W) -> (C, 1, 1)."""

    name: str
    inputs: Tuple[str, ...]


class Flatten(NamedTuple):
    """(C, H, W) -> (C*H*W, 1, 1), in C order."""

    name: str
    inputs: Tuple[str, ...]


class Detect(NamedTuple):
    """Marks a raw head map of `len(anchors) * (5 + n_classes)` channels; decoding is outside.

    Channel order per anchor: x, y, w, h, objectness, class scores.

    Attributes:
        anchors: (width, height) pairs in pixels of the network input.
        stride: Input pixels per cell.
        box_coding: `darknet` (sigmoid + exp) or `scaled` (2*sigmoid-0.5 and (2*sigmoid)^2).
    """

    name: str
    inputs: Tuple[str, ...]
    anchors: Tuple[Tuple[float, float], ...]
    n_classes: int
    stride: int
    box_coding: str = "scaled"


Layer = Union[Conv, Linear, Shortcut, Route, Upsample, MaxPool, GlobalAvgPool, Flatten, Detect]

OPS = OrderedDict(
    [
        ("conv", Conv),
        ("linear", Linear),
        ("shortcut", Shortcut),
        ("route", Route),
        ("upsample", Upsample),
        ("maxpool", MaxPool),
        ("global_avg_pool", GlobalAvgPool),
        ("flatten", Flatten),
        ("detect", Detect),
    ]
)  # type: OrderedDict[str, Type[Any]]
_OP_OF = {cls: op for op, cls in OPS.items()}


def op_of(layer: Layer) -> str:
    """The op's name in JSON, for example `conv`."""
    return _OP_OF[type(layer)]


Weighted = Union[Conv, Linear]


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


def weight_shape(layer: Weighted) -> Tuple[int, ...]:
    """Shape of a layer's dense weight: (O, I, K, K) of a convolution, (O, I) of a linear layer."""
    if isinstance(layer, Conv):
        return (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
    return (layer.out_channels, layer.in_channels)


def tensor_shapes(spec: NetworkSpec) -> "OrderedDict[str, Tuple[int, ...]]":
    """Every named tensor of the dense network: name -> shape.

    `L.weight` (O, I, K, K) or (O, I); `L.bias` (O,); with batch norm `L.bn_weight`, `L.bn_bias`,
    `L.bn_mean`, `L.bn_var`, each (O,). Layers in another storage format replace `L.weight` by the
    tensors of `runtime.storage.packing`.
    """
    shapes = OrderedDict()  # type: OrderedDict[str, Tuple[int, ...]]
    for layer in spec.weighted():
        shapes[layer.name + ".weight"] = weight_shape(layer)
        if layer.bias:
            shapes[layer.name + ".bias"] = (layer.out_channels,)
        if isinstance(layer, Conv) and layer.batch_norm:
            for part in ("bn_weight", "bn_bias", "bn_mean", "bn_var"):
                shapes[layer.name + "." + part] = (layer.out_channels,)
    return shapes


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
    return _count({k: shape for k, shape in shapes if not k.endswith((".bn_mean", ".bn_var"))})


# --- shape inference ------------------------------------------------------------------------


def _fail(layer: Layer, what: str, expected: object, found: object) -> SpecError:
    return SpecError(
        what, expected=str(expected), found=str(found), where="layer {!r}".format(layer.name)
    )


def _window(layer: Layer, size: int, kernel: int, stride: int, padding: int) -> int:
    out = (size + padding - kernel) // stride + 1
    if out < 1:
        raise _fail(layer, "Input is smaller than the window", ">= {}".format(kernel), size)
    return out


def _layer_shape(layer: Layer, sources: Sequence[Shape]) -> Shape:
    channels, height, width = sources[0]
    if isinstance(layer, Conv):
        if channels != layer.in_channels:
            raise _fail(layer, "Input channels do not match", layer.in_channels, channels)
        pad = 2 * layer.padding
        return (
            layer.out_channels,
            _window(layer, height, layer.kernel, layer.stride, pad),
            _window(layer, width, layer.kernel, layer.stride, pad),
        )
    if isinstance(layer, Linear):
        if (channels, height, width) != (layer.in_channels, 1, 1):
            raise _fail(layer, "Input is not flat", (layer.in_channels, 1, 1), sources[0])
        return (layer.out_channels, 1, 1)
    if isinstance(layer, MaxPool):
        pad = layer.pad_begin + layer.pad_end
        return (
            channels,
            _window(layer, height, layer.kernel, layer.stride, pad),
            _window(layer, width, layer.kernel, layer.stride, pad),
        )
    return _join_shape(layer, sources)


def _join_shape(layer: Layer, sources: Sequence[Shape]) -> Shape:
    channels, height, width = sources[0]
    if isinstance(layer, Shortcut):
        if len(set(sources)) != 1:
            raise _fail(layer, "Added inputs differ in shape", "equal shapes", list(sources))
        return sources[0]
    if isinstance(layer, Route):
        if len({shape[1:] for shape in sources}) != 1:
            raise _fail(layer, "Joined inputs differ in size", "equal sizes", list(sources))
        return (sum(shape[0] for shape in sources), height, width)
    if isinstance(layer, Upsample):
        return (channels, height * layer.scale, width * layer.scale)
    if isinstance(layer, GlobalAvgPool):
        return (channels, 1, 1)
    if isinstance(layer, Flatten):
        return (channels * height * width, 1, 1)
    expected = len(layer.anchors) * (5 + layer.n_classes)  # type: ignore[union-attr]
    if channels != expected:
        raise _fail(layer, "Head channels do not match the anchors", expected, channels)
    return sources[0]


def infer_shapes(spec: NetworkSpec) -> "OrderedDict[str, Shape]":
    """Output shape of the input and every layer.

    Raises:
        SpecError: Duplicate or unknown names, wrong input counts, shapes that do not fit.
    """
    shapes = OrderedDict()  # type: OrderedDict[str, Shape]
    shapes[INPUT] = (spec.input.channels, spec.input.height, spec.input.width)
    for layer in spec.layers:
        if layer.name in shapes:
            raise SpecError("Layer name is used twice", found=repr(layer.name))
        many = isinstance(layer, (Shortcut, Route))
        if not layer.inputs or (len(layer.inputs) > 1 and not many):
            raise _fail(layer, "Wrong number of inputs", "1", len(layer.inputs))
        for source in layer.inputs:
            if source not in shapes:
                raise _fail(
                    layer, "Input is not an earlier layer", "an earlier layer", repr(source)
                )
        shapes[layer.name] = _layer_shape(layer, [shapes[source] for source in layer.inputs])
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


_CHOICES = {"activation": ACTIVATIONS, "box_coding": BOX_CODINGS}
_POSITIVE = ("in_channels", "out_channels", "channels", "height", "width") + (
    "kernel",
    "stride",
    "scale",
)


def _reject(what: str, expected: str, found: object, where: str) -> SpecError:
    return SpecError(what, expected=expected, found=repr(found)[:80], where=where)


def _names(value: Any, where: str) -> Tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _reject("Not a list of names", "a list of strings", value, where)
    return tuple(value)


def _anchors(value: Any, where: str) -> Tuple[Tuple[float, float], ...]:
    pairs = []
    for pair in value if isinstance(value, list) else [None]:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(side, (int, float)) and 0 < side < 1e9 for side in pair)
        ):
            raise _reject("Not a list of anchors", "[[width, height], ...]", value, where)
        pairs.append((float(pair[0]), float(pair[1])))
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
    if hint is StorageSpec:
        return _record(StorageSpec, value, place)
    if key == "anchors":
        return _anchors(value, place)
    if hint not in (bool, str, int, float):
        return _names(value, place)
    value = _scalar(key, hint, value, place)
    if key in _CHOICES and value not in _CHOICES[key]:
        what = "Unknown " + key.replace("_", " ")
        raise _reject(what, ", ".join(_CHOICES[key]), value, place)
    return value


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
    record: Layer = _record(OPS[value["op"]], fields, where)
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
