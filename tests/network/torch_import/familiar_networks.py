"""Small networks in the manner of well-known repositories, as their users write them."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.network.torch_import.torch_networks import ConvSilu


def norm_relu(channels: int, out: int, kernel: int = 3, stride: int = 1, **more: int) -> nn.Module:
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, padding, bias=False, **more),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


class SelectAdaptivePool(nn.Module):
    """timm's head: pool, then flatten."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True).flatten(1)


class SqueezeExcite(nn.Module):
    """timm's: mean, reduce, expand, gate."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce, self.act = nn.Conv2d(channels, reduced, 1), nn.SiLU(inplace=True)
        self.conv_expand, self.gate = nn.Conv2d(reduced, channels, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.conv_expand(self.act(self.conv_reduce(y))))


class LinearSqueezeExcite(nn.Module):
    """Hu et al. 2018 with fully connected layers and views."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, reduced, bias=False), nn.ReLU(inplace=True),
            nn.Linear(reduced, channels, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.size()
        y = self.pool(x).view(n, c)
        return x * self.fc(y).view(n, c, 1, 1).expand_as(x)


class ResNeXtBlock(nn.Module):
    """Xie et al. 2017: a bottleneck of grouped convolutions."""

    def __init__(self, channels: int, width: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            norm_relu(channels, width, 1),
            norm_relu(width, width, 3, stride, groups=groups),
        )
        self.conv3 = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))
        self.se = SqueezeExcite(out, 4)
        self.downsample = (
            nn.Identity()
            if stride == 1 and channels == out
            else nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(channels, out, 1, bias=False),
                nn.BatchNorm2d(out),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.se(self.conv3(self.conv2(self.conv1(x)))) + self.downsample(x))


def resnext() -> nn.Module:
    return nn.Sequential(
        norm_relu(3, 8, 3, 2), nn.MaxPool2d(3, 2, 1),
        ResNeXtBlock(8, 16, 16, 1, 4), ResNeXtBlock(16, 16, 16, 1, 4),
        ResNeXtBlock(16, 32, 24, 2, 4), SelectAdaptivePool(), nn.Linear(24, 10),
    )  # fmt: skip


class MbConv(nn.Module):
    """EfficientNet's block: expand, depthwise with TensorFlow's padding, squeeze, project."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden, self.stride, self.kernel = channels * 4, stride, kernel
        self.conv_pw, self.bn1 = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv_dw = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self.bn2, self.se = nn.BatchNorm2d(hidden), SqueezeExcite(hidden, 4)
        self.conv_pwl, self.bn3 = nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = F.silu(self.bn1(self.conv_pw(x)))
        height, width = x.shape[-2:]
        pads = [
            max((math.ceil(size / self.stride) - 1) * self.stride + self.kernel - size, 0)
            for size in (width, height)
        ]
        sides = [side for pad in pads for side in (pad // 2, pad - pad // 2)]
        x = self.se(F.silu(self.bn2(self.conv_dw(F.pad(x, sides)))))
        x = self.bn3(self.conv_pwl(x))
        return x + shortcut if x.shape == shortcut.shape else x


def efficientnet() -> nn.Module:
    return nn.Sequential(
        ConvSilu(3, 8, 3, 2), MbConv(8, 8, 3, 1), MbConv(8, 12, 5, 2), MbConv(12, 12, 3, 1),
        ConvSilu(12, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(32, 10),
    )  # fmt: skip


class HandWrittenLayerNorm(nn.Module):
    """ConvNeXt's `channels_first`: mean and variance over the channels by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022: depthwise 7 x 7, norm, MLP on the last axis, layer scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm, self.pwconv1 = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 4 * dim)
        self.act, self.pwconv2 = nn.GELU(), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(0.1 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    norm = HandWrittenLayerNorm
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), norm(8), ConvNeXtBlock(8), norm(8), nn.Conv2d(8, 12, 2, 2),
        ConvNeXtBlock(12), SelectAdaptivePool(), nn.LayerNorm(12), nn.Linear(12, 10),
    )  # fmt: skip


