"""Networks that people bring, written from their papers at small widths: judges of the import."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """He et al. 2015, figure 5 left."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """He et al. 2015, figure 5 right."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def projection(channels: int, out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet(nn.Module):
    """ResNet-18 and -50 with a stem of 7 x 7, as torchvision names its parts."""

    def __init__(self, block: type, depths: tuple[int, ...], width: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages = width, []
        for i, depth in enumerate(depths):
            layers = []
            for j in range(depth):
                layers.append(block(channels, width * 2**i, 2 if i and not j else 1))
                channels = width * 2**i * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(width: int = 8) -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), width)


def resnet50(width: int = 4) -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3), width)


class InvertedResidual(nn.Module):
    """Sandler et al. 2018, table 1: expand, depthwise, project without activation."""

    def __init__(self, channels: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = channels * expand
        layers: list[nn.Module] = []
        if expand > 1:
            layers += conv_norm(channels, hidden, 1)
        layers += conv_norm(hidden, hidden, 3, stride, groups=hidden)
        layers += [nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


def conv_norm(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> list:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out), nn.ReLU6(inplace=True)]


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, table 2, width multiplier an eighth."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        plan = [
            (1, 4, 1, 1),
            (6, 4, 2, 2),
            (6, 8, 3, 2),
            (6, 8, 2, 2),
            (6, 12, 2, 1),
            (6, 16, 1, 2),
        ]
        layers: list[nn.Module] = [nn.Sequential(*conv_norm(3, 8, 3, 2))]
        channels = 8
        for expand, out, repeats, stride in plan:
            for i in range(repeats):
                layers.append(InvertedResidual(channels, out, stride if i == 0 else 1, expand))
                channels = out
        layers.append(nn.Sequential(*conv_norm(channels, 32, 1)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(x.flatten(1))


class DenseLayer(nn.Module):
    """Huang et al. 2016: norm, ReLU, 1 x 1, norm, ReLU, 3 x 3; the input is kept beside it."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = (
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 4 * growth, 1, bias=False),
        )
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseNet(nn.Module):
    """DenseNet-BC with three blocks."""

    def __init__(self, growth: int = 4, depth: int = 3, classes: int = 10) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for i in range(3):
            layers = [DenseLayer(channels + j * growth, growth) for j in range(depth)]
            self.blocks.append(nn.ModuleList(layers))
            channels += depth * growth
            if i < 2:
                self.transitions.append(nn.Sequential(
                    nn.BatchNorm2d(channels), nn.ReLU(),
                    nn.Conv2d(channels, channels // 2, 1, bias=False),
                    nn.AvgPool2d(2)))  # fmt: skip
                channels //= 2
        self.norm, self.fc = nn.BatchNorm2d(channels), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            features = [x]
            for layer in block:
                features.append(layer(features))
            x = torch.cat(features, 1)
            if i < 2:
                x = self.transitions[i](x)
        return self.fc(F.relu(self.norm(x)).mean((2, 3)))


class UNet(nn.Module):
    """Ronneberger et al. 2015, three levels, with padding, norms and transposed convolutions."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.down1, self.down2 = double(1, width), double(width, 2 * width)
        self.bottom, self.pool = double(2 * width, 4 * width), nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.merge2, self.merge1 = double(4 * width, 2 * width), double(2 * width, width)
        self.up1 = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(2 * width, width, 1),
        )
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(self.pool(a))
        c = self.bottom(self.pool(b))
        b = self.merge2(torch.cat([b, self.up2(c)], dim=1))
        return self.head(self.merge1(torch.cat([a, self.up1(b)], dim=1)))


def double(channels: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for source in (channels, out):
        layers += [
            nn.Conv2d(source, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(True),
        ]
    return nn.Sequential(*layers)


class ConvSilu(nn.Module):
    """Convolution, norm with YOLO's eps, SiLU."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(out, eps=1e-3), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class C2f(nn.Module):
    """YOLOv8's block: split, a chain of residual bottlenecks, everything joined again."""

    def __init__(self, channels: int, out: int, depth: int) -> None:
        super().__init__()
        self.half = out // 2
        self.cv1, self.cv2 = ConvSilu(channels, out), ConvSilu((2 + depth) * self.half, out)
        self.m = nn.ModuleList(
            nn.Sequential(ConvSilu(self.half, self.half, 3), ConvSilu(self.half, self.half, 3))
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(parts[-1] + block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Sppf(nn.Module):
    """YOLOv5's pyramid pooling: three pools in a row."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvSilu(channels, channels // 2), ConvSilu(channels * 2, channels)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Yolo(nn.Module):
    """A backbone and two heads in the manner of YOLOv8."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.stem, self.down = ConvSilu(3, w, 3, 2), ConvSilu(w, 2 * w, 3, 2)
        self.c2f1, self.down2 = C2f(2 * w, 2 * w, 2), ConvSilu(2 * w, 4 * w, 3, 2)
        self.c2f2, self.sppf = C2f(4 * w, 4 * w, 1), Sppf(4 * w)
        self.up, self.c2f3 = nn.Upsample(scale_factor=2), C2f(6 * w, 2 * w, 1)
        self.box, self.cls = nn.Conv2d(2 * w, 8, 1), nn.Conv2d(2 * w, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.c2f1(self.down(self.stem(x)))
        b = self.sppf(self.c2f2(self.down2(a)))
        y = self.c2f3(torch.cat([self.up(b), a], 1))
        return self.box(y), self.cls(y)


class VitBlock(nn.Module):
    """Dosovitskiy et al. 2020, with the joined projection of queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(n, t, d))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches, class token, position embedding; half of the blocks with torch's own attention."""

    def __init__(self, dim: int = 16, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.1)
        self.pos = nn.Parameter(torch.randn(1, 17, dim) * 0.1)
        self.block1 = VitBlock(dim, heads)
        self.block2 = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.block2(self.block1(x)))[:, 0])


NETWORKS = OrderedDict(
    [
        ("resnet18", (resnet18, (3, 32, 32))),
        ("resnet50", (resnet50, (3, 32, 32))),
        ("mobilenetv2", (MobileNetV2, (3, 32, 32))),
        ("densenet", (DenseNet, (3, 16, 16))),
        ("unet", (UNet, (1, 16, 16))),
        ("yolo", (Yolo, (3, 32, 32))),
        ("vit", (Vit, (3, 32, 32))),
    ]
)


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network with trained-looking norms, in evaluation mode, and an example of two images."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module = make()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval(), torch.randn(2, *shape)
