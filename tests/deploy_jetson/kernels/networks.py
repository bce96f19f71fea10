"""Small networks with known sparsity for the kernel tests, and the NumPy answer to them."""

import numpy as np

from deploy_jetson.kernels.plan.layer_problem import LayerProblem, LayerQuantization
from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.model.layers import (
    Conv,
    Detect,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
)
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec, tensor_shapes

PATTERNS = (
    (0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8),
    (1, 3, 4, 5), (1, 3, 4, 7), (1, 4, 5, 7), (3, 4, 5, 7),
)  # fmt: skip


def random_tensors(spec, seed=0):
    """Weights of unit gain, biases that matter."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        scale = 0.3 if name.endswith(".bias") else 1.4 / np.sqrt(np.prod(shape[1:]))
        tensors[name] = generator.normal(0, scale, shape).astype(np.float32)
    return tensors


def keep_columns(weight, density, group=8, seed=0):
    """Random columns kept by each group of filters (0 = all filters)."""
    generator = np.random.default_rng(seed)
    matrix = weight.reshape(len(weight), -1).copy()
    for first in range(0, len(matrix), group or len(matrix)):
        rows = slice(first, first + (group or len(matrix)))
        matrix[rows, generator.random(matrix.shape[1]) > density] = 0
    return matrix.reshape(weight.shape)


def keep_patterns(weight, density, seed=0, patterns=PATTERNS):
    """Every filter its own channels and patterns."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((*weight.shape[:2], 9), bool)
    for index in np.ndindex(*weight.shape[:2]):
        if generator.random() < density:
            mask[index][list(patterns[generator.integers(len(patterns))])] = True
    return weight * mask.reshape(weight.shape)