class RegNetBlock(nn.Module):
    """Radosavovic et al. 2020, Y: groups of a fixed width and squeeze-excitation."""

    def __init__(self, channels: int, out: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            norm_relu(channels, out, 1), norm_relu(out, out, 3, stride, groups=out // group_width),
            LinearSqueezeExcite(out, 4), nn.Conv2d(out, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.proj = None
        if stride > 1 or channels != out:
            self.proj = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu((x if self.proj is None else self.proj(x)) + self.f(x))


def regnet() -> nn.Module:
    return nn.Sequential(
        norm_relu(3, 8, 3, 2), RegNetBlock(8, 16, 2, 4), RegNetBlock(16, 16, 1, 4),
        RegNetBlock(16, 24, 2, 8), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, channels, height, width = x.size()
    x = x.view(n, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(n, channels, height, width)


class ShuffleUnit(nn.Module):
    """Ma et al. 2018: half of the channels pass, then all are shuffled."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        branch, self.stride = out // 2, stride
        inside = channels if stride > 1 else channels // 2

        def depthwise(c: int) -> list[nn.Module]:
            return [nn.Conv2d(c, c, 3, stride, 1, groups=c, bias=False), nn.BatchNorm2d(c)]

        self.branch1 = (
            nn.Sequential(*depthwise(inside), norm_relu(inside, branch, 1))
            if stride > 1
            else nn.Identity()
        )
        self.branch2 = nn.Sequential(
            norm_relu(inside, branch, 1), *depthwise(branch), norm_relu(branch, branch, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            joined = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            joined = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(joined, 2)


def shufflenet() -> nn.Module:
    return nn.Sequential(
        norm_relu(3, 8, 3, 2), ShuffleUnit(8, 16, 2), ShuffleUnit(16, 16, 1),
        ShuffleUnit(16, 24, 2), ShuffleUnit(24, 24, 1), norm_relu(24, 32, 1),
        SelectAdaptivePool(), nn.Linear(32, 10),
    )  # fmt: skip


class HighResolution(nn.Module):
    """Wang et al. 2019: three resolutions that exchange what they have."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 12, 16)
        self.stem = norm_relu(3, 8, 3, 2)
        self.down = nn.ModuleList([norm_relu(8, 12, 3, 2), norm_relu(12, 16, 3, 2)])
        self.branches = nn.ModuleList([norm_relu(w, w) for w in widths])
        self.fuse = nn.ModuleList()
        for i, out in enumerate(widths):
            row = nn.ModuleList()
            for j, channels in enumerate(widths):
                if j == i:
                    row.append(nn.Identity())
                elif j > i:
                    row.append(nn.Sequential(
                        nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out),
                        nn.Upsample(scale_factor=2 ** (j - i), mode="nearest")))  # fmt: skip
                else:
                    steps: list[nn.Module] = [norm_relu(channels, channels, 3, 2)] * (i - j - 1)
                    steps += [nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out)]
                    row.append(nn.Sequential(*steps))
            self.fuse.append(row)
        self.last = nn.Conv2d(sum(widths), 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down[0](x)
        x = [branch(v) for branch, v in zip(self.branches, (x, y, self.down[1](y)), strict=True)]
        fused = []
        for row in self.fuse:
            total = row[0](x[0])
            for j in range(1, len(x)):
                total = total + row[j](x[j])
            fused.append(F.relu(total))
        size = fused[0].shape[2:]
        others = [
            F.interpolate(v, size=size, mode="bilinear", align_corners=False) for v in fused[1:]
        ]
        return self.last(torch.cat([fused[0], *others], 1))


class InceptionBlock(nn.Module):
    """Szegedy et al. 2015: four branches, one with asymmetric kernels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = norm_relu(channels, 8, 1)
        self.three = nn.Sequential(norm_relu(channels, 6, 1), norm_relu(6, 8))
        self.wide = nn.Sequential(
            nn.Conv2d(channels, 6, (1, 7), padding=(0, 3), bias=False), nn.BatchNorm2d(6),
            nn.Conv2d(6, 8, (7, 1), padding=(3, 0), bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        )  # fmt: skip
        self.pool = norm_relu(channels, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        return torch.cat([self.one(x), self.three(x), self.wide(x), self.pool(pooled)], 1)


class Inception(nn.Module):
    """Two blocks, a reduction and the auxiliary head that evaluation leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block1 = norm_relu(3, 8, 3, 2), InceptionBlock(8)
        self.block2, self.aux = InceptionBlock(32), nn.Linear(32, 10)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 0.5 + 0.1  # transform_input
        x = self.block1(self.stem(x))
        if self.training:
            self.aux(x.mean((2, 3)))
        x = torch.cat([F.max_pool2d(x, 3, stride=2), F.max_pool2d(self.block2(x), 3, 2)], 1)
        return self.fc(
            torch.flatten(F.dropout(F.adaptive_avg_pool2d(x, 1), training=self.training), 1)
        )


class NestedUNet(nn.Module):
    """Zhou et al. 2018 (UNet++): nested, dense skips, deep supervision, any image size."""

    def __init__(self) -> None:
        super().__init__()
        w = (4, 8, 12)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv0_0, self.conv1_0, self.conv2_0 = (
            norm_relu(3, w[0]), norm_relu(w[0], w[1]), norm_relu(w[1], w[2])
        )  # fmt: skip
        self.conv0_1, self.conv1_1 = norm_relu(w[0] + w[1], w[0]), norm_relu(w[1] + w[2], w[1])
        self.conv0_2 = norm_relu(2 * w[0] + w[1], w[0])
        self.final1, self.final2 = nn.Conv2d(w[0], 2, 1), nn.Conv2d(w[0], 2, 1)

    def up(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        x0_0 = self.conv0_0(x)
        x1_0 = self.conv1_0(self.pool(x0_0))
        x0_1 = self.conv0_1(torch.cat([x0_0, self.up(x1_0, x0_0)], 1))
        x2_0 = self.conv2_0(self.pool(x1_0))
        x1_1 = self.conv1_1(torch.cat([x1_0, self.up(x2_0, x1_0)], 1))
        x0_2 = self.conv0_2(torch.cat([x0_0, x0_1, self.up(x1_1, x0_0)], 1))
        return [self.final1(x0_1), self.final2(x0_2)]


class Detr(nn.Module):
    """The minimal DETR of Carion et al. 2020: backbone, nn.Transformer, learned queries."""

    def __init__(self, dim: int = 16, heads: int = 4, queries: int = 5) -> None:
        super().__init__()
        self.backbone = nn.Sequential(norm_relu(3, 8, 3, 2), norm_relu(8, 12, 3, 2))
        self.conv = nn.Conv2d(12, dim, 1)
        self.transformer = nn.Transformer(dim, heads, 1, 1, 32, batch_first=True)
        self.linear_class, self.linear_bbox = nn.Linear(dim, 4), nn.Linear(dim, 4)
        self.query_pos = nn.Parameter(torch.rand(queries, dim))
        self.row_embed = nn.Parameter(torch.rand(20, dim // 2))
        self.col_embed = nn.Parameter(torch.rand(20, dim // 2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.conv(self.backbone(x))
        height, width = h.shape[-2:]
        pos = torch.cat([
            self.col_embed[:width].unsqueeze(0).repeat(height, 1, 1),
            self.row_embed[:height].unsqueeze(1).repeat(1, width, 1),
        ], dim=-1).flatten(0, 1).unsqueeze(0)  # fmt: skip
        source = pos + 0.1 * h.flatten(2).permute(0, 2, 1)
        target = self.query_pos.unsqueeze(0).expand(len(x), -1, -1)
        h = self.transformer(source, target)
        return {"logits": self.linear_class(h), "boxes": self.linear_bbox(h).sigmoid()}


class MobileVitBlock(nn.Module):
    """Mehta & Rastegari 2022: patches unfolded, a transformer over them, folded again."""

    def __init__(self, channels: int, dim: int, patch: int = 2) -> None:
        super().__init__()
        self.conv1, self.conv2 = norm_relu(channels, channels), nn.Conv2d(channels, dim, 1)
        self.layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, batch_first=True, norm_first=True)
        self.conv3, self.conv4 = norm_relu(dim, channels, 1), norm_relu(2 * channels, channels)
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        y, p = self.conv2(self.conv1(x)), self.patch
        n, d, height, width = y.shape
        rows, columns = height // p, width // p
        y = y.reshape(n * d * rows, p, columns, p).transpose(1, 2)
        y = y.reshape(n, d, rows * columns, p * p).transpose(1, 3).reshape(n * p * p, -1, d)
        y = self.layer(y)
        y = y.contiguous().view(n, p * p, rows * columns, d).transpose(1, 3)
        y = y.reshape(n * d * rows, columns, p, p).transpose(1, 2).reshape(n, d, height, width)
        return self.conv4(torch.cat((x, self.conv3(y)), dim=1))


def mobilevit() -> nn.Module:
    return nn.Sequential(
        ConvSilu(3, 8, 3, 2), MobileVitBlock(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip


class GhostModule(nn.Module):
    """Han et al. 2020: half of the maps are cheap copies of the others."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.oup, init = out, math.ceil(out / 2)
        self.primary_conv = norm_relu(channels, init, 1)
        self.cheap_operation = norm_relu(init, init, 3, groups=init)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary_conv(x)
        return torch.cat([x1, self.cheap_operation(x1)], dim=1)[:, : self.oup, :, :]


class HardSqueezeExcite(nn.Module):
    """GhostNet's: a gate of `hard_sigmoid` written as relu6(x + 3) / 6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv_expand(F.relu(self.conv_reduce(self.avg_pool(x))))
        return x * (F.relu6(gate + 3.0) / 6.0)


class GhostBottleneck(nn.Module):
    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.ghost1, self.se = GhostModule(channels, hidden), HardSqueezeExcite(hidden)
        self.ghost2 = GhostModule(hidden, out)
        self.shortcut = nn.Sequential() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ghost2(self.se(self.ghost1(x)))
        y += self.shortcut(x)
        return y


def ghostnet() -> nn.Module:
    return nn.Sequential(
        norm_relu(3, 8, 3, 2), GhostBottleneck(8, 17, 8), GhostBottleneck(8, 16, 13),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(13, 10),
    )  # fmt: skip


class RepVggBlock(nn.Module):
    """Ding et al. 2021, as it trains: 3 x 3, 1 x 1 and a batch norm alone, added."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        same = out == channels and stride == 1
        self.rbr_identity = nn.BatchNorm2d(channels) if same else None
        self.rbr_dense = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        )
        self.rbr_1x1 = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return F.relu(self.rbr_dense(x) + self.rbr_1x1(x) + skip)


def repvgg() -> nn.Module:
    return nn.Sequential(
        RepVggBlock(3, 8, 2), RepVggBlock(8, 8, 1), RepVggBlock(8, 16, 2), RepVggBlock(16, 16, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, 10),
    )  # fmt: skip


FAMILIAR: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnext": (resnext, 32),
    "efficientnet": (efficientnet, 30),
    "convnext": (convnext, 32),
    "regnet": (regnet, 32),
    "shufflenet": (shufflenet, 32),
    "hrnet": (HighResolution, 32),
    "inception": (Inception, 31),
    "unet++": (NestedUNet, 18),
    "detr": (Detr, 16),
    "mobilevit": (mobilevit, 16),
    "ghostnet": (ghostnet, 32),
    "repvgg": (repvgg, 32),
}
