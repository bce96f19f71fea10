"""IoU and complete IoU of box pairs, differentiable (Zheng et al. 2020, arXiv 1911.08287)."""

import math

import torch
from torch import Tensor

EPS = 1e-7


def iou_and_ciou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and CIoU of each pair.

    CIoU = IoU - d^2 / c^2 - alpha * v, with d the distance of the centres, c the diagonal of the
    smallest box around both, v = (4 / pi^2) (atan(w_b / h_b) - atan(w_a / h_a))^2 and
    alpha = v / (1 - IoU + v), a constant for the gradient (equations 7 to 12).

    Args:
        a: (n, 4) cx, cy, w, h in pixels, float32.
        b: (n, 4) alike.

    Returns:
        IoU (n,) in 0..1 and CIoU (n,) in -1.5..1.
    """
    a_low, a_high = a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2
    b_low, b_high = b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2
    overlap = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(1)
    union = a[:, 2:].prod(1) + b[:, 2:].prod(1) - overlap
    iou = overlap / (union + EPS)
    hull = torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)
    diagonal = hull.square().sum(1) + EPS
    distance = (a[:, :2] - b[:, :2]).square().sum(1)
    angle = torch.atan(b[:, 2] / (b[:, 3] + EPS)) - torch.atan(a[:, 2] / (a[:, 3] + EPS))
    v = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        alpha = v / (1 - iou + v + EPS)
    return iou, iou - distance / diagonal - alpha * v
