"""Read and write a `NetworkSpec` as JSON."""

import json
from math import isfinite
from typing import Any, Dict, Optional, Tuple, Type

from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.model.layers import (
    ACTIVATIONS,
    AXES,
    BOX_CODINGS,
    NORMS,
    PAD_MODES,
    UPSAMPLE_MODES,
    Layer,
    Pad,
    Pair,
    Resize,
    StorageSpec,
    Upsample,
)
from pneumonia.runtime.model.ops import OPS, op_of
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec, infer_shapes

SCHEMA = "pneumonia.network/1"


def spec_text(spec: NetworkSpec) -> str:
    """JSON text of a network, with the schema version; `parse_spec` is its inverse."""
    document: Dict[str, Any] = {"schema": SCHEMA, "name": spec.name}
    document["input"] = spec.input._asdict()
    document["class_names"] = list(spec.class_names)
    document["outputs"] = list(spec.outputs)
    document["layers"] = [_layer_to_dict(layer) for layer in spec.layers]
    return json.dumps(document, indent=1) + "\n"


def _layer_to_dict(layer: Layer) -> Dict[str, Any]:
    record: Dict[str, Any] = {"op": op_of(layer)}
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
_MODES = {
    Pad: PAD_MODES, Upsample: UPSAMPLE_MODES, Resize: UPSAMPLE_MODES,
}  # type: Dict[Type[Any], Tuple[str, ...]]  # fmt: skip
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


def parse_spec(text: str) -> NetworkSpec:
    """The network that a JSON text describes, checked as a whole.

    Raises:
        SpecError: Not JSON, another schema, unknown op or field, wrong type, broken graph.
    """
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
