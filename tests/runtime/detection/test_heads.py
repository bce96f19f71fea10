import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.detection.heads import DecodeSettings, decode_heads, detections, sigmoid
from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.image.preprocess import Letterbox
from pneumonia.runtime.model.boxes import iou_matrix
from pneumonia.runtime.model.layers import Conv, Detect
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec


def network(coding="scaled", n_classes=1, anchors=((10.0, 20.0), (30.0, 8.0)), size=64, stride=16):
    channels = len(anchors) * (5 + n_classes)
    return NetworkSpec(
        "two-anchors",
        InputSpec(1, size, size),
        (
            Conv("c", ("input",), 1, channels, stride, stride),
            Detect("d", ("c",), anchors, n_classes, stride, coding),
        ),
        ("d",),
        tuple(f"class {i}" for i in range(n_classes)),
    )


SAME = Letterbox(1.0, 0, 0, 64, 64)


def quiet(spec, batch=1):
    layer = spec.detect_layers()[0]
    grid = spec.input.height // layer.stride
    raw = np.zeros((batch, len(layer.anchors) * (5 + layer.n_classes), grid, grid), np.float32)
    raw[:, 4 :: 5 + layer.n_classes] = -30  # objectness
    return raw


@pytest.mark.parametrize("coding", ["darknet", "scaled"])
def test_one_cell_by_hand(coding):
    spec = network(coding)
    raw = quiet(spec)
    # second anchor (30 x 8), row 2, column 1
    raw[0, 6:12, 2, 1] = [0.3, -0.7, 0.2, 1.1, 2.0, 1.5]

    def s(x):
        return 1 / (1 + math.exp(-x))

    if coding == "darknet":
        cx, cy = (s(0.3) + 1) * 16, (s(-0.7) + 2) * 16
        w, h = 30 * math.exp(0.2), 8 * math.exp(1.1)
    else:
        cx, cy = (2 * s(0.3) - 0.5 + 1) * 16, (2 * s(-0.7) - 0.5 + 2) * 16
        w, h = 30 * (2 * s(0.2)) ** 2, 8 * (2 * s(1.1)) ** 2
    expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]

    boxes, scores = decode_heads(spec, {"d": raw})[0]
    assert boxes.shape == (32, 4)
    index = 16 + 2 * 4 + 1
    np.testing.assert_allclose(boxes[index], expected, rtol=1e-5)
    assert scores[index, 0] == pytest.approx(s(2.0) * s(1.5), rel=1e-5)
    assert int(scores.argmax()) == index

    big = Letterbox(1.0, 0, 0, 200, 200)
    found, kept_scores, classes = detections(spec, {"d": raw}, [big])[0]
    np.testing.assert_allclose(found, np.clip([expected], 0, 200), rtol=1e-5)
    assert classes.tolist() == [0]
    assert kept_scores.dtype == np.float32


def test_boxes_return_to_original_pixels_and_are_clipped():
    spec = network()
    raw = quiet(spec)
    raw[0, 0:6, 0, 0] = [0, 0, 0, 0, 9, 9]  # centre (8, 8), anchor 10 x 20
    place = Letterbox(0.5, 0, 16, 128, 64)
    found = detections(spec, {"d": raw}, [place])[0][0]
    # network y -2..18 -> original (y - 16) / 0.5 = -36..4, clipped at 0
    np.testing.assert_allclose(found, [[6, 0, 26, 4]], atol=1e-4)


def test_a_box_wholly_in_the_padding_is_dropped():
    spec = network()
    raw = quiet(spec)
    raw[0, 6:12, 0, 1] = [0, 0, 0, 0, 9, 9]  # network y 4..12
    place = Letterbox(0.5, 0, 16, 128, 64)
    assert len(detections(spec, {"d": raw}, [place])[0][0]) == 0


