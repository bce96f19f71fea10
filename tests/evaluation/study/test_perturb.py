import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.analysis.catalogue import match_study
from evaluation.analysis.robustness import moved_cases, robustness_table, write_perturbed
from evaluation.metrics.bootstrap import Resampler
from evaluation.study.perturb import (
    move_boxes,
    parse_name,
    perturb,
    perturbation_text,
    sort_perturbations,
    standard_sweep,
)
from pneumonia.runtime.errors import ConfigError, DataError
from tests.evaluation.studies import make_cases, study_cases

IMAGE = np.random.default_rng(0).integers(60, 190, (80, 120)).astype(np.uint8)


@pytest.mark.parametrize("name", standard_sweep())
def test_same_input_same_pixels_same_shape(name: str) -> None:
    before = IMAGE.copy()
    first, again = perturb(IMAGE, name, "a"), perturb(IMAGE, name, "a")
    assert first.shape == IMAGE.shape
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != IMAGE).any()
    assert (before == IMAGE).all()


def test_noise_has_its_strength_and_differs_by_image() -> None:
    grey = np.full((200, 200), 128, np.uint8)
    noisy = perturb(grey, "noise_10", "a").astype(float)
    assert noisy.std() == pytest.approx(10, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.2)
    assert (perturb(grey, "noise_10", "b") != noisy).any()


def test_contrast_about_the_mean() -> None:
    image = np.array([[100, 140]], np.uint8)
    assert perturb(image, "contrast_50").tolist() == [[110, 130]]
    assert perturb(image, "contrast_200").tolist() == [[80, 160]]
    assert (perturb(IMAGE, "contrast_100") == IMAGE).all()


def test_resolution_of_a_flat_image_is_flat() -> None:
    assert (perturb(np.full((33, 47), 77, np.uint8), "resolution_25") == 77).all()


@given(st.floats(-30, 30))
def test_boxes_follow_the_rotation(angle: float) -> None:
    image = np.zeros((300, 400), np.uint8)
    image[120:160, 220:280] = 255
    name = f"rotate_{angle:.3f}"
    moved = move_boxes([[220, 120, 280, 160]], name, 400, 300)[0]
    rows, columns = np.nonzero(perturb(image, name) > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(moved - seen).max() < 2.0


def test_boxes_follow_the_letterbox() -> None:
    image = np.full((300, 400), 9, np.uint8)
    image[120:160, 220:280] = 255
    boxed = perturb(image, "letterbox_80")
    moved = move_boxes([[220, 120, 280, 160]], "letterbox_80", 400, 300)
    assert moved.tolist() == [[216, 126, 264, 158]]
    rows, columns = np.nonzero(boxed > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(moved[0] - seen).max() <= 1
    assert (boxed[:29] == 0).all()
    assert (boxed[:, :39] == 0).all()
    assert (boxed[32:268, 42:210] == 9).all()


def test_gamma_and_inversion_by_hand() -> None:
    image = np.array([[0, 64, 255]], np.uint8)
    assert perturb(image, "gamma_200").tolist() == [[0, 16, 255]]
    assert perturb(image, "gamma_50").tolist() == [[0, 128, 255]]
    assert perturb(image, "inverted_100").tolist() == [[255, 191, 0]]


def test_grey_values_leave_boxes_where_they_are_and_lost_boxes_vanish() -> None:
    box = [[1.0, 2, 30, 40]]
    assert move_boxes(box, "noise_10", 100, 100).tolist() == box
    assert move_boxes([[0, 0, 2, 2]], "rotate_45", 100, 100).shape == (0, 4)
    assert move_boxes(np.zeros((0, 4)), "rotate_45", 100, 100).shape == (0, 4)


@pytest.mark.parametrize(
    "name", ["blur_3", "noise", "noise_x", "jpeg_0", "rotate_181", "noise_nan"]
)
def test_names_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_name(name)


def test_order_and_names() -> None:
    assert sort_perturbations(sorted(standard_sweep())) == list(standard_sweep())
    assert perturbation_text("rotate_-5") == "rotation \N{MINUS SIGN}5\N{DEGREE SIGN}"
    assert perturbation_text("contrast_150") == "contrast 150 %"
    assert perturbation_text("none") == "none"
    assert len({perturbation_text(name) for name in standard_sweep()}) == len(standard_sweep())


def test_table_moves_the_truth_and_pairs_the_change() -> None:
    cases = study_cases(2)
    name = "rotate_10"
    turned = moved_cases(cases, name)
    expected = move_boxes(cases.truths[0], name, 1024, 1024)
    np.testing.assert_allclose(
        sorted(turned.truths[0].tolist()), sorted(expected.tolist()), rtol=1e-9
    )
    # a detector that sees the rotated opacities scores as before
    found = {
        i: (move_boxes(boxes, name, 1024, 1024), scores)
        for i, boxes, scores in zip(cases.ids, cases.boxes, cases.scores, strict=True)
        if len(move_boxes(boxes, name, 1024, 1024)) == len(boxes)
    }
    assert len(found) == len(cases)
    rotated = make_cases(cases.truth_by_id(), found)
    study = match_study(cases, {"kaggle": 0.4})
    resampler = Resampler(cases.patients, cases.positive, 200, 0)
    rows = robustness_table(study, "kaggle", {name: rotated, "noise_5": cases}, resampler)
    assert [row.name for row in rows] == ["none", "noise_5", name]
    assert rows[0].deltas["rsna"].value == 0
    assert rows[1].deltas["auroc"].value == 0
    assert 0 <= rows[2].deltas["rsna"].value < 0.08  # frames of turned boxes overlap more
    # unmoved truth would have cost much more
    stale = robustness_table(study, "kaggle", {"noise_5": rotated}, resampler)[1]
    assert stale.deltas["rsna"].value < rows[2].deltas["rsna"].value - 0.1


def test_perturbed_copies_are_written(tmp_path) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.fromarray(IMAGE).save(tmp_path / "in" / "a.png")
    steps = []
    out = tmp_path / "out"
    n = write_perturbed(["a"], tmp_path / "in", out, ["noise_5"], lambda *s: steps.append(s))
    assert (n, len(steps)) == (1, 1)
    with Image.open(out / "noise_5" / "a.png") as image:
        assert (np.asarray(image) == perturb(IMAGE, "noise_5", "a")).all()
    with pytest.raises(DataError, match="not in the folder"):
        write_perturbed(["secret"], tmp_path / "in", out, ["noise_5"])
