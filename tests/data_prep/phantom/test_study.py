"""Phantoms: the files say what was drawn, boxes enclose what was added, and seeds decide all."""

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from data_prep.dataset.reader import Dataset, open_dataset
from data_prep.phantom.anatomy import Chest, render_chest, sample_patient
from data_prep.phantom.canvas import Canvas, smooth_curve
from data_prep.phantom.dicom_file import DicomEncoding, PhantomStudy, encode_dicom
from data_prep.phantom.film import sample_pose
from data_prep.phantom.findings import DISTRACTORS, add_distractors, add_opacities
from data_prep.phantom.study import make_phantoms, plan_phantoms, render_film
from pneumonia.runtime.errors import ConfigError, OutputError
from pneumonia.runtime.image.radiograph import read_radiograph
from tests.data_prep.conftest import NORMAL, NOT_NORMAL, OPACITY

STUDY = PhantomStudy("image", "PH00001", "F", 44, "AP")
SIZE = 96


def chest(seed: int, size: int = SIZE) -> tuple[Canvas, Chest, np.random.Generator]:
    rng = np.random.default_rng(seed)
    patient = sample_patient(rng, "p")
    canvas = Canvas(size, sample_pose(rng, supine=bool(seed % 2)))
    return canvas, render_chest(canvas, patient, bool(seed % 2), 1.0, rng), rng


encodings = st.builds(
    DicomEncoding,
    bits=st.sampled_from([8, 10, 12, 14]),
    inverted=st.booleans(),
    windowed=st.just(True),
    slope=st.sampled_from([1.0, 0.5, 2.0]),
    intercept=st.sampled_from([0.0, -1024.0, 100.0]),
    transfer_syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
    jpeg_quality=st.just(0),
)


