"""The layer records of a `NetworkSpec`: a name, the layers it reads, its settings.

`runtime.model.ops` has what each op is; the executors (torch, NumPy, ONNX, C) and the compression
each keep one table of their own with an entry per record.

Shapes are `(channels, height, width)`; a flat vector of n features is `(n, 1, 1)`, and a sequence
of T tokens of D features is `(D, T, 1)`.
"""

from typing import NamedTuple, Tuple, Union

LEAKY_SLOPE = 0.1
BN_EPS = 1e-5
ACTIVATIONS = (
    "linear", "leaky_relu", "relu", "relu6", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh",
    "hardswish", "hardsigmoid", "elu", "mish",
)  # fmt: skip
BOX_CODINGS = ("darknet", "scaled")
NORMS = ("batch", "group", "layer", "rms")
PAD_MODES = ("zeros", "reflect", "replicate", "circular")
UPSAMPLE_MODES = ("nearest", "bilinear", "bilinear_corners")
AXES = ("channels", "height")

Shape = Tuple[int, int, int]
Pair = Union[int, Tuple[int, int]]  # one number for both, or (height, width)
Names = Tuple[str, ...]


def pair(value: Pair) -> Tuple[int, int]:
    """(height, width) of a setting that may be one number for both."""
    return (value, value) if isinstance(value, int) else value


class StorageSpec(NamedTuple):
    """How a layer's weight is stored; `runtime.storage.packing` decodes every format to dense."""

    format: str = "dense"  # `dense`, `columns`, ... (the keys of `runtime.storage.FORMATS`)
    group_size: int = 0  # filters that share one list of kept columns; 0 = all filters of the layer
    n_kept: int = 0  # weights actually stored
    bits: int = 32  # bits of one stored weight


DENSE = StorageSpec()


class Conv(NamedTuple):
    """2-D convolution, then optional batch norm, then the activation.

    The weight is (O, I / groups, KH, KW), also where `transposed`: a row is always a filter.
    `bias` and `batch_norm` exclude each other in the zoo but need not. Padding is zeros.
    """

    name: str
    inputs: Names
    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair = 1
    padding: Pair = 0
    bias: bool = True
    batch_norm: bool = False
    activation: str = "linear"
    storage: StorageSpec = DENSE
    groups: int = 1
    dilation: Pair = 1
    transposed: bool = False
    output_padding: Pair = 0
    bn_eps: float = BN_EPS


class Linear(NamedTuple):
    """Fully connected layer, applied to the channels at every position; weight (O, I)."""

    name: str
    inputs: Names
    in_channels: int
    out_channels: int
    bias: bool = True
    activation: str = "linear"
    storage: StorageSpec = DENSE


class Norm(NamedTuple):
    """Normalisation on its own, then the activation."""

    name: str
    inputs: Names
    channels: int
    # `batch`: running statistics, as a convolution's own. `group`: over height, width and the
    # channels of each of `groups` groups (instance norm: one channel a group). `layer`: over the
    # channels, at every position. `rms`: as `layer`, by the root of the mean square, without
    # subtracting the mean
    kind: str = "batch"
    groups: int = 1
    eps: float = BN_EPS
    # whether there are a gain and an offset per channel; with `rms` a gain alone
    affine: bool = True
    activation: str = "linear"


class Constant(NamedTuple):
    """A trained value that no input changes, for example a position embedding."""

    name: str
    inputs: Names
    channels: int
    height: int
    width: int


class Activation(NamedTuple):
    """An activation on its own; `slope` is that of `leaky_relu`."""

    name: str
    inputs: Names
    function: str
    slope: float = LEAKY_SLOPE


class Softmax(NamedTuple):
    """Softmax over the channels, at every position."""

    name: str
    inputs: Names


class Shortcut(NamedTuple):
    """Element-wise sum, then the activation; an extent of 1 is repeated."""

    name: str
    inputs: Names
    activation: str = "linear"


class Multiply(NamedTuple):
    """Element-wise product; an extent of 1 is repeated."""

    name: str
    inputs: Names


