"""The zoo: networks as specs, built from a name and a few sizes.

Layer names hold the index of the layer in the list, which for the YOLO networks is Darknet's own
(`conv_000`, `shortcut_004`, `detect_082`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pneumonia.runtime.errors import ConfigError, SpecError
from pneumonia.runtime.model.layers import (
    Conv,
    Detect,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
)
from pneumonia.runtime.model.spec import INPUT, InputSpec, NetworkSpec

Anchors = Sequence[tuple[float, float]]

# Darknet's cfg files, pixels of a 416 x 416 input, sorted by area.
YOLOV3_ANCHORS: Anchors = (
    (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326),
)  # fmt: skip
YOLOV3_TINY_ANCHORS: Anchors = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))
ANCHOR_SIZE = 416
CHANNEL_MULTIPLE = 8  # what a width multiplier rounds to: the vector length of the kernels


class _Plan(NamedTuple):
    width: float
    channels: int
    size: int
    n_classes: int
    heads: tuple[tuple[tuple[float, float], ...], ...]  # anchors per head, small objects first
    box_coding: str


class _Builder:
    """Appends layers, naming each `op_index` and defaulting its input to the layer before."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.layers: list[Layer] = []
        self.channels: dict[str, int] = {INPUT: plan.channels}
        self.last = INPUT

    def scaled(self, channels: int) -> int:
        """Channels after the width multiplier, a multiple of 8 unless the width is 1."""
        if self.plan.width == 1.0:
            return channels
        rounded = int(channels * self.plan.width / CHANNEL_MULTIPLE + 0.5) * CHANNEL_MULTIPLE
        return max(CHANNEL_MULTIPLE, rounded)

    def name(self, op: str) -> str:
        return f"{op}_{len(self.layers):03d}"

    def add(self, layer: Layer, channels: int) -> str:
        self.layers.append(layer)
        self.channels[layer.name] = channels
        self.last = layer.name
        return layer.name

    def conv(
        self,
        filters: int,
        kernel: int,
        stride: int = 1,
        *,
        activation: str = "leaky_relu",
        source: str = "",
    ) -> str:
        """3x3 or 1x1 convolution with batch norm, same size at stride 1."""
        source = source or self.last
        out = self.scaled(filters)
        layer = Conv(
            name=self.name("conv"),
            inputs=(source,),
            in_channels=self.channels[source],
            out_channels=out,
            kernel=kernel,
            stride=stride,
            padding=kernel // 2,
            bias=False,
            batch_norm=True,
            activation=activation,
        )
        return self.add(layer, out)

    def pool(self, kernel: int, stride: int, pad_end: int = 0) -> str:
        layer = MaxPool(self.name("maxpool"), (self.last,), kernel, stride, 0, pad_end)
        return self.add(layer, self.channels[self.last])

    def shortcut(self, other: str, activation: str = "linear") -> str:
        layer = Shortcut(self.name("shortcut"), (self.last, other), activation)
        return self.add(layer, self.channels[self.last])

    def route(self, *sources: str) -> str:
        layer = Route(self.name("route"), tuple(sources))
        return self.add(layer, sum(self.channels[source] for source in sources))

    def upsample(self) -> str:
        layer = Upsample(self.name("upsample"), (self.last,), 2)
        return self.add(layer, self.channels[self.last])

    def linear(self, features: int, activation: str = "linear") -> str:
        layer = Linear(
            self.name("linear"),
            (self.last,),
            self.channels[self.last],
            features,
            bias=True,
            activation=activation,
        )
        return self.add(layer, features)

    def flatten(self, pixels: int) -> str:
        layer = Flatten(self.name("flatten"), (self.last,))
        return self.add(layer, self.channels[self.last] * pixels)

    def head(self, scale: int, stride: int) -> str:
        """Linear 1x1 convolution with bias, then the detection marker."""
        anchors = self.plan.heads[scale]
        out = len(anchors) * (5 + self.plan.n_classes)
        conv = Conv(
            name=self.name("conv"),
            inputs=(self.last,),
            in_channels=self.channels[self.last],
            out_channels=out,
            kernel=1,
        )
        self.add(conv, out)
        detect = Detect(
            name=self.name("detect"),
            inputs=(self.last,),
            anchors=anchors,
            n_classes=self.plan.n_classes,
            stride=stride,
            box_coding=self.plan.box_coding,
        )
        return self.add(detect, out)