@given(encodings, st.integers(0, 99))
def test_every_encoding_reads_back_as_the_film(
    tmp_path_factory: pytest.TempPathFactory, encoding: DicomEncoding, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    film = rng.random((24, 24), dtype=np.float32)
    path = tmp_path_factory.mktemp("film") / "film.dcm"
    path.write_bytes(encode_dicom(film, STUDY, encoding, rng))
    grey = read_radiograph(str(path)).pixels.astype(float)
    # half a stored step (a window uses at least half of the range) and half a grey level
    tolerance = 0.5 * 255 / (0.5 * (2**encoding.bits - 1)) + 0.5
    assert np.abs(grey - film * 255).max() <= tolerance + 1e-3
    # a second judge: pydicom's own lookup tables
    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    shown = (shown - shown.min()) / (shown.max() - shown.min())
    shown = 1 - shown if encoding.inverted else shown
    scaled = (film - film.min()) / (film.max() - film.min())
    assert np.abs(shown - scaled).max() < 0.02


def test_jpeg_films_are_as_rsna_stores_them(tmp_path: Path) -> None:
    canvas, drawn, rng = chest(1)
    film = np.clip(drawn.density, 0, 1)
    encoding = DicomEncoding(8, False, False, 1.0, 0.0, JPEGBaseline8Bit, 90)
    path = tmp_path / "film.dcm"
    path.write_bytes(encode_dicom(film, STUDY, encoding, rng))
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert (dataset.PatientAge, dataset.PatientSex, dataset.ViewPosition) == ("044Y", "F", "AP")
    assert np.abs(read_radiograph(str(path)).pixels - film * 255).mean() < 3
    assert canvas.size == dataset.Rows == dataset.Columns


def test_encoding_is_a_function_of_its_arguments() -> None:
    film = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    encoding = DicomEncoding(12, True, True, 2.0, -1024.0, ExplicitVRLittleEndian, 0)
    files = {encode_dicom(film, STUDY, encoding, np.random.default_rng(4)) for _ in range(3)}
    assert len(files) == 1


@example(386, 1)  # small blobs, of which a fixed soft edge is a large part
@example(34, 1)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_boxes_enclose_what_was_painted(seed: int, count: int) -> None:
    canvas, drawn, rng = chest(seed)
    density, boxes = add_opacities(canvas, drawn, count, rng)
    added = density - drawn.density
    assert 1 <= len(boxes) <= count
    assert (added >= -1e-6).all()
    assert ((boxes >= 0) & (boxes <= 1)).all()
    inside = np.zeros((SIZE, SIZE), bool)
    for x1, y1, x2, y2 in np.round(boxes * SIZE).astype(int):
        inside[y1:y2, x1:x2] = True
        part = added[y1:y2, x1:x2]
        # each side of a box touches the opacity: none is loose by more than a fifth
        strong = part > 0.15 * part.max()  # of its own peak: some opacities are faint
        rows, columns = np.nonzero(strong.any(axis=1))[0], np.nonzero(strong.any(axis=0))[0]
        assert rows[-1] - rows[0] + 1 >= 0.8 * part.shape[0] - 1
        assert columns[-1] - columns[0] + 1 >= 0.8 * part.shape[1] - 1
    assert added[inside].sum() > 0.9 * added.sum()


def test_opacities_lie_in_lungs_and_distractors_change_the_film() -> None:
    for seed in range(6):
        canvas, drawn, rng = chest(seed)
        density, _ = add_opacities(canvas, drawn, 2, rng)
        added = density - drawn.density
        assert added[drawn.lungs < 0.02].max(initial=0) < 0.02
    for name in DISTRACTORS:
        canvas, drawn, rng = chest(3)
        assert (
            np.abs(add_distractors(canvas, drawn, (name,), rng).density - drawn.density).max()
            > 0.03
        )


def test_plans_have_the_shares_they_promise() -> None:
    plans = plan_phantoms(200, seed=1)
    classes = [plan.class_name for plan in plans]
    assert [classes.count(name) for name in (OPACITY, NOT_NORMAL, NORMAL)] == [90, 60, 50]
    assert len({plan.image_id for plan in plans}) == 200
    patients = [plan.patient.patient_id for plan in plans]
    assert 120 < len(set(patients)) < 180
    ap = {
        name: [p.view for p in plans if p.class_name == name].count("AP") for name in set(classes)
    }
    assert ap[OPACITY] / 90 > 0.45
    assert 0.2 < (ap[NORMAL] + ap[NOT_NORMAL]) / 110 < 0.55


def test_what_a_film_shows_follows_its_class() -> None:
    for plan in plan_phantoms(60, seed=2):
        film = render_film(plan, 2, 64)
        assert film.pixels.min() >= 0
        assert film.pixels.max() <= 1
        assert (len(film.boxes) > 0) == (plan.class_name == OPACITY)
        if plan.class_name == NORMAL:
            assert film.findings == ()
        if plan.class_name == NOT_NORMAL:
            assert film.findings


def test_the_folder_is_a_dataset_with_official_tables(
    phantom_folder: Path, phantoms: Dataset
) -> None:
    assert len(phantoms) == 40
    assert {record.kind for record in phantoms.records} == {"phantom"}
    assert phantoms.select("train")
    assert phantoms.select("val")
    assert phantoms.select("test")
    with (phantom_folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for i, record in enumerate(phantoms.records):
        own = [row for row in rows if row["patientId"] == record.image_id]
        boxes = phantoms.boxes(i)
        assert [row["Target"] for row in own] == (["1"] * len(boxes) or ["0"])
        for row, box in zip(own, boxes, strict=False):
            x, y, width, height = (float(row[side]) for side in ("x", "y", "width", "height"))
            # official boxes are whole numbers of a frame of 1024; the films are 128 wide
            assert all(side == int(side) for side in (x, y, width, height))
            np.testing.assert_array_equal(box * 8, [x, y, x + width, y + height])
        dicom = phantom_folder / "dicom" / f"{record.image_id}.dcm"
        np.testing.assert_array_equal(read_radiograph(str(dicom)).pixels, phantoms.pixels(i))


def test_boxes_have_rsna_geometry() -> None:
    boxes = [
        render_film(p, 5, 64).boxes * 16 for p in plan_phantoms(240, 5) if p.class_name == OPACITY
    ]
    counts = np.bincount([len(found) for found in boxes], minlength=4)
    assert counts[0] == 0
    assert counts[1] > 0.3 * len(boxes)
    assert counts[2] > 0.3 * len(boxes)
    sides = np.concatenate(boxes)
    width, height = np.median(sides[:, 2:] - sides[:, :2], axis=0)
    assert width == pytest.approx(217, rel=0.15)
    assert height == pytest.approx(298, rel=0.15)


def test_brightness_alone_does_not_give_the_class_away() -> None:
    plans = plan_phantoms(240, seed=8)
    level = np.array([render_film(plan, 8, 64).pixels.mean() for plan in plans])
    positive = np.array([plan.class_name == OPACITY for plan in plans])
    # AUROC by ranks (Mann-Whitney)
    ranks = np.argsort(np.argsort(level)) + 1
    n = positive.sum()
    auroc = (ranks[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum())
    assert 0.35 < auroc < 0.75


def test_same_seed_same_folder_and_another_seed_another(tmp_path: Path, phantoms: Dataset) -> None:
    make_phantoms(tmp_path / "again", count=40, seed=3, size=128, workers=1)
    assert open_dataset(tmp_path / "again").fingerprint == phantoms.fingerprint
    for path in sorted((tmp_path / "again" / "dicom").iterdir())[:5]:
        assert path.read_bytes() == (phantoms.folder / "dicom" / path.name).read_bytes()
    make_phantoms(tmp_path / "other", count=40, seed=4, size=128, workers=1)
    assert open_dataset(tmp_path / "other").fingerprint != phantoms.fingerprint


def test_a_second_call_does_nothing_and_foreign_folders_stay(tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert make_phantoms(out, count=2, size=64)
    stamp = (out / "dataset.json").stat().st_mtime_ns
    assert not make_phantoms(out, count=2, size=64)
    assert (out / "dataset.json").stat().st_mtime_ns == stamp
    assert make_phantoms(out, count=3, size=64)
    assert len(list((out / "dicom").iterdir())) == 3
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError):
        make_phantoms(out, count=4, size=64)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 10**6}, {"size": 8}, {"seed": -1}])
def test_arguments_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        make_phantoms(tmp_path / "set", **{"count": 2, "size": 64, **wrong})
    assert not (tmp_path / "set").exists()


def test_curves_keep_their_ends_and_stay_within_their_points() -> None:
    points = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)])
    line = smooth_curve(points, closed=False)
    np.testing.assert_array_equal(line[[0, -1]], points[[0, -1]])
    ring = smooth_curve(points, closed=True, rounds=1)
    # corner cutting at 1/4 and 3/4 of every side, by hand
    expected = [(0.25, 0), (0.75, 0), (1, 0.25), (1, 0.75), (0.75, 0.75), (0.25, 0.25)]
    np.testing.assert_allclose(ring, expected)
