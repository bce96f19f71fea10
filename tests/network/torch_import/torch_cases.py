"""Small modules of the ops that people use, and the imports and prunings that tests share."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.network.torch_import.imported import ImportedNetwork, from_torch
from pneumonia.runtime.model.spec import NetworkSpec
from tests.network.torch_import.torch_networks import network


@cache
def imported(name: str) -> tuple[nn.Module, Tensor, ImportedNetwork]:
    module, x = network(name)
    return module, x, from_torch(module, x).eval()


def outputs(module: nn.Module, x: Tensor) -> list[Tensor]:
    """What the module returns, as a list."""
    with torch.no_grad():
        found = module(x)
    return [found] if isinstance(found, Tensor) else list(found)


def pruned(found: ImportedNetwork, rate: float) -> tuple[dict[str, Tensor], ImportedNetwork]:
    """Masked dense tensors, and the compacted network, filters alone, in float64."""
    graph = ChannelGraph(found.spec)
    method = StructuredMethod(filter_share=1.0, round_to=1)
    rates = {layer.name: rate for layer in found.spec.weighted()}
    hard = method.sets(graph, rates).hard
    weights = {n: w.detach().double() for n, w in found.weights().items()}
    masks = {n: p.mask for n, p in hard.project(weights).items()}
    masks = hard.remove_dead_paths(weights, masks)
    tensors = {n: t.double() for n, t in found.tensors().items()}
    small, kept = compact(found.spec, tensors, masks)
    return masked_tensors(graph, tensors, masks), doubled(found, small, kept)


def doubled(found: ImportedNetwork, spec: NetworkSpec, tensors) -> ImportedNetwork:
    made = found.resized(spec, tensors).double().eval()
    for name, tensor in made.tensors().items():
        tensor.copy_(tensors[name])
    return made


class Forward(nn.Module):
    """A module from a function."""

    def __init__(self, function, **parts) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def shuffle(m: nn.Module, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    return m.b(m.a(x).reshape(n, 2, 4, h, w).transpose(1, 2).reshape(n, 8, h, w))


def shuffle_and_split(m: nn.Module, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    y = m.a(x).view(n, 2, 4, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
    left, right = y.chunk(2, dim=1)
    return m.b(torch.cat([left, m.c(right)], 1))


def multihead(m: nn.Module, x: Tensor) -> Tensor:
    tokens = m.a(x).flatten(2).transpose(1, 2)
    return m.b(m.attention(tokens, tokens, tokens)[0].mean(1))


def in_place(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    F.relu_(y)
    return m.b(y) + y.mean()


def in_place_alone(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    F.relu_(y)
    return m.b(y)


def squeeze_excite(m: nn.Module, x: Tensor) -> Tensor:
    y = F.silu(m.a(x))
    return m.b(y * m.gate(F.adaptive_avg_pool2d(y, 1)))


def spatial_gate(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y * torch.sigmoid(m.one(y)))


def conv_next(m: nn.Module, x: Tensor) -> Tensor:
    y = m.norm(m.a(x).permute(0, 2, 3, 1))
    y = m.scale * m.lin(F.gelu(y))
    return m.b(y.permute(0, 3, 1, 2))


def layer_norm_by_hand(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    u = y.mean(1, keepdim=True)
    s = (y - u).pow(2).mean(1, keepdim=True)
    y = (y - u) / torch.sqrt(s + 1e-6)
    return m.b(m.scale[:, None, None] * y + 0.1)


def layer_norm_by_variance(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x).permute(0, 2, 3, 1)
    variance = y.var(-1, keepdim=True, unbiased=False)
    y = (y - y.mean(-1, keepdim=True)) * torch.rsqrt(variance + 1e-5)
    return m.b(y.permute(0, 3, 1, 2))


def rms_norm_by_hand(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x).permute(0, 2, 3, 1)
    y = m.scale * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5))
    return m.b(y.permute(0, 3, 1, 2))


def einsum_attention(m: nn.Module, x: Tensor) -> Tensor:
    tokens = m.a(x).flatten(2).transpose(1, 2)
    n, t, c = tokens.shape
    q, k, v = (part(tokens).view(n, t, 2, c // 2) for part in (m.q, m.k, m.v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * 0.5
    mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(n, t, c)
    return m.b(mixed.mean(1))


def learned_queries(m: nn.Module, x: Tensor) -> Tensor:
    tokens = m.a(x).flatten(2).transpose(1, 2)
    queries = m.queries.unsqueeze(0).expand(len(x), -1, -1)
    return m.b(queries + m.attention(queries, tokens, tokens)[0])


def ends() -> dict[str, nn.Module]:
    return {"a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(8, 4, 3)}


def scaled(norm: nn.RMSNorm) -> nn.RMSNorm:
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm


torch.manual_seed(0)  # the weights below are the same every time
CASES = {
    "grouped": nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=4),
                             nn.Conv2d(16, 4, 1)),
    "dilated": nn.Sequential(nn.Conv2d(3, 8, (3, 1), dilation=(2, 1), padding=(2, 0)), nn.ELU(),
                             nn.Conv2d(8, 4, (1, 3), stride=(1, 2))),
    "same": nn.Sequential(nn.Conv2d(3, 8, 4, padding="same"), nn.Mish(),
                          nn.Conv2d(8, 4, 3, padding="same", dilation=2)),
    "reflect": nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.Hardswish(),
                             nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular")),
    "transposed": nn.Sequential(nn.ConvTranspose2d(3, 8, 3, 2, 1, 1), nn.LeakyReLU(0.2),
                                nn.ConvTranspose2d(8, 4, 2, groups=2, dilation=2)),
    "group norm": nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(4, 8), nn.ReLU(),
                                nn.Conv2d(8, 6, 3), nn.InstanceNorm2d(6), nn.Conv2d(6, 4, 1)),
    "flattened": nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 12),
                               nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 4)),
    "pooled": nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2, ceil_mode=True), nn.Hardsigmoid(),
                            nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.Conv2d(8, 4, 1)),
    "pixel shuffle": nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 4, 3)),
    "glu and maximum": Forward(lambda m, x: m.lin(F.glu(m.a(x), 1).amax((2, 3))),
                               a=nn.Conv2d(3, 16, 3), lin=nn.Linear(8, 4)),
    "shuffled channels": Forward(shuffle, **ends()),
    "shuffled and split": Forward(shuffle_and_split, **ends(), c=nn.Conv2d(4, 4, 1)),
    "torch's attention": Forward(multihead, a=nn.Conv2d(3, 8, 2, 2), b=nn.Linear(8, 4),
                                 attention=nn.MultiheadAttention(8, 2, batch_first=True)),
    "squeeze and excite": Forward(squeeze_excite, **ends(), gate=nn.Sequential(
        nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid())),
    "spatial gate": Forward(spatial_gate, **ends(), one=nn.Conv2d(8, 1, 1)),
    "convnext": Forward(conv_next, **ends(), norm=nn.LayerNorm(8), lin=nn.Linear(8, 8),
                        scale=nn.Parameter(torch.rand(8))),
    "prelu": nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 6, 3), nn.PReLU(),
                           nn.Conv2d(6, 4, 1)),
    "rms norm": Forward(conv_next, **ends(), norm=scaled(nn.RMSNorm(8)), lin=nn.Linear(8, 8),
                        scale=nn.Parameter(torch.rand(8))),
    "rms norm without gain": Forward(
        conv_next, **ends(), norm=nn.RMSNorm(8, eps=1e-3, elementwise_affine=False),
        lin=nn.Linear(8, 8), scale=nn.Parameter(torch.rand(8))),
    "rms norm by hand": Forward(rms_norm_by_hand, **ends(), scale=nn.Parameter(torch.rand(8))),
    "layer norm by hand": Forward(layer_norm_by_hand, **ends(), scale=nn.Parameter(torch.rand(8))),
    "layer norm by variance": Forward(layer_norm_by_variance, **ends()),
    "einsum attention": Forward(einsum_attention, a=nn.Conv2d(3, 8, 2, 2), q=nn.Linear(8, 8),
                                k=nn.Linear(8, 8), v=nn.Linear(8, 8), b=nn.Linear(8, 4)),
    "learned queries": Forward(learned_queries, a=nn.Conv2d(3, 8, 2, 2), b=nn.Linear(8, 4),
                               queries=nn.Parameter(torch.rand(1, 8)),
                               attention=nn.MultiheadAttention(8, 2, batch_first=True)),
    "larger by 1.5": Forward(lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=1.5)), **ends()),
    "bilinear to a size": Forward(
        lambda m, x: m.b(F.interpolate(m.a(x), size=(13, 21), mode="bilinear")), **ends()),
    "smaller, corners": Forward(lambda m, x: m.b(F.interpolate(
        m.a(x), size=(5, 7), mode="bilinear", align_corners=True)), **ends()),
    "slices": Forward(lambda m, x: m.b(torch.cat([m.a(x)[:, ::2], 1 - m.a(x)[:, 1::2] / 3], 1)),
                      **ends()),
}  # fmt: skip


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(dim=1).values * 2


def odd() -> nn.Module:
    return nn.Sequential(OrderedParts(nn.Conv2d(3, 8, 3), Sorted()), nn.Conv2d(8, 6, 3),
                         nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()  # fmt: skip


class OrderedParts(nn.Module):
    def __init__(self, first: nn.Module, odd: nn.Module) -> None:
        super().__init__()
        self.first, self.odd = first, odd

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self.first(x))
