"""Random coupled networks and weights for the compression tests."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from pneumonia.network.module import Network
from pneumonia.runtime.model import layers
from pneumonia.runtime.model.spec import INPUT, InputSpec, NetworkSpec, tensor_shapes

ACTIVATIONS = ("linear", "leaky_relu", "relu")


class _Grower:
    """Grows a random graph: every new layer reads earlier ones that fit."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.layers: list[layers.Layer] = []
        self.input = InputSpec(draw(st.integers(1, 3)), 8, 8)

    def spec(self, outputs: tuple[str, ...] = ()) -> NetworkSpec:
        return NetworkSpec("random", self.input, tuple(self.layers), outputs, ("a",))

    def maps(self) -> dict[str, tuple[int, int, int]]:
        return {k: s for k, s in self.spec().shapes().items() if s[1:] != (1, 1)}

    def name(self, op: str) -> str:
        return f"{op}_{len(self.layers):03d}"

    def conv(self, source: str, out: int, kernel: int = 3, stride: int = 1) -> str:
        batch_norm = self.draw(st.booleans())
        self.layers.append(
            layers.Conv(
                self.name("conv"),
                (source,),
                self.spec().shapes()[source][0],
                out,
                kernel,
                stride,
                self.draw(st.sampled_from([0, 1])) if kernel == 3 and stride > 1 else kernel // 2,
                self.draw(st.booleans()),
                batch_norm,
                self.draw(st.sampled_from(ACTIVATIONS)),
            )
        )
        return self.layers[-1].name

    def step(self) -> None:
        draw, maps = self.draw, self.maps()
        source = draw(st.sampled_from(sorted(maps)))
        channels, height, _ = maps[source]
        kind = draw(
            st.sampled_from(["conv", "conv", "residual", "add", "route", "pool", "upsample"])
        )
        if kind == "conv":
            stride = draw(st.sampled_from([1, 2])) if height >= 4 else 1
            self.conv(source, draw(st.integers(1, 6)), draw(st.sampled_from([1, 3])), stride)
        elif kind == "residual":
            last = self.conv(self.conv(source, draw(st.integers(1, 4)), 1), channels, 3)
            self.layers.append(layers.Shortcut(self.name("shortcut"), (last, source)))
        elif kind == "add":
            same = sorted(k for k, s in maps.items() if s == maps[source])
            other = draw(st.sampled_from(same))
            activation = draw(st.sampled_from(ACTIVATIONS))
            self.layers.append(layers.Shortcut(self.name("shortcut"), (source, other), activation))
        elif kind == "route":
            same = sorted(k for k, s in maps.items() if s[1:] == maps[source][1:])
            others = draw(st.lists(st.sampled_from(same), max_size=2))
            self.layers.append(layers.Route(self.name("route"), (source, *others)))
        elif kind == "pool" and height >= 4:
            self.layers.append(layers.MaxPool(self.name("maxpool"), (source,), 2, 2))
        elif kind == "upsample" and height <= 8:
            self.layers.append(layers.Upsample(self.name("upsample"), (source,), 2))

    def head(self) -> str:
        source = self.draw(st.sampled_from(sorted(self.maps())))
        if self.draw(st.booleans()):
            return self.conv(source, 3, 1)
        op = layers.GlobalAvgPool if self.draw(st.booleans()) else layers.Flatten
        self.layers.append(op(self.name("flat"), (source,)))
        features = self.spec().shapes()[self.layers[-1].name][0]
        hidden = layers.Linear(
            self.name("linear"), (self.layers[-1].name,), features, 4, True, "relu"
        )
        self.layers.append(hidden)
        self.layers.append(layers.Linear(self.name("linear"), (hidden.name,), 4, 2))
        return self.layers[-1].name


@st.composite
def random_specs(draw: st.DrawFn) -> NetworkSpec:
    """Coupled networks of up to about 15 layers on 8 x 8 inputs."""
    grower = _Grower(draw)
    grower.conv(INPUT, draw(st.integers(1, 5)))
    for _ in range(draw(st.integers(1, 7))):
        grower.step()
    heads = tuple(grower.head() for _ in range(draw(st.integers(1, 2))))
    spec = grower.spec(heads)
    spec.shapes()
    return spec


def random_tensors(spec: NetworkSpec, seed: int) -> dict[str, Tensor]:
    """Gaussian tensors with batch-norm variances near 1."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        tensor = torch.randn(*shape, generator=generator)
        if name.endswith(".bn_var"):
            tensor = tensor.abs() * 0.5 + 0.5
        elif name.endswith(".weight"):
            tensor = tensor / max(tensor[0].numel(), 1) ** 0.5
        tensors[name] = tensor
    return tensors


def run(spec: NetworkSpec, tensors: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Outputs for two random images."""
    network = Network(spec).eval()
    network.load_tensors(tensors)
    entry = spec.input
    shape = (2, entry.channels, entry.height, entry.width)
    images = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return network(images)