class Route(NamedTuple):
    """Concatenation in the order of `inputs`, over the channels or the height."""

    name: str
    inputs: Names
    axis: str = "channels"


class Select(NamedTuple):
    """The given channels in the given order: a slice, a part of a split, a shuffle."""

    name: str
    inputs: Names
    channels: Tuple[int, ...]


class Crop(NamedTuple):
    """Rows and columns, each (start, stop, step) as in a slice."""

    name: str
    inputs: Names
    rows: Tuple[int, ...]
    columns: Tuple[int, ...]


class Pad(NamedTuple):
    """Border of `rows` (before, after) and `columns` (before, after); `value` where it is zeros."""

    name: str
    inputs: Names
    rows: Tuple[int, ...]
    columns: Tuple[int, ...]
    mode: str = "zeros"
    value: float = 0.0


class Reshape(NamedTuple):
    """Other height and width for the same positions, in C order; channels stay."""

    name: str
    inputs: Names
    height: int
    width: int


class Upsample(NamedTuple):
    """Upsampling by an integer; `bilinear_corners` is torch's `align_corners=True`."""

    name: str
    inputs: Names
    scale: int = 2
    mode: str = "nearest"


class Resize(NamedTuple):
    """Another height and width by interpolation, with the modes of `Upsample`; not anti-aliased."""

    name: str
    inputs: Names
    height: int
    width: int
    mode: str = "nearest"


class PixelShuffle(NamedTuple):
    """(C * s * s, H, W) -> (C, H * s, W * s), channel order as in torch."""

    name: str
    inputs: Names
    scale: int = 2


class MaxPool(NamedTuple):
    """Max pooling; the padding may differ at the two ends (Darknet's size 2, stride 1 pool)."""

    name: str
    inputs: Names
    kernel: Pair
    stride: Pair
    pad_begin: Pair = 0
    pad_end: Pair = 0


class AvgPool(NamedTuple):
    """Average pooling; `count_padding`: zeros of the border count in the mean."""

    name: str
    inputs: Names
    kernel: Pair
    stride: Pair
    padding: Pair = 0
    count_padding: bool = True


class GlobalAvgPool(NamedTuple):
    """Mean over height and width: (C, H, W) -> (C, 1, 1)."""

    name: str
    inputs: Names


class Flatten(NamedTuple):
    """(C, H, W) -> (C*H*W, 1, 1), in C order."""

    name: str
    inputs: Names


class Attention(NamedTuple):
    """Scaled dot-product attention of queries, keys and values, each (D, T, 1).

    Head h has the channels h * D / heads ... (h + 1) * D / heads - 1 of each input:
    softmax(q . k * scale) . v.
    """

    name: str
    inputs: Names
    heads: int
    scale: float


class Reuse(NamedTuple):
    """The earlier layer `layer` once more, with the same tensors, on another input."""

    name: str
    inputs: Names
    layer: str


class Opaque(NamedTuple):
    """A torch module that is kept as it is; only torch can run it."""

    name: str
    inputs: Names
    module: str  # its path in the network it came from
    channels: int  # of its output, as height and width
    height: int
    width: int


class Detect(NamedTuple):
    """Marks a raw head map of `len(anchors) * (5 + n_classes)` channels; decoding is outside.

    Channel order per anchor: x, y, w, h, objectness, class scores.
    """

    name: str
    inputs: Names
    anchors: Tuple[Tuple[float, float], ...]  # (width, height) pairs in pixels of the network input
    n_classes: int
    stride: int  # input pixels per cell
    # `darknet` (sigmoid + exp) or `scaled` (2*sigmoid-0.5 and (2*sigmoid)^2)
    box_coding: str = "scaled"


Layer = Union[
    Conv, Linear, Norm, Constant, Activation, Softmax, Shortcut, Multiply, Route, Select, Crop, Pad,
    Reshape, Upsample, Resize, PixelShuffle, MaxPool, AvgPool, GlobalAvgPool, Flatten, Attention,
    Reuse, Opaque, Detect,
]  # fmt: skip
Weighted = Union[Conv, Linear]
