"""Assignment of boxes to anchors and grid cells.

The rule is YOLOv5's: an anchor answers for a box when their sides differ by less than a factor, at
every scale where it does, in the cell that holds the box's centre and in the two cells nearest to
it. Opacities are few (0.36 per radiograph) and large (a fifth of the frame wide), so that nearly
all anchors of all three scales answer: a box gives up to 27 positives instead of Darknet's one,
which is what a detector trained from few boxes lacks most. Unlike an assignment by predicted cost
(SimOTA) it does not depend on the network and is reproducible by hand.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.runtime.label_table import LUNG_OPACITY, NORMAL, NOT_NORMAL
from pneumonia.runtime.model.layers import Detect

UNBOXED = -1  # class of a target row that says: somewhere in this image, its boxes are unknown

# Classes of a whole image. A target row of class FIRST_IMAGE_CLASS - k says that its image is of
# class k; an image without such a row is of unknown class.
IMAGE_CLASSES = (NORMAL, NOT_NORMAL, LUNG_OPACITY)
FIRST_IMAGE_CLASS = -2


class AnchorMatches(NamedTuple):
    """Positives of one head; every field is int64 (m,)."""

    image: Tensor  # index in the batch
    anchor: Tensor  # index in the head's anchors
    # row, column: cell
    row: Tensor
    column: Tensor
    target: Tensor  # row of the target table


def match_anchors(sizes: Tensor, heads: Sequence[Detect], max_ratio: float) -> list[Tensor]:
    """Pairs of boxes and anchors whose shapes match closely enough.

    Args:
        sizes: (n, 2) width and height of the boxes in network pixels.
        max_ratio: An anchor fits when neither side differs by this factor or more.

    Returns:
        Per head (n, anchors) bool. A box that no anchor of any head fits gets the nearest one, so
        that no box is lost.
    """
    counts = [len(head.anchors) for head in heads]
    anchors = sizes.new_tensor([pair for head in heads for pair in head.anchors])
    ratio = sizes[:, None, :] / anchors[None]
    worst = torch.maximum(ratio, 1 / ratio).amax(2)  # (n, all anchors)
    fits = worst < max_ratio
    rows = torch.arange(len(sizes), device=sizes.device)
    fits[rows, worst.argmin(1)] = True
    return list(torch.split(fits, counts, dim=1))


def _cells(centre: Tensor, height: int, width: int, reach: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Grid cells assigned to box centres: (index of the centre, row, column), each (m,)."""
    limits = centre.new_tensor([width, height])
    own = torch.minimum(centre.floor(), limits - 1).clamp(min=0).long()  # (n, 2) column, row
    cells = [own]
    if reach:
        inside = centre - own
        for axis in (0, 1):
            # The nearer neighbour on this axis; a coding that reaches half a cell out gets there.
            step = torch.zeros_like(own)
            step[:, axis] = torch.where(inside[:, axis] < 0.5, -1, 1)
            cells.append(own + step)
    stacked = torch.stack(cells)  # (1 or 3, n, 2)
    valid = ((stacked >= 0) & (stacked < limits.long())).all(2)
    _, index = valid.nonzero(as_tuple=True)
    chosen = stacked[valid]
    return index, chosen[:, 1], chosen[:, 0]


def assign(
    targets: Tensor, heads: Sequence[Detect], grids: Sequence[tuple[int, int]], max_ratio: float
) -> list[AnchorMatches]:
    """Positives of every head.

    Args:
        targets: (n, 6) float32: image index, class, x1, y1, x2, y2 in network pixels.
        grids: (height, width) in cells of each head's map.
        max_ratio: See `match_anchors`.

    Returns:
        One Matches per head. With `darknet` coding a centre cannot leave its cell, so that only
        the cell itself answers.
    """
    size = targets[:, 4:6] - targets[:, 2:4]
    centre = (targets[:, 2:4] + targets[:, 4:6]) / 2
    found = []
    for head, grid, fits in zip(heads, grids, match_anchors(size, heads, max_ratio), strict=True):
        target, row, column = _cells(
            centre / head.stride, grid[0], grid[1], head.box_coding == "scaled"
        )
        place, anchor = fits[target].nonzero(as_tuple=True)
        target = target[place]
        found.append(
            AnchorMatches(targets[target, 0].long(), anchor, row[place], column[place], target)
        )
    return found
