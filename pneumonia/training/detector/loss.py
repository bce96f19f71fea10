"""The detection loss: CIoU for boxes, cross-entropy for objectness and classes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pneumonia.runtime.detection.heads import MAX_LOG_SIZE, class_outputs, image_outputs
from pneumonia.runtime.model.layers import Detect
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.training.config import LossConfig
from pneumonia.training.detector.targets import FIRST_IMAGE_CLASS, UNBOXED, AnchorMatches, assign
from pneumonia.training.distributed import total, world_size

SEEN_BY_TEACHER = 0.05  # objectness from which a teacher's box is worth imitating
EPS = 1e-7


def iou_and_ciou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and complete IoU of each pair (Zheng et al. 2020, arXiv 1911.08287).

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


def decode_matches(raw: Tensor, head: Detect, matches: AnchorMatches) -> Tensor:
    """Boxes (m, 4) cx, cy, w, h in network pixels; the same formulas as `runtime.model.heads`.

    Args:
        raw: (m, 5 + classes) raw values of the matched anchors.
        head: Their head.
        matches: Their places.
    """
    cell = torch.stack([matches.column, matches.row], dim=1)
    anchors = raw.new_tensor(head.anchors)[matches.anchor]
    if head.box_coding == "darknet":
        centre = raw[:, :2].sigmoid() + cell
        size = anchors * raw[:, 2:4].clamp(max=MAX_LOG_SIZE).exp()
    else:
        centre = 2 * raw[:, :2].sigmoid() - 0.5 + cell
        size = anchors * (2 * raw[:, 2:4].sigmoid()).square()
    return torch.cat([centre * head.stride, size], dim=1)


class LossCounts(NamedTuple):
    """What the parts of the loss are divided by."""

    positives: float  # anchors that answer for a box
    cells: float  # anchors of all cells of the images whose boxes are known
    images: float  # images


class DetectionLoss:
    """Sum of weighted parts, each a mean over the whole batch (all heads, all processes).

    A batch that is computed in several parts has the loss of a whole one if every part is divided
    by the counts of all parts, and the losses are added: `counts` gives them.

    * box: 1 - CIoU over the positives;
    * objectness: cross-entropy over every anchor of every cell. All cells count the same, which is
      what per-scale weights such as 4, 1, 0.4 approximate. The target of a positive is the IoU of
      its box (`iou_aware`), so that scores rank boxes by how well they fit: the challenge score
      asks for IoU up to 0.75;
    * class: cross-entropy over the positives;
    * image: cross-entropy of an image-level logit against "has a box", for networks with such an
      output;
    * image class: cross-entropy over the classes of the whole image, for networks with such an
      output, over the images whose class is known.

    An image with a row of class UNBOXED is positive for the image part alone: where its opacities
    are is unknown, so its anchors are neither positives nor negatives.
    """

    def __init__(self, spec: NetworkSpec, config: LossConfig) -> None:
        self.config = config
        self.heads = [head for head in spec.detect_layers() if head.name in spec.outputs]
        self.image_outputs = image_outputs(spec)
        self.class_outputs = class_outputs(spec)
        shapes = spec.shapes()
        self.grids = [shapes[head.name][1:] for head in self.heads]

    def counts(self, parts: Sequence[tuple[Tensor, int]]) -> LossCounts:
        """Counts over the parts of a batch, and over all processes.

        Args:
            parts: Targets and number of images of each part.
        """
        sums = [0.0, 0.0, 0.0]
        for targets, n_images in parts:
            boxes, unknown, _ = self._split(targets)
            matches = assign(boxes, self.heads, self.grids, self.config.anchor_ratio)
            cells = sum(
                len(head.anchors) * height * width
                for head, (height, width) in zip(self.heads, self.grids, strict=True)
            )
            found = (
                sum(len(match.image) for match in matches),
                (n_images - len(set(unknown.tolist()))) * cells,
                n_images,
            )
            sums = [before + more for before, more in zip(sums, found, strict=True)]
        device = parts[0][0].device
        return LossCounts(*(max(1.0, total(count, device)) for count in sums))

    @staticmethod
    def _split(targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Targets with boxes, images whose boxes are unknown, images with an opacity."""
        targets = targets[targets[:, 1] > FIRST_IMAGE_CLASS]
        has_opacity = targets[:, 0].long()
        unboxed = targets[:, 1] == UNBOXED
        return targets[~unboxed], has_opacity[unboxed], has_opacity

    def __call__(
        self, outputs: dict[str, Tensor], targets: Tensor, counts: LossCounts | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts.

        Args:
            outputs: Head name -> (N, A * (5 + C), H, W) raw; image outputs (N, 1).
            targets: (n, 6) float32: image index, class, x1, y1, x2, y2 in network pixels; negative
                classes: see `targets.UNBOXED` and `targets.FIRST_IMAGE_CLASS`.
            counts: Over the whole batch of which these images are a part; None = these images.
        """
        n_images = len(outputs[self.heads[0].name])
        counts = counts or self.counts([(targets, n_images)])
        of_class = targets[targets[:, 1] <= FIRST_IMAGE_CLASS]
        targets, unknown, has_opacity = self._split(targets)
        maps = [self._grid(head, outputs[head.name]) for head in self.heads]
        matches = assign(targets, self.heads, self.grids, self.config.anchor_ratio)
        known = torch.ones(n_images, device=targets.device)
        known[unknown] = 0
        parts = {name: targets.new_zeros(()) for name in ("box", "objectness", "class")}
        for head, grid, found in zip(self.heads, maps, matches, strict=True):
            box, objectness, classes = self._head_sums(head, grid, found, targets, known)
            parts["box"] = parts["box"] + box / counts.positives
            parts["class"] = parts["class"] + classes / (counts.positives * head.n_classes)
            parts["objectness"] = parts["objectness"] + objectness / counts.cells
        for name in self.image_outputs:
            image = self._image_sum(outputs[name], has_opacity) / counts.images
            parts["image"] = parts.get("image", 0) + image
        for name in self.class_outputs:
            logits = outputs[name].float().flatten(1)[of_class[:, 0].long()]
            wanted = FIRST_IMAGE_CLASS - of_class[:, 1].long()
            summed = F.cross_entropy(logits, wanted, reduction="sum")
            parts["image_class"] = parts.get("image_class", 0) + summed / counts.images
        weights = {
            "box": self.config.box,
            "objectness": self.config.objectness,
            "class": self.config.classification,
            "image": self.config.image,
            "image_class": self.config.image,
        }
        weighted = {name: weights[name] * part for name, part in parts.items()}
        loss = torch.stack(list(weighted.values())).sum()
        table = {"loss": loss.item()}
        table |= {f"loss_{name}": part.item() for name, part in weighted.items()}
        return loss, table

    def imitation(
        self,
        outputs: dict[str, Tensor],
        teacher: dict[str, Tensor],
        batch: Sequence[dict[str, Tensor]] = (),
    ) -> Tensor:
        """Loss of a student with the teacher's outputs as targets.

        Every anchor of every cell learns the teacher's objectness as a probability. Boxes count
        (1 - CIoU to the teacher's) where the teacher sees something, weighted by its objectness
        (Chen et al. 2017, "Learning Efficient Object Detection Models", which bounds the teacher's
        regression likewise). The one-class cross-entropy and image-level outputs have no part.

        Args:
            outputs: As in `__call__`.
            teacher: The teacher's on the same images; no gradient flows into them.
            batch: The teacher's on every part of the whole batch; empty = these images alone.

        Returns:
            Scalar, weighted as the loss is. Smallest, the teacher's own entropy, when both agree.
        """
        processes = world_size()
        objectness, boxes = [], []
        for head in self.heads:
            student_grid = self._grid(head, outputs[head.name])
            teacher_grid = self._grid(head, teacher[head.name]).detach()
            wanted = teacher_grid[..., 4].sigmoid()
            objectness.append(
                F.binary_cross_entropy_with_logits(student_grid[..., 4], wanted, reduction="none")
            )
            image, anchor, row, column = torch.nonzero(wanted > SEEN_BY_TEACHER, as_tuple=True)
            seen = AnchorMatches(image, anchor, row, column, image)
            place = (image, anchor, row, column)
            _, ciou = iou_and_ciou(
                decode_matches(student_grid[place], head, seen),
                decode_matches(teacher_grid[place], head, seen),
            )
            boxes.append(wanted[place] * (1 - ciou))
        parts = batch or (teacher,)
        n_cells = sum(part.numel() for part in objectness) * processes * len(parts)
        spread = torch.stack([part.sum() for part in objectness]).sum() / n_cells
        seen_sum = sum(self._seen(part) for part in parts)
        weight = max(EPS, total(seen_sum, spread.device))
        return self.config.objectness * spread + self.config.box * torch.cat(boxes).sum() / weight

    def _seen(self, teacher: dict[str, Tensor]) -> float:
        """Sum of a teacher's objectness where it is worth imitating."""
        found = (self._grid(head, teacher[head.name])[..., 4].sigmoid() for head in self.heads)
        return sum(float(wanted[wanted > SEEN_BY_TEACHER].sum()) for wanted in found)

    @staticmethod
    def _grid(head: Detect, raw: Tensor) -> Tensor:
        """(N, A * (5 + C), H, W) -> (N, A, H, W, 5 + C) float32."""
        n_images, _, height, width = raw.shape
        grid = raw.float().reshape(n_images, len(head.anchors), -1, height, width)
        return grid.permute(0, 1, 3, 4, 2)

    def _head_sums(
        self, head: Detect, grid: Tensor, found: AnchorMatches, targets: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums (not means) of box, objectness and class loss over one head.

        `known` (N,) is 0 for images whose boxes are unknown.
        """
        wanted = grid.new_zeros(grid.shape[:4])
        box = classes = grid.new_zeros(())
        if len(found.image):
            place = (found.image, found.anchor, found.row, found.column)
            chosen = grid[place]
            truth = targets[found.target]
            truth_box = torch.cat(
                [(truth[:, 2:4] + truth[:, 4:6]) / 2, truth[:, 4:6] - truth[:, 2:4]], dim=1
            )
            iou, ciou = iou_and_ciou(decode_matches(chosen, head, found), truth_box)
            box = (1 - ciou).sum()
            blend = self.config.iou_aware
            goal = (1 - blend) + blend * iou.detach().clamp(0, 1)
            # One anchor may answer for two boxes: the better one counts, whatever the order.
            flat = torch.zeros_like(wanted).flatten()
            _, n_anchors, height, width = wanted.shape
            index = ((place[0] * n_anchors + place[1]) * height + place[2]) * width + place[3]
            wanted = flat.scatter_reduce(0, index, goal, "amax").view_as(wanted)
            labels = F.one_hot(truth[:, 1].long(), head.n_classes).to(grid.dtype)
            classes = F.binary_cross_entropy_with_logits(chosen[:, 5:], labels, reduction="sum")
        objectness = F.binary_cross_entropy_with_logits(
            grid[..., 4], wanted, known[:, None, None, None].expand_as(wanted), reduction="sum"
        )
        return box, objectness, classes

    @staticmethod
    def _image_sum(logits: Tensor, has_opacity: Tensor) -> Tensor:
        values = logits.float().flatten(1)[:, 0]
        wanted = torch.zeros_like(values)
        wanted[has_opacity] = 1.0
        return F.binary_cross_entropy_with_logits(values, wanted, reduction="sum")
