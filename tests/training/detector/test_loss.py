import math

import numpy as np
import pytest
import torch

from pneumonia.network.image_head import add_image_head
from pneumonia.runtime.detection.heads import decode_heads
from pneumonia.runtime.model.boxes import cxcywh_to_xyxy
from pneumonia.runtime.model.layers import Conv, Detect, GlobalAvgPool
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from pneumonia.training.config import LossConfig
from pneumonia.training.detector.loss import DetectionLoss, decode_matches
from pneumonia.training.detector.targets import (
    FIRST_IMAGE_CLASS,
    IMAGE_CLASSES,
    UNBOXED,
    AnchorMatches,
    assign,
)
from tests.support.tiny import tiny_spec

PLAIN = LossConfig(box=1, objectness=1, classification=1, iou_aware=0)
GRIDS = [(8, 8), (4, 4)]


def one_head(coding: str, image_output: bool = False) -> NetworkSpec:
    """One anchor of 16 x 16 on a 4 x 4 map of stride 16."""
    layers = [
        Conv("conv", ("input",), 1, 6, 3, 16, 1),
        Detect("detect", ("conv",), ((16.0, 16.0),), 1, 16, coding),
    ]
    outputs = ["detect"]
    if image_output:
        layers += [Conv("logit", ("input",), 1, 1, 1), GlobalAvgPool("pool", ("logit",))]
        outputs.append("pool")
    return NetworkSpec("one", InputSpec(1, 64, 64), tuple(layers), tuple(outputs), ("opacity",))


def zeros(spec: NetworkSpec, images: int = 1) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(images, *spec.shapes()[name]) for name in spec.outputs}


