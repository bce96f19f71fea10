"""Random distortion of the training images of `compression_tables`."""

import torch
import torch.nn.functional as F
from torch import Tensor


def distorted(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Every image (N, C, H, W) distorted at random, from not at all to `strength`.

    Grey images: rotation up to 0.25 rad, scale and shear up to 15 %, shift up to 2 px, and an
    elastic field of 5 x 5 nodes with sigma 1.2 px. Colour images: shift up to 4 px and a flip;
    a strength above 1 also blanks a square of 12 px.
    """
    if strength == 0:
        return images
    n, channels, size = images.shape[:3]
    if channels == 3:
        return _shifted_and_flipped(images, strength, generator)
    amount = strength * torch.rand(n, 1, generator=generator)
    angle, scale_x, scale_y, shear = (
        amount * (2 * torch.rand(n, 4, generator=generator) - 1)
        * torch.tensor([0.25, 0.15, 0.15, 0.15])
    ).T  # fmt: skip
    shift = amount * (2 * torch.rand(n, 2, generator=generator) - 1) * (2 * 2 / size)
    rows = [
        torch.stack([(1 + scale_x) * angle.cos(), shear - angle.sin(), shift[:, 0]], 1),
        torch.stack([angle.sin(), (1 + scale_y) * angle.cos(), shift[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    nodes = torch.randn(n, 2, 5, 5, generator=generator) * (amount[:, :, None, None] * 2.4 / size)
    field = F.interpolate(nodes, size=(size, size), mode="bilinear", align_corners=True)
    return F.grid_sample(images, grid + field.permute(0, 2, 3, 1), align_corners=False)


def _shifted_and_flipped(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    n, size, shift_px = len(images), images.shape[2], 4
    flip = torch.rand(n, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    padded = F.pad(images, (shift_px,) * 4, mode="reflect")
    corner = torch.randint(0, 2 * shift_px + 1, (n, 2), generator=generator)
    rows = corner[:, :1] + torch.arange(size)
    columns = corner[:, 1:] + torch.arange(size)
    out = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None]]
    out = out.permute(0, 3, 1, 2)
    if strength > 1:
        centre = torch.randint(0, size, (n, 2), generator=generator)
        near = (torch.arange(size) - centre[:, :, None]).abs() < 6  # (N, 2, size)
        out = out.masked_fill((near[:, 0, :, None] & near[:, 1, None])[:, None], 0.0)
    return out
