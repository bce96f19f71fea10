"""Raw head maps to boxes: the decoding of YOLO heads, then selection in original pixels."""

from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.image.preprocess import Letterbox
from pneumonia.runtime.model.boxes import box_areas, clip_boxes, cxcywh_to_xyxy, nms
from pneumonia.runtime.model.layers import Detect
from pneumonia.runtime.model.spec import NetworkSpec

MAX_LOG_SIZE = 20.0  # e^20 anchors is larger than any image; keeps exp() finite in float32

Decoded = Tuple[np.ndarray, np.ndarray]  # boxes (n, 4), scores (n, n_classes)
Detections = Tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes (k, 4), scores (k,), classes (k,)


class DecodeSettings(NamedTuple):
    """Thresholds that turn decoded boxes into detections."""

    score_floor: float = 0.01  # boxes below this score are dropped (operating points come later)
    nms_iou: float = 0.4  # overlap above which the lower of two boxes of one class is dropped
    max_boxes: int = 100  # number of boxes kept per image, highest scores first


DEFAULT_SETTINGS = DecodeSettings()


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow, in the dtype given."""
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1, small) / (1 + small), dtype=values.dtype)


def _head(layer: Detect, raw: np.ndarray) -> np.ndarray:
    """(A * (5 + C), H, W) -> (A, H, W, 5 + C) float32."""
    fields = 5 + layer.n_classes
    n_anchors = len(layer.anchors)
    if raw.ndim != 3 or raw.shape[0] != n_anchors * fields:
        raise SpecError(
            "Head map has the wrong shape",
            expected="({}, H, W)".format(n_anchors * fields),
            found=str(raw.shape),
            where="layer {!r}".format(layer.name),
        )
    grid = raw.reshape(n_anchors, fields, raw.shape[1], raw.shape[2])
    return np.asarray(grid.transpose(0, 2, 3, 1), dtype=np.float32)


def _decode_head(layer: Detect, raw: np.ndarray, score_floor: float) -> Decoded:
    """Decode one head of one image; cells whose objectness is below the floor are left out."""
    values = _head(layer, raw)
    objectness = sigmoid(values[..., 4])
    anchor, row, column = np.nonzero(objectness >= score_floor)
    chosen = values[anchor, row, column]
    cell = np.stack([column, row], axis=1).astype(np.float32)
    sizes = np.array(layer.anchors, dtype=np.float32)[anchor]
    if layer.box_coding == "darknet":
        centre = sigmoid(chosen[:, :2]) + cell
        size = sizes * np.exp(np.minimum(chosen[:, 2:4], MAX_LOG_SIZE))
    else:
        centre = 2 * sigmoid(chosen[:, :2]) - np.float32(0.5) + cell
        size = sizes * (2 * sigmoid(chosen[:, 2:4])) ** 2
    boxes = cxcywh_to_xyxy(np.concatenate([centre * layer.stride, size], axis=1))
    scores = objectness[anchor, row, column][:, None] * sigmoid(chosen[:, 5:])
    return boxes, scores.astype(np.float32)


def image_outputs(spec: NetworkSpec) -> List[str]:
    """Outputs of a detector that gate its boxes: image-level logits, one per image."""
    return [name for name, size in _other_outputs(spec) if size == 1]


def class_outputs(spec: NetworkSpec) -> List[str]:
    """Outputs of a detector with a logit per class of the whole image; no box depends on them."""
    return [name for name, size in _other_outputs(spec) if size > 1]


def _other_outputs(spec: NetworkSpec) -> List[Tuple[str, int]]:
    """Outputs that are not head maps, with their numbers of channels."""
    heads = {layer.name for layer in spec.detect_layers()}
    others = [name for name in spec.outputs if name not in heads]
    if not others:  # the usual case: skips computing all shapes for every image
        return []
    shapes = spec.shapes()
    return [(name, shapes[name][0]) for name in others]


def _gates(spec: NetworkSpec, outputs: Dict[str, np.ndarray], n_images: int) -> np.ndarray:
    """Probability (n_images,) of any finding; 1 for a network without an image-level output."""
    gates = np.ones(n_images, dtype=np.float32)
    for name in image_outputs(spec):
        logits = outputs.get(name, np.zeros(0, np.float32))
        if logits.size != n_images:
            raise SpecError(
                "Image-level output has the wrong size",
                expected="{} values".format(n_images),
                found=str(logits.shape) if name in outputs else "none",
                where="output {!r}".format(name),
            )
        gates *= sigmoid(logits.reshape(n_images).astype(np.float32))
    return gates


def decode_heads(
    spec: NetworkSpec, outputs: Dict[str, np.ndarray], score_floor: float = 0.0
) -> List[Decoded]:
    """Every cell and anchor of every head whose objectness reaches the floor, as a box with scores.

    `darknet` (YOLOv3 paper, section 2.1): b_xy = (sigmoid(t_xy) + c_xy) * stride,
    b_wh = anchor * exp(t_wh). `scaled`: b_xy = (2 sigmoid(t_xy) - 0.5 + c_xy) * stride,
    b_wh = anchor * (2 sigmoid(t_wh))^2. Score = sigmoid(objectness) * sigmoid(class), times the
    probability of an image-level output where the network has one.

    Args:
        outputs: Detect layer name -> (B, A * (5 + C), H, W); image-level output -> (B, 1, ...).
        score_floor: Least objectness, 0..1.

    Returns:
        Per image: boxes xyxy in network pixels (n, 4) and scores (n, C), ordered by head, anchor,
        row, column; not clipped, nothing suppressed.

    Raises:
        SpecError: A head is missing or has another shape.
    """
    heads = [layer for layer in spec.detect_layers() if layer.name in spec.outputs]
    missing = [layer.name for layer in heads if layer.name not in outputs]
    if not heads or missing:
        raise SpecError(
            "Network gives no boxes",
            expected="outputs " + ", ".join(missing) if missing else "a detect layer",
            found=", ".join(outputs) or "none",
            where="network {!r}".format(spec.name),
        )
    images = []
    gates = _gates(spec, outputs, len(outputs[heads[0].name]))
    for index, gate in enumerate(gates):
        parts = [_decode_head(layer, outputs[layer.name][index], score_floor) for layer in heads]
        boxes = np.concatenate([part[0] for part in parts])
        images.append((boxes, gate * np.concatenate([part[1] for part in parts])))
    return images


def _select(decoded: Decoded, place: Letterbox, settings: DecodeSettings) -> Detections:
    boxes = clip_boxes(place.to_original(decoded[0]), place.width, place.height)
    candidate, classes = np.nonzero(
        (decoded[1] >= settings.score_floor) & (box_areas(boxes) > 0)[:, None]
    )
    boxes = boxes[candidate]
    scores = decoded[1][candidate, classes]
    kept = [np.zeros(0, dtype=np.int64)]
    for label in np.unique(classes):
        members = np.nonzero(classes == label)[0]
        best = nms(boxes[members], scores[members], settings.nms_iou, settings.max_boxes)
        kept.append(members[best])
    keep = np.concatenate(kept)
    keep = keep[np.argsort(-scores[keep], kind="stable")][: settings.max_boxes]
    return boxes[keep], scores[keep], classes[keep]


def detections(
    spec: NetworkSpec,
    outputs: Dict[str, np.ndarray],
    transforms: Sequence[Letterbox],
    settings: DecodeSettings = DEFAULT_SETTINGS,
) -> List[Detections]:
    """Decode, map back to original pixels, clip, drop empty boxes, suppress per class.

    Args:
        outputs: Detect layer name -> (B, A * (5 + C), H, W).
        transforms: One per image of the batch.

    Returns:
        Per image: boxes xyxy in original pixels (k, 4), scores (k,), classes (k,), by descending
        score.
    """
    images = decode_heads(spec, outputs, settings.score_floor)
    return [_select(decoded, place, settings) for decoded, place in zip(images, transforms)]