@pytest.mark.parametrize("coding", ["darknet", "scaled"])
def test_decodes_as_the_runtime_does(coding):
    spec = tiny_spec(coding)
    generator = torch.Generator().manual_seed(3)
    outputs = {
        name: torch.randn(2, *spec.shapes()[name], generator=generator) for name in spec.outputs
    }
    judge = decode_heads(spec, {name: value.numpy() for name, value in outputs.items()})
    start = 0
    for head in spec.detect_layers():
        n, channels, height, width = outputs[head.name].shape
        grid = outputs[head.name].view(n, 2, channels // 2, height, width).permute(0, 1, 3, 4, 2)
        index = torch.cartesian_prod(*(torch.arange(k) for k in (n, 2, height, width))).T
        found = AnchorMatches(*index, target=torch.zeros(index.shape[1], dtype=torch.int64))
        boxes = decode_matches(grid[tuple(index)], head, found).numpy()
        cells = 2 * height * width
        for image in range(n):
            mine = cxcywh_to_xyxy(boxes[image * cells : (image + 1) * cells])
            np.testing.assert_allclose(
                mine, judge[image][0][start : start + cells], rtol=1e-4, atol=1e-3
            )
        start += cells


def test_value_by_hand_when_every_logit_is_zero():
    # darknet coding, zero logits: a box of 16 x 16 in the middle of its cell. The truth is just
    # that, so that the box part is 0; every cross-entropy is ln 2 whatever its target.
    spec = one_head("darknet")
    truth = torch.tensor([[0, 0, 16.0, 32.0, 32.0, 48.0]])
    loss, parts = DetectionLoss(spec, PLAIN)(zeros(spec), truth)
    ln2 = math.log(2)
    assert parts["loss_box"] == pytest.approx(0, abs=1e-6)
    assert parts["loss_objectness"] == pytest.approx(ln2, rel=1e-6)
    assert parts["loss_class"] == pytest.approx(ln2, rel=1e-6)
    assert loss.item() == pytest.approx(2 * ln2, rel=1e-6)
    assert parts["loss"] == loss.item()


def test_box_and_objectness_parts_by_hand():
    # Objectness logit 2 in all 16 cells, one of which holds a truth half as wide as the anchor:
    # IoU 1/2, v as in the CIoU paper.
    spec = one_head("darknet")
    outputs = zeros(spec)
    outputs["detect"][:, 4] = 2.0
    truth = torch.tensor([[0, 0, 20.0, 32.0, 28.0, 48.0]])
    v = 4 / math.pi**2 * (math.atan(0.5) - math.atan(1)) ** 2
    alpha = v / (0.5 + v)
    softplus = math.log1p(math.exp(2))
    for aware, goal in ((0.0, 1.0), (1.0, 0.5), (0.5, 0.75)):
        config = PLAIN.model_copy(update={"iou_aware": aware})
        _, parts = DetectionLoss(spec, config)(outputs, truth)
        assert parts["loss_box"] == pytest.approx(0.5 + alpha * v, rel=1e-5)
        assert parts["loss_objectness"] == pytest.approx((16 * softplus - 2 * goal) / 16, rel=1e-5)


def test_weights_scale_the_parts():
    spec = one_head("scaled")
    truth = torch.tensor([[0, 0, 18.0, 30.0, 40.0, 44.0]])
    base = DetectionLoss(spec, PLAIN)(zeros(spec), truth)[1]
    heavy = LossConfig(box=2, objectness=3, classification=5, iou_aware=0)
    scaled = DetectionLoss(spec, heavy)(zeros(spec), truth)[1]
    for name, factor in (("box", 2), ("objectness", 3), ("class", 5)):
        assert base[f"loss_{name}"] > 0
        assert scaled[f"loss_{name}"] == pytest.approx(factor * base[f"loss_{name}"], rel=1e-5)


def test_without_boxes_only_objectness_remains():
    spec = tiny_spec()
    outputs = {name: value.requires_grad_() for name, value in zeros(spec, 2).items()}
    loss, parts = DetectionLoss(spec, LossConfig())(outputs, torch.zeros(0, 6))
    assert parts["loss_box"] == parts["loss_class"] == 0.0
    assert parts["loss_objectness"] == pytest.approx(5 * math.log(2), rel=1e-6)
    loss.backward()
    gradient = outputs["detect_8"].grad
    assert gradient is not None
    assert (gradient.view(2, 2, 6, 8, 8)[:, :, 4] > 0).all()  # pushed down everywhere


def test_two_boxes_on_one_anchor_keep_the_better_target():
    spec = one_head("darknet")
    exact = [0, 0, 16.0, 32.0, 32.0, 48.0]  # IoU 1
    half = [0, 0, 20.0, 32.0, 28.0, 48.0]  # IoU 1/2, same cell and anchor
    config = PLAIN.model_copy(update={"iou_aware": 1.0})
    outputs = zeros(spec)
    outputs["detect"][:, 4] = 2.0
    wanted = (16 * math.log1p(math.exp(2)) - 2 * 1.0) / 16
    for rows in ([exact, half], [half, exact]):
        _, parts = DetectionLoss(spec, config)(outputs, torch.tensor(rows))
        assert parts["loss_objectness"] == pytest.approx(wanted, rel=1e-5)


def test_descent_on_raw_heads_reaches_the_boxes():
    """The loss alone, without a network, must have its minimum at the truth."""
    spec = tiny_spec()
    truth = torch.tensor([[0, 0, 10.0, 12.0, 30.0, 40.0], [1, 0, 30.0, 20.0, 58.0, 50.0]])
    criterion = DetectionLoss(spec, LossConfig())
    outputs = {name: value.requires_grad_() for name, value in zeros(spec, 2).items()}
    optimiser = torch.optim.Adam(list(outputs.values()), lr=0.15)
    for _ in range(120):
        optimiser.zero_grad()
        loss, parts = criterion(outputs, truth)
        loss.backward()
        optimiser.step()
    assert parts["loss_box"] < 0.05
    decoded = decode_heads(spec, {name: value.detach().numpy() for name, value in outputs.items()})
    for image, (boxes, scores) in enumerate(decoded):
        best = boxes[scores[:, 0].argmax()]
        np.testing.assert_allclose(best, truth[image, 2:].numpy(), atol=0.5)
        matched = sum(
            int((found.image == image).sum())
            for found in assign(truth, spec.detect_layers(), GRIDS, 4.0)
        )
        assert (scores[:, 0] > 0.5).sum() == matched


def test_image_output_learns_whether_there_is_a_box():
    spec = one_head("scaled", image_output=True)
    outputs = zeros(spec, 2)
    outputs["pool"] = torch.tensor([3.0, -1.0]).view(2, 1, 1, 1)
    truth = torch.tensor([[1, 0, 16.0, 32.0, 32.0, 48.0]])  # image 1 has a box, image 0 has none
    config = LossConfig(image=2.0)
    _, parts = DetectionLoss(spec, config)(outputs, truth)
    wanted = (math.log1p(math.exp(3)) + math.log1p(math.exp(1))) / 2
    assert parts["loss_image"] == pytest.approx(2 * wanted, rel=1e-5)


def test_an_image_without_known_boxes_teaches_the_image_output_only():
    # Two images of 16 cells, every logit 2 (objectness) or 3 and -1 (image). The second has an
    # opacity somewhere: its 16 anchors count for nothing, its image logit should be positive.
    spec = one_head("darknet", image_output=True)
    outputs = zeros(spec, 2)
    outputs["detect"][:, 4] = 2.0
    outputs["detect"].requires_grad_()
    outputs["pool"] = torch.tensor([3.0, -1.0]).view(2, 1, 1, 1)
    unboxed = torch.tensor([[1, UNBOXED, 0, 0, 0, 0.0]])
    loss, parts = DetectionLoss(spec, LossConfig(objectness=1, image=1))(outputs, unboxed)
    assert parts["loss_objectness"] == pytest.approx(math.log1p(math.exp(2)), rel=1e-6)
    wanted = (math.log1p(math.exp(3)) + math.log1p(math.exp(1))) / 2
    assert parts["loss_image"] == pytest.approx(wanted, rel=1e-6)
    assert parts["loss_box"] == parts["loss_class"] == 0
    loss.backward()
    gradient = outputs["detect"].grad
    assert gradient is not None
    assert (gradient[0, 4] > 0).all()
    assert (gradient[1] == 0).all()


def test_a_batch_of_unknown_boxes_only_is_finite():
    spec = one_head("scaled", image_output=True)
    rows = torch.tensor([[0, UNBOXED, 0, 0, 0, 0.0]])
    loss, parts = DetectionLoss(spec, LossConfig(image=1))(zeros(spec), rows)
    assert parts["loss_objectness"] == 0
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_imitation_by_hand():
    """One image, 16 cells, one anchor of 16 x 16; the teacher sees one box in cell (1, 2)."""
    spec = one_head("scaled")
    criterion = DetectionLoss(spec, LossConfig(box=2, objectness=3, classification=1))
    teacher, student = zeros(spec)["detect"], zeros(spec)["detect"]
    teacher[:, 4], student[:, 4] = -20.0, -20.0  # sigmoid 2e-9: nothing
    teacher[0, 4, 1, 2] = math.log(0.8 / 0.2)
    student[0, 4, 1, 2] = math.log(0.4 / 0.6)
    # Same place, half the width: sigmoid(0) gives 16 px, 2 sigmoid(x) = sqrt(0.5) gives 8 px.
    side = math.sqrt(0.5) / 2
    student[0, 2, 1, 2] = math.log(side / (1 - side))
    entropy = -(0.8 * math.log(0.4) + 0.2 * math.log(0.6)) / 16
    v = 4 / math.pi**2 * (math.atan(8 / 16) - math.atan(1)) ** 2
    ciou = 0.5 - v * v / (1 - 0.5 + v)
    found = criterion.imitation({"detect": student}, {"detect": teacher})
    assert float(found) == pytest.approx(3 * entropy + 2 * (1 - ciou), rel=1e-4)


def test_imitation_is_smallest_at_the_teacher_and_pulls_towards_it():
    spec = tiny_spec()
    generator = torch.Generator().manual_seed(1)
    criterion = DetectionLoss(spec, LossConfig())
    teacher = {
        name: torch.randn(2, *spec.shapes()[name], generator=generator) for name in spec.outputs
    }
    student = {name: (value + 0.3).requires_grad_() for name, value in teacher.items()}
    before = criterion.imitation(student, teacher)
    before.backward()
    nearer = {name: value.detach() - 0.1 * value.grad for name, value in student.items()}
    assert criterion.imitation(nearer, teacher).item() < before.item()
    assert criterion.imitation(teacher, teacher).item() < before.item()


def test_class_output_learns_the_known_classes_of_whole_images():
    plain = one_head("scaled")
    spec = add_image_head(
        plain._replace(layers=(Conv("stem", ("input",), 1, 1, 1), *plain.layers)), 3
    )
    (added,) = set(spec.outputs) - set(plain.outputs)
    box = [0, 0, 8.0, 8.0, 24.0, 24.0]
    rows = [[0, FIRST_IMAGE_CLASS - IMAGE_CLASSES.index("Lung Opacity"), 0, 0, 0, 0]]
    rows += [[1, FIRST_IMAGE_CLASS - IMAGE_CLASSES.index("Normal"), 0, 0, 0, 0]]
    outputs = zeros(spec, images=3)  # the third image is of unknown class
    outputs[added] = torch.tensor([[0.0, 0, math.log(2)], [math.log(6), 0, 0], [9, 9, 9]])
    loss, parts = DetectionLoss(spec, PLAIN)(outputs, torch.tensor([box, *rows]))
    # Probabilities 2 / 4 and 6 / 8 of the true classes, a mean over three images, weight 0.5.
    assert parts["loss_image_class"] == pytest.approx(0.5 * -math.log(0.5 * 0.75) / 3, abs=1e-6)
    plain_loss, _ = DetectionLoss(plain, PLAIN)(zeros(plain, images=3), torch.tensor([box]))
    assert loss.item() == pytest.approx(plain_loss.item() + parts["loss_image_class"], abs=1e-6)


def test_images_of_unknown_class_alone_cost_nothing():
    plain = one_head("scaled")
    spec = add_image_head(
        plain._replace(layers=(Conv("stem", ("input",), 1, 1, 1), *plain.layers)), 3
    )
    _, parts = DetectionLoss(spec, PLAIN)(zeros(spec), torch.zeros(0, 6))
    assert parts["loss_image_class"] == 0
