"""How a detector's outputs become boxes, as the tables that detect.c reads."""

from collections.abc import Mapping
from typing import NamedTuple

from pneumonia.runtime.detection.heads import DEFAULT_SETTINGS
from pneumonia.runtime.model.spec import NetworkSpec


class BoxDecoding(NamedTuple):
    """The C tables of the detection heads; without heads the network is not a detector."""

    # fields of a C `head`: number of the output, first anchor, anchors, classes, stride, whether
    # sizes are exponential
    heads: tuple[tuple[int, ...], ...]
    # (width, height) in pixels of the network's input, head after head
    anchors: tuple[tuple[float, float], ...]
    # mean, std, pad_value: of the input, see `InputSpec`
    mean: float
    std: float
    pad_value: int
    # score_floor, nms_overlap, max_boxes: see `DecodeSettings`
    score_floor: float
    nms_overlap: float
    max_boxes: int
    # operating points with their thresholds, the default one first
    points: tuple[tuple[str, float], ...]


def box_decoding(spec: NetworkSpec, points: Mapping[str, float]) -> BoxDecoding:
    """The tables of a network."""
    heads: list[tuple[int, ...]] = []
    anchors: list[tuple[float, float]] = []
    for layer in spec.detect_layers():
        if layer.name not in spec.outputs:
            continue
        exponential = int(layer.box_coding == "darknet")
        heads.append(
            (spec.outputs.index(layer.name), len(anchors), len(layer.anchors), layer.n_classes,
             layer.stride, exponential)
        )  # fmt: skip
        anchors += [(float(width), float(height)) for width, height in layer.anchors]
    settings = DEFAULT_SETTINGS
    return BoxDecoding(
        tuple(heads), tuple(anchors), float(spec.input.mean), float(spec.input.std),
        spec.input.pad_value, settings.score_floor, settings.nms_iou, settings.max_boxes,
        tuple((name, float(threshold)) for name, threshold in points.items()),
    )  # fmt: skip
