"""Darknet `.weights` files: whole networks and the first layers of one (`darknet53.conv.74`).

Layout (pjreddie/darknet, src/parser.c, load_weights_upto): int32 major, minor, revision; images
seen as int64 when 10 * major + minor >= 2, else int32; then for every convolution in the order of
the cfg file, float32: bias or beta; with batch norm gamma, running mean, running variance; weights
OIHW. All little-endian.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pneumonia.network.module import NamedTensors
from pneumonia.runtime.errors import ArtefactError, os_errors_as
from pneumonia.runtime.model.layers import Conv, pair
from pneumonia.runtime.model.spec import INPUT, NetworkSpec

VERSION = (0, 2, 5)
RGB = 3
COCO_CLASSES = 80
BN_PARTS = ("bn_bias", "bn_weight", "bn_mean", "bn_var")
Floats = NDArray[np.float32]


class DarknetWeights(NamedTuple):
    """What a file gave."""

    tensors: NamedTensors  # only of the layers in `layers`
    layers: tuple[str, ...]  # convolutions that were filled, in execution order
    # detection convolutions left alone because the file's have other classes
    skipped: tuple[str, ...]
    grey_stem: bool  # the file's three-channel stem was summed to one grey channel
    version: tuple[int, int, int]  # major, minor, revision of the header
    images_seen: int  # training images the header counts


class _Slot(NamedTuple):
    """One convolution as the file holds it."""

    layer: Conv
    out_channels: int
    in_channels: int

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.out_channels, self.in_channels, *pair(self.layer.kernel))

    @property
    def size(self) -> int:
        vectors = len(BN_PARTS) if self.layer.batch_norm else 1
        out, channels, kernel, _ = self.weight_shape
        return out * (vectors + channels * kernel * kernel)


def read_darknet(path: Path, spec: NetworkSpec) -> DarknetWeights:
    """Read a Darknet file into the layers of a network.

    The file may end after any convolution of the network. Two differences are bridged: a stem of
    three channels is summed for a grey network (a grey image has equal channels, so the function
    is the same), and heads of COCO's 80 classes are skipped for a network of other classes.

    Raises:
        ArtefactError: Not such a file, another architecture or width, values that are not finite.
    """
    values, version, seen = _read_values(path)
    convs = _convolutions(spec)
    reading = _match(convs, spec, len(values))
    if reading is None:
        slots = _slots(convs, spec, None, None)
        sizes = np.cumsum([slot.size for slot in slots])
        after = int(np.searchsorted(sizes, len(values)))
        where = f"inside layer {convs[after].name!r}" if after < len(convs) else "beyond the end"
        raise ArtefactError(
            "Darknet file does not fit the network",
            expected=f"{sizes[-1]} values or an end after a convolution",
            found=f"{len(values)}, which is {where}",
            where=str(path),
            fix="Width, channels, classes and anchors must be those of the file",
        )
    tensors: dict[str, Tensor] = {}
    layers, skipped, position, grey = [], [], 0, False
    for slot in reading:
        block = values[position : position + slot.size]
        position += slot.size
        if not np.isfinite(block).all():
            raise ArtefactError(
                "Darknet file holds values that are not finite",
                where=f"{path}, layer {slot.layer.name!r}",
            )
        if slot.out_channels != slot.layer.out_channels:
            skipped.append(slot.layer.name)
            continue
        grey = grey or slot.in_channels != slot.layer.in_channels
        layers.append(slot.layer.name)
        tensors.update(_unpack(slot, block))
    return DarknetWeights(tensors, tuple(layers), tuple(skipped), grey, version, seen)


def _read_values(path: Path) -> tuple[Floats, tuple[int, int, int], int]:
    with os_errors_as(ArtefactError, "Darknet file cannot be read", path):
        data = path.read_bytes()
    if len(data) < 16:
        raise ArtefactError(
            "Darknet file is too short", expected=">= 16 bytes", found=str(len(data)),
            where=str(path),
        )  # fmt: skip
    major, minor, revision = struct.unpack_from("<iii", data)
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise ArtefactError(
            "Not a Darknet weights file",
            expected="version numbers below 1000",
            found=repr((major, minor, revision)),
            where=str(path),
        )
    seen_format = "<q" if major * 10 + minor >= 2 else "<i"
    start = 12 + struct.calcsize(seen_format)
    if (len(data) - start) % 4 or len(data) <= start:
        raise ArtefactError(
            "Darknet file is cut",
            expected="whole float32 values after the header",
            found=f"{len(data) - start} bytes",
            where=str(path),
        )
    seen = struct.unpack_from(seen_format, data, 12)[0]
    return np.frombuffer(data, "<f4", offset=start), (major, minor, revision), seen


def _convolutions(spec: NetworkSpec) -> list[Conv]:
    convs = []
    for layer in spec.weighted():
        if not isinstance(layer, Conv) or (layer.bias and layer.batch_norm) or not _plain(layer):
            raise ArtefactError(
                "Darknet weights are for networks of plain convolutions only",
                where=f"layer {layer.name!r} of network {spec.name!r}",
            )
        convs.append(layer)
    return convs


def _plain(layer: Conv) -> bool:
    return layer.groups == 1 and not layer.transposed


def _slots(
    convs: Sequence[Conv], spec: NetworkSpec, stem: int | None, classes: int | None
) -> list[_Slot]:
    """The convolutions as a file with that stem and that many classes holds them."""
    heads = {head.inputs[0]: head for head in spec.detect_layers()}
    slots = []
    for conv in convs:
        out = conv.out_channels
        if classes is not None and conv.name in heads:
            out = len(heads[conv.name].anchors) * (5 + classes)
        channels = conv.in_channels
        if stem is not None and conv.inputs[0] == INPUT:
            channels = stem
        slots.append(_Slot(conv, out, channels))
    return slots


def _match(convs: Sequence[Conv], spec: NetworkSpec, n_values: int) -> list[_Slot] | None:
    """The reading that ends exactly with the file; the network's own is tried first."""
    stems = [None, RGB] if spec.input.channels == 1 else [None]
    for classes in (None, COCO_CLASSES):
        for stem in stems:
            slots = _slots(convs, spec, stem, classes)
            position = 0
            for count, slot in enumerate(slots, start=1):
                position += slot.size
                if position == n_values:
                    return slots[:count]
    return None


def _unpack(slot: _Slot, block: Floats) -> dict[str, Tensor]:
    name, out = slot.layer.name, slot.out_channels
    parts: dict[str, Floats] = {}
    position = 0
    for part in BN_PARTS if slot.layer.batch_norm else ("bias",):
        parts[part] = block[position : position + out]
        position += out
    if not slot.layer.bias:
        parts.pop("bias", None)
    weight = block[position:].reshape(slot.weight_shape)
    if slot.in_channels != slot.layer.in_channels:
        weight = weight.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    parts["weight"] = weight
    return {
        f"{name}.{part}": torch.from_numpy(np.array(array, dtype=np.float32))
        for part, array in parts.items()
    }