def test_suppression_is_per_class():
    spec = network(n_classes=2, anchors=((10.0, 20.0),))
    raw = quiet(spec)
    raw[0, :, 1, 1] = [0, 0, 0, 0, 5, 3, 2]
    boxes, scores, classes = detections(spec, {"d": raw}, [SAME])[0]
    assert classes.tolist() == [0, 1]
    np.testing.assert_array_equal(boxes[0], boxes[1])
    assert scores[0] > scores[1]


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["darknet", "scaled"]),
    st.floats(0.0, 0.5),
    st.integers(0, 12),
    st.floats(0.5, 40),
)
def test_selection_keeps_its_promises(seed, coding, floor, count, spread):
    spec = network(coding)
    raw = np.random.default_rng(seed).normal(0, spread, (2, 12, 4, 4)).astype(np.float32)
    choice = DecodeSettings(floor, 0.4, count)
    place = Letterbox(0.32, 0, 8, 200, 150)
    for boxes, scores, _ in detections(spec, {"d": raw}, [place, place], choice):
        assert len(boxes) == len(scores) <= count
        assert np.isfinite(boxes).all()
        assert (scores >= floor).all()
        assert (np.diff(scores) <= 0).all()
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes <= [200, 150, 200, 150]).all()
        overlaps = iou_matrix(boxes, boxes)
        assert (overlaps[~np.eye(len(boxes), dtype=bool)] <= 0.4 + 1e-6).all()


def test_floor_only_hides_what_is_below_it():
    spec = network()
    raw = np.random.default_rng(3).normal(0, 2, (1, 12, 4, 4)).astype(np.float32)
    _, everything, _ = detections(spec, {"d": raw}, [SAME], DecodeSettings(0.0, 1.0, 1000))[0]
    _, some, _ = detections(spec, {"d": raw}, [SAME], DecodeSettings(0.2, 1.0, 1000))[0]
    assert some.tolist() == [score for score in everything.tolist() if score >= np.float32(0.2)]


def test_sigmoid_never_overflows():
    with np.errstate(all="raise", under="ignore"):
        values = sigmoid(np.array([-1e4, -1, 0, 1, 1e4], np.float32))
    np.testing.assert_allclose(values, [0, 1 / (1 + math.e), 0.5, math.e / (1 + math.e), 1])


def test_missing_or_misshaped_head_is_named():
    spec = network()
    with pytest.raises(SpecError, match="d"):
        decode_heads(spec, {})
    with pytest.raises(SpecError, match="'d'"):
        decode_heads(spec, {"d": np.zeros((1, 6, 4, 4), np.float32)})


def gated(spec):
    """The network with an image-level output beside its head."""
    logit = Conv("logit", ("input",), 1, 1, 64)
    return spec._replace(layers=(*spec.layers, logit), outputs=(*spec.outputs, "logit"))


def test_an_image_level_output_multiplies_every_score():
    spec = network()
    rng = np.random.default_rng(4)
    raw = rng.normal(size=quiet(spec, batch=2).shape).astype(np.float32)
    plain = decode_heads(spec, {"d": raw})
    logits = np.array([math.log(3), -200.0], np.float32).reshape(2, 1, 1, 1)  # 3/4, 0
    found = decode_heads(gated(spec), {"d": raw, "logit": logits})
    for gate, (boxes, scores), (same, gated_scores) in zip((0.75, 0.0), plain, found, strict=True):
        np.testing.assert_array_equal(boxes, same)
        np.testing.assert_allclose(gated_scores, gate * scores, rtol=1e-6)
    kept = detections(gated(spec), {"d": raw, "logit": logits}, [SAME, SAME])
    assert len(kept[0][0]) > 0
    assert len(kept[1][0]) == 0  # nothing in this image


@pytest.mark.parametrize("logits", [None, np.zeros((1, 2), np.float32)])
def test_missing_or_misshaped_image_output_is_named(logits):
    spec = gated(network())
    outputs = {"d": quiet(spec)}
    if logits is not None:
        outputs["logit"] = logits
    with pytest.raises(SpecError, match="'logit'"):
        decode_heads(spec, outputs)
