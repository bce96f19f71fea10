"""Complete IoU: by hand, its gradient, and against the IoU of the runtime.

Spans: pneumonia.training.detector.loss, pneumonia.runtime.model.boxes.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.model.boxes import cxcywh_to_xyxy, iou_matrix
from pneumonia.training.detector.loss import iou_and_ciou


def pair(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float]:
    iou, ciou = iou_and_ciou(torch.tensor([a]), torch.tensor([b]))
    return float(iou), float(ciou)


def test_shifted_squares_by_hand():
    # overlap 5 x 10 of two 10 x 10 squares; hull 15 x 10; same shape, so v = 0
    iou, ciou = pair((5, 5, 10, 10), (10, 5, 10, 10))
    assert iou == pytest.approx(50 / 150, abs=1e-6)
    assert ciou == pytest.approx(50 / 150 - 25 / (15**2 + 10**2), abs=1e-6)


def test_same_centre_other_shape_by_hand():
    # 4 x 4 against 8 x 2: overlap 8, union 24; centres equal, only the aspect term remains
    v = 4 / math.pi**2 * (math.atan(8 / 2) - math.atan(1)) ** 2
    iou, ciou = pair((0, 0, 4, 4), (0, 0, 8, 2))
    assert iou == pytest.approx(1 / 3, abs=1e-6)
    assert ciou == pytest.approx(1 / 3 - v * v / (1 - 1 / 3 + v), abs=1e-6)


def test_apart_is_negative_and_still_pulls():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]], requires_grad=True)
    b = torch.tensor([[10.0, 0.0, 2.0, 2.0]])
    iou, ciou = iou_and_ciou(a, b)
    # hull 12 x 2: distance term 100 / 148
    assert iou.item() == 0.0
    assert ciou.item() == pytest.approx(-100 / 148, abs=1e-6)
    ciou.sum().backward()
    assert a.grad is not None
    assert a.grad[0, 0] > 0  # moving right raises CIoU although the boxes do not touch
    assert a.grad[0, 1] == 0


def test_gradient_treats_alpha_as_constant():
    a = torch.tensor([[1.0, 2.0, 4.0, 3.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[2.0, 2.5, 3.0, 5.0]], dtype=torch.float64)
    iou_and_ciou(a, b)[1].sum().backward()
    with torch.no_grad():
        iou, _ = iou_and_ciou(a, b)
        v = 4 / math.pi**2 * (math.atan(3 / 5) - math.atan(4 / 3)) ** 2
        alpha = v / (1 - iou.item() + v)

    def frozen(w: float) -> float:
        x = torch.tensor([[1.0, 2.0, w, 3.0]], dtype=torch.float64)
        iou_w, ciou_w = (float(value) for value in iou_and_ciou(x, b))
        v_w = 4 / math.pi**2 * (math.atan(3 / 5) - math.atan(w / 3)) ** 2
        alpha_w = v_w / (1 - iou_w + v_w)
        return ciou_w + alpha_w * v_w - alpha * v_w  # the same function with alpha held

    slope = (frozen(4 + 1e-5) - frozen(4 - 1e-5)) / 2e-5
    assert a.grad is not None
    assert a.grad[0, 2].item() == pytest.approx(slope, rel=1e-4)


side = st.floats(1, 200)
centre = st.floats(-100, 300)
box = st.tuples(centre, centre, side, side)


@given(st.lists(st.tuples(box, box), min_size=1, max_size=8))
def test_iou_agrees_with_the_runtime(pairs):
    a = np.array([p[0] for p in pairs], dtype=np.float32)
    b = np.array([p[1] for p in pairs], dtype=np.float32)
    iou, ciou = iou_and_ciou(torch.from_numpy(a), torch.from_numpy(b))
    judge = np.diag(iou_matrix(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)))
    np.testing.assert_allclose(iou.numpy(), judge, atol=1e-4)
    assert (ciou <= iou + 1e-6).all()
    assert (ciou >= -2).all()


@given(box)
def test_a_box_has_ciou_one_with_itself(values):
    iou, ciou = pair(values, values)
    assert iou == pytest.approx(1, abs=1e-4)
    assert ciou == pytest.approx(1, abs=1e-4)