def keep_some(weight, density, seed=0):
    """Single weights anywhere; some filters keep far more than others, one keeps nothing."""
    generator = np.random.default_rng(seed)
    share = density * generator.uniform(0.2, 1.8, (len(weight), *[1] * (weight.ndim - 1)))
    share[len(weight) // 2] = 0
    return (weight * (generator.random(weight.shape) < share)).astype(np.float32)


def one_layer(problem_shape, kernel=3, stride=1, activation="leaky_relu", skip=False):
    """input -> 1x1 to `channels` -> the layer under test [+ skip].

    Args:
        problem_shape: (channels, filters, height, width) of the layer under test.
    """
    channels, filters, height, width = problem_shape
    layers = [
        Conv("first", ("input",), 1, channels, 1, activation="relu"),
        Conv("tested", ("first",), channels, filters, kernel, stride, kernel // 2,
             activation=activation),
    ]  # fmt: skip
    last = "tested"
    if skip:
        layers.insert(1, Conv("other", ("first",), channels, filters, 1, stride))
        layers.append(Shortcut("sum", ("other", "tested"), "relu"))
        last = "sum"
    return NetworkSpec("one", InputSpec(1, height, width), tuple(layers), (last,), ())


def one_layer_many_times(spec, count):
    """`one_layer` with skip, its tested layer and sum `count` times side by side."""
    head = [spec.layer("first"), spec.layer("other")]
    tested, total = spec.layer("tested"), spec.layer("sum")
    for number in range(count):
        name = f"tested{number}"
        head.append(tested._replace(name=name))
        head.append(total._replace(name=f"sum{number}", inputs=("other", name)))
    outputs = tuple(f"sum{number}" for number in range(count))
    return spec._replace(layers=tuple(head), outputs=outputs)


def every_op():
    """Every layer kind, odd sizes, a route of unequal parts, a flat sum, shared heads."""

    def conv(name, source, inputs, outputs, kernel=3, stride=1, **more):
        return Conv(name, (source,), inputs, outputs, kernel, stride, kernel // 2, **more)

    layers = (
        conv("c0", "input", 3, 7, 5, activation="leaky_relu"),
        conv("c1", "c0", 7, 19, 3, 2, activation="relu"),
        conv("c2", "c1", 19, 19, 1, activation="leaky_relu"),
        conv("c3", "c2", 19, 19),
        Shortcut("s4", ("c3", "c1"), "leaky_relu"),
        Shortcut("s5", ("s4", "c2", "c1")),
        MaxPool("p6", ("s5",), 2, 2, 0, 1),
        MaxPool("p7", ("p6",), 3, 1, 1, 1),
        conv("c8", "p7", 19, 33, 7, activation="relu"),
        Upsample("u9", ("c8",), 2),
        Route("r10", ("u9", "u9")),
        conv("c11", "p6", 19, 5, 1),
        Route("r12", ("c8", "c11", "p7")),
        conv("c13", "r12", 57, 12, 1),
        Detect("d14", ("c13",), ((4.0, 5.0), (8.0, 7.0)), 1, 4),
        GlobalAvgPool("g15", ("r12",)),
        Linear("l16", ("g15",), 57, 21, activation="relu"),
        Flatten("f17", ("c11",)),
        Linear("l18", ("f17",), 5 * 6 * 7, 21),
        Shortcut("s19", ("l16", "l18"), "relu"),
        Linear("l20", ("s19",), 21, 3),
        conv("c21", "r10", 66, 4, 3, 3),
        Route("r22", ("input", "c0")),
        conv("c23", "r22", 10, 3, 1),
    )
    outputs = ("d14", "l20", "c21", "r10", "c23", "s4")
    return NetworkSpec("every", InputSpec(3, 21, 25), layers, outputs, ())


def residual_tower(widths=(8, 24, 40)):
    """Alternating 1x1 and 3x3 convolutions with shortcuts and strides, as YOLOv3 has them."""
    layers = [Conv("stem", ("input",), 1, widths[0], 3, 1, 1, activation="leaky_relu")]
    last, channels = "stem", widths[0]
    for stage, width in enumerate(widths):
        down, thin, wide, total = (f"{kind}{stage}" for kind in ("down", "thin", "wide", "sum"))
        layers += [
            Conv(down, (last,), channels, width, 3, 2, 1, activation="leaky_relu"),
            Conv(thin, (down,), width, width // 2, 1, activation="leaky_relu"),
            Conv(wide, (thin,), width // 2, width, 3, 1, 1, activation="leaky_relu"),
            Shortcut(total, (wide, down)),
        ]
        last, channels = total, width
    return NetworkSpec("tower", InputSpec(1, 45, 53), tuple(layers), (last,), ())


def reference(spec, tensors, image):
    """Output name -> value of one image by the NumPy engine."""
    return {k: v[0] for k, v in ReferenceEngine(spec, tensors).run(image[None]).items()}


def quantized(weight, input_range):
    """int8 weights per filter, and inputs in [low, high] as uint8."""
    scales = np.abs(weight).max(axis=(1, 2, 3)).astype(np.float32) / np.float32(127)
    scales[scales == 0] = 1
    integers = np.rint(weight / scales[:, None, None, None]).astype(np.int8)
    low, high = input_range
    input_scale = (high - low) / 255
    return LayerQuantization(integers, scales, input_scale, int(np.rint(-low / input_scale)))


def random_image(spec, seed=1):
    size = (spec.input.channels, spec.input.height, spec.input.width)
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def relative_error(value, expected):
    """Largest error over the largest value."""
    return float(np.abs(value.ravel() - expected.ravel()).max() / np.abs(expected).max())


def random_weight(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer_problem(weight, height=13, width=13, stride=1):
    """A convolution of the weight (O, I, K, K) with outputs of height x width."""
    n_filters, n_inputs, kernel, _ = weight.shape
    layer = Conv("tested", ("before",), n_inputs, n_filters, kernel, stride, kernel // 2)
    return LayerProblem(layer, weight, height * stride, width * stride, height, width, False)
