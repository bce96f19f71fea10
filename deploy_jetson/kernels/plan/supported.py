"""What of a network description the generator can write as C."""

from collections.abc import Sequence

from deploy_jetson.kernels.plan.steps import SLOPES
from pneumonia.runtime.errors import ExportError
from pneumonia.runtime.model import layers
from pneumonia.runtime.model.ops import op_of
from pneumonia.runtime.model.spec import NetworkSpec

KNOWN = (
    layers.Conv,
    layers.Linear,
    layers.Route,
    layers.Detect,
    layers.Flatten,
    layers.Shortcut,
    layers.Upsample,
    layers.MaxPool,
    layers.GlobalAvgPool,
)
PLAIN = {"groups": 1, "dilation": 1, "transposed": False, "mode": "nearest", "axis": "channels"}
SQUARE = ("kernel", "stride", "padding", "pad_begin", "pad_end")
NAMED = 5  # layers that an error lists


def check_supported(spec: NetworkSpec) -> None:
    """Refuse networks with layers that have no kernel yet.

    Raises:
        ExportError: Names the layers and what of them is missing.
    """
    shapes = spec.shapes()
    missing = {
        layer.name: reason
        for layer in spec.layers
        if (reason := _missing(layer, [shapes[name] for name in layer.inputs]))
    }
    if missing:
        listed = [f"{name!r} ({reason})" for name, reason in missing.items()]
        more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
        raise ExportError(
            "The generator has no kernel for these layers yet",
            found=", ".join(listed[:NAMED]) + more,
            where=f"network {spec.name!r}",
            fix="Run the network with ONNX Runtime or the reference engine",
        )


def _missing(layer: layers.Layer, sources: Sequence[layers.Shape]) -> str:
    """What the generator does not know of a layer; empty for none."""
    if not isinstance(layer, KNOWN):
        return op_of(layer)
    for field in layer._fields:
        value = getattr(layer, field)
        if field in PLAIN and value != PLAIN[field]:
            return f"{field} {value}"
        if field in SQUARE and not isinstance(value, int):
            return f"{field} {value[0]} x {value[1]}"
        if field == "activation" and value not in SLOPES:
            return f"activation {value}"
    if isinstance(layer, layers.Linear) and sources[0][1:] != (1, 1):
        return "linear at every position"
    if isinstance(layer, layers.Shortcut) and len(set(sources)) > 1:
        return "inputs of different shapes"
    return ""