def _yolov3(b: _Builder) -> list[str]:
    """Darknet-53 and three detection scales: 107 entries (Redmon and Farhadi 2018)."""
    b.conv(32, 3)
    stages = []
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        b.conv(filters, 3, stride=2)
        for _ in range(blocks):
            start = b.last
            b.conv(filters // 2, 1)
            b.conv(filters, 3)
            b.shortcut(start)
        stages.append(b.last)
    heads = []
    neck = b.last
    for scale, (filters, stride) in enumerate(((512, 32), (256, 16), (128, 8))):
        if scale:
            b.route(neck)
            b.conv(filters, 1)
            b.upsample()
            b.route(b.last, stages[4 - scale])
        for _ in range(3):
            neck = b.conv(filters, 1)
            b.conv(filters * 2, 3)
        heads.append(b.head(2 - scale, stride))
    return heads


def _yolov3_tiny(b: _Builder) -> list[str]:
    for filters in (16, 32, 64, 128):
        b.conv(filters, 3)
        b.pool(2, 2)
    middle = b.conv(256, 3)
    b.pool(2, 2)
    b.conv(512, 3)
    b.pool(2, 1, pad_end=1)
    b.conv(1024, 3)
    neck = b.conv(256, 1)
    b.conv(512, 3)
    coarse = b.head(1, 32)
    b.route(neck)
    b.conv(128, 1)
    b.upsample()
    b.route(b.last, middle)
    b.conv(256, 3)
    return [coarse, b.head(0, 16)]


def _lenet5(b: _Builder) -> list[str]:
    """The Caffe LeNet of the pruning papers: 20-50-500, 431,080 parameters at 28 x 28."""
    side = b.plan.size
    for filters in (20, 50):
        out = b.scaled(filters)
        source = b.last
        b.add(Conv(b.name("conv"), (source,), b.channels[source], out, 5), out)
        b.pool(2, 2)
        side = (side - 4) // 2
    b.flatten(side * side)
    b.linear(b.scaled(500), activation="relu")
    return [b.linear(b.plan.n_classes)]


def _vgg16(b: _Builder) -> list[str]:
    """VGG-16 for CIFAR: 13 convolutions with batch norm and one linear layer."""
    for filters, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            b.conv(filters, 3, activation="relu")
        b.pool(2, 2)
    b.flatten((b.plan.size // 32) ** 2)
    return [b.linear(b.plan.n_classes)]


def _resnet18(b: _Builder) -> list[str]:
    """ResNet-18 with the 3 x 3 stem used for CIFAR (He et al. 2016)."""
    b.conv(64, 3, activation="relu")
    for filters, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first_stride, 1):
            start = b.last
            b.conv(filters, 3, stride, activation="relu")
            main = b.conv(filters, 3, activation="linear")
            if stride != 1:
                start = b.conv(filters, 1, stride, activation="linear", source=start)
            b.last = main
            b.shortcut(start, activation="relu")
    layer = GlobalAvgPool(b.name("global_avg_pool"), (b.last,))
    b.add(layer, b.channels[b.last])
    return [b.linear(b.plan.n_classes)]


class ZooEntry(NamedTuple):
    """One network of the zoo and what it is built with when nothing is said."""

    layers: Callable[[_Builder], list[str]]  # fills a builder and returns the names of the outputs
    channels: int  # input channels
    size: int  # side of the square input, pixels
    n_classes: int  # classes of the head
    multiple: int  # the input side must be a multiple of this
    n_heads: int = 0  # detection scales; 0 for a classifier
    anchors: Anchors = ()  # default anchors at `ANCHOR_SIZE`


ZOO: dict[str, ZooEntry] = {
    "yolov3": ZooEntry(_yolov3, 1, 416, 1, 32, 3, YOLOV3_ANCHORS),
    "yolov3-tiny": ZooEntry(_yolov3_tiny, 1, 416, 1, 32, 2, YOLOV3_TINY_ANCHORS),
    "lenet5": ZooEntry(_lenet5, 1, 28, 10, 4),
    "vgg16": ZooEntry(_vgg16, 3, 32, 10, 32),
    "resnet18": ZooEntry(_resnet18, 3, 32, 10, 8),
}


def build(
    name: str,
    *,
    width: float = 1.0,
    channels: int | None = None,
    size: int | None = None,
    n_classes: int | None = None,
    anchors: Anchors | None = None,
    box_coding: str = "scaled",
) -> NetworkSpec:
    """A spec of the zoo.

    Args:
        name: A key of `ZOO`.
        width: Multiplier of every inner channel count, rounded to multiples of 8.
        channels: Input channels; the zoo's own (1 for the detectors) if None.
        size: Side of the square input in pixels; 416 for the detectors if None.
        n_classes: 1 for the detectors if None.
        anchors: (width, height) pairs in pixels of this input, the same number for every scale;
            sorted by area, the smallest go to the finest scale. Darknet's, scaled, if None.
        box_coding: `scaled` for training here, `darknet` for weights trained by Darknet.

    Raises:
        ConfigError: Unknown name, or a size the network cannot take.
    """
    if name not in ZOO:
        raise ConfigError("Unknown network", expected="one of " + ", ".join(ZOO), found=repr(name))
    entry = ZOO[name]
    channels = entry.channels if channels is None else channels
    size = entry.size if size is None else size
    n_classes = entry.n_classes if n_classes is None else n_classes
    _check_sizes(name, width, channels, size, n_classes)
    if anchors is None:
        scale = size / ANCHOR_SIZE
        anchors = [(w * scale, h * scale) for w, h in entry.anchors]
    elif not entry.n_heads:
        raise ConfigError("Anchors are for detectors only", where=f"network {name!r}")
    plan = _Plan(width, channels, size, n_classes, _per_head(name, anchors), box_coding)
    builder = _Builder(plan)
    outputs = entry.layers(builder)
    spec = NetworkSpec(
        name=name,
        input=InputSpec(channels, size, size),
        layers=tuple(builder.layers),
        outputs=tuple(outputs),
        class_names=_class_names(entry, n_classes),
    )
    try:
        spec.shapes()
    except SpecError as error:
        raise ConfigError(
            "The network does not fit this input", found=f"size {size}; {error}", where=name
        ) from None
    return spec


def _check_sizes(name: str, width: float, channels: int, size: int, n_classes: int) -> None:
    entry = ZOO[name]
    if not 0.0 < width <= 8.0:
        raise ConfigError(
            "Width multiplier is out of range", expected="0 < w <= 8", found=repr(width)
        )
    if channels < 1 or n_classes < 1:
        raise ConfigError(
            "Channels and classes are counts", expected=">= 1", found=repr((channels, n_classes))
        )
    if size < entry.multiple or size % entry.multiple:
        raise ConfigError(
            "Input size does not fit the network",
            expected=f"a multiple of {entry.multiple}",
            found=repr(size),
            where=f"network {name!r}",
        )


def _per_head(name: str, anchors: Anchors) -> tuple[tuple[tuple[float, float], ...], ...]:
    n_heads = ZOO[name].n_heads
    if not n_heads:
        return ()
    if not anchors or len(anchors) % n_heads or any(min(pair) <= 0 for pair in anchors):
        raise ConfigError(
            "Anchors do not fit the detection scales",
            expected=f"a multiple of {n_heads} positive pairs",
            found=repr([tuple(pair) for pair in anchors]),
            where=f"network {name!r}",
        )
    pairs = sorted(((float(w), float(h)) for w, h in anchors), key=lambda pair: pair[0] * pair[1])
    share = len(pairs) // n_heads
    return tuple(tuple(pairs[i * share : (i + 1) * share]) for i in range(n_heads))


def _class_names(entry: ZooEntry, n_classes: int) -> tuple[str, ...]:
    if entry.n_heads and n_classes == 1:
        return ("lung opacity",)
    return tuple(f"class {i}" for i in range(n_classes))
