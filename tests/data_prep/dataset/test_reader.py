"""The dataset folder: what the writer puts in comes out, and damage is noticed."""

import csv
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_prep.dataset.reader import Dataset, DatasetImage, open_dataset
from data_prep.dataset.writer import DatasetFacts, is_up_to_date, new_dataset, to_cache
from pneumonia.runtime.errors import DataError, OutputError
from pneumonia.runtime.image.preprocess import resize

NO_BOXES = np.zeros((0, 4), np.float32)
FACTS = DatasetFacts({"type": "test"}, "key", 64, {"method": "m", "seed": 0}, [], {})


def record(name: str, **changes: object) -> DatasetImage:
    plain = DatasetImage(name, "full", "train", "p-" + name, "Normal", "AP", "F", 40, 80, 60, True)
    return plain._replace(**changes)


def write(out: Path, images: list[tuple[DatasetImage, np.ndarray, list]]) -> Dataset:
    with new_dataset(out) as writer:
        for facts, pixels, boxes in images:
            writer.add(facts, to_cache(pixels, 64), np.array(boxes, np.float32).reshape(-1, 4))
        writer.finish(FACTS)
    return open_dataset(out)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def test_round_trip_of_records_pixels_and_boxes(tmp_path: Path) -> None:
    small, large = noise(30, 20), noise(60, 80)
    first = record("a", width=20, height=30, age=None, sex="", view="", class_name="")
    second = record("b", kind="lungs", split="val", class_name="Lung Opacity")
    boxes = [[1.5, 2.25, 40.125, 50.0], [0, 0, 80, 60]]
    dataset = write(tmp_path / "d", [(first, small, []), (second, large, boxes)])
    assert dataset.records == (first, second)
    np.testing.assert_array_equal(dataset.pixels(0), small)  # never enlarged
    np.testing.assert_array_equal(dataset.pixels(1), resize(large, 48, 64))
    assert dataset.boxes(0).shape == (0, 4)
    np.testing.assert_array_equal(dataset.boxes(1), np.array(boxes, np.float32))
    # 80 x 60 is cached as 64 x 48: everything by 0.8
    expected = [[1.2, 1.8, 32.1, 40.0], [0, 0, 64, 48]]
    np.testing.assert_allclose(dataset.cache_boxes(1), expected, rtol=1e-6)
    back = dataset.original_boxes(1, dataset.cache_boxes(1))
    np.testing.assert_allclose(back, dataset.boxes(1), rtol=1e-6)
    assert dataset.boxes(1).dtype == dataset.cache_boxes(1).dtype == back.dtype == np.float32


def test_names_like_formulas_are_escaped_in_every_table_and_read_back(tmp_path: Path) -> None:
    names = ["=cmd|' C calc'!A1", "+1", "-2+3", "@SUM(A1)", "'=x"]
    images = [(record(name, patient_id=name), noise(60, 80), [[1, 2, 30, 40]]) for name in names]
    dataset = write(tmp_path / "d", images)
    assert [(r.image_id, r.patient_id) for r in dataset.records] == [(n, n) for n in names]
    assert all(dataset.boxes(i).shape == (1, 4) for i in range(len(names)))
    for name in ("manifest.csv", "boxes.csv", "labels.csv"):
        with (tmp_path / "d" / name).open(newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert [cell for cell in cells if cell[:1] in tuple("=-@")] == []


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 5), st.just(4)),
        elements=st.floats(-10, 5000, width=32, allow_nan=False),
    )
)
def test_every_float32_box_survives_the_csv(
    tmp_path_factory: pytest.TempPathFactory, boxes: np.ndarray
) -> None:
    out = tmp_path_factory.mktemp("boxes") / "d"
    dataset = write(out, [(record("a"), noise(6, 8), boxes.tolist())])
    np.testing.assert_array_equal(dataset.boxes(0), boxes)


def test_labels_csv_is_the_official_one_in_the_frame_of_1024(tmp_path: Path) -> None:
    pixels = noise(60, 80)
    images = [
        (record("a"), pixels, [[8, 6, 40, 30]]),
        (record("a", kind="lungs", width=40, height=30), noise(30, 40), [[4, 3, 20, 15]]),
        (record("b"), pixels, []),
        (record("c", labelled=False), pixels, []),
    ]
    write(tmp_path / "d", images)
    # 8/80*1024 = 102.4, 6/60*1024 = 102.4, 32/80*1024 = 409.6, 24/60*1024 = 409.6
    assert (tmp_path / "d" / "labels.csv").read_text().splitlines() == [
        "patientId,x,y,width,height,Target",
        "a,102.4,102.4,409.6,409.6,1",
        "b,,,,,0",
    ]


def test_select_leaves_unlabelled_images_out_unless_asked(tmp_path: Path) -> None:
    images = [
        (record("a"), noise(5, 5), []),
        (record("b", kind="nih", labelled=False), noise(5, 5), []),
        (record("c", kind="nih"), noise(5, 5), []),
        (record("d", split="val"), noise(5, 5), []),
    ]
    dataset = write(tmp_path / "d", images)
    assert dataset.select("train") == [0, 2]
    assert dataset.select("train", ["nih"]) == [2]
    assert dataset.select("train", ["nih"], include_unlabelled=True) == [1, 2]
    assert dataset.select("test") == []
    for split, kinds in (("validation", None), ("val", ["masked"])):
        with pytest.raises(DataError, match="Unknown"):
            dataset.select(split, kinds)


def test_images_cannot_be_written_through_a_dataset(phantoms: Dataset) -> None:
    with pytest.raises(ValueError, match="read-only"):
        phantoms.pixels(0)[0, 0] = 1


def test_pickling_carries_the_place_and_not_the_pixels(phantoms: Dataset) -> None:
    data = pickle.dumps(phantoms)
    assert len(data) < 1000
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy.pixels(5), phantoms.pixels(5))


def test_fingerprint_follows_content_and_not_place(tmp_path: Path) -> None:
    base = [(record("a"), noise(6, 8), [[1, 1, 3, 3]])]
    same = write(tmp_path / "elsewhere", base).fingerprint
    assert write(tmp_path / "d", base).fingerprint == same
    pixels = noise(6, 8)
    pixels[0, 0] ^= 1
    others = [
        [(record("a"), pixels, [[1, 1, 3, 3]])],
        [(record("a"), noise(6, 8), [[1, 1, 3, 4]])],
        [(record("a", split="val"), noise(6, 8), [[1, 1, 3, 3]])],
    ]
    found = {write(tmp_path / f"o{i}", other).fingerprint for i, other in enumerate(others)}
    assert len(found) == 3
    assert same not in found


def test_the_same_image_twice_and_boxes_without_labels_are_refused(tmp_path: Path) -> None:
    image = (record("a"), noise(5, 5), [])
    with pytest.raises(DataError, match="twice"):
        write(tmp_path / "d", [image, image])
    with pytest.raises(DataError, match="Unlabelled"):
        write(tmp_path / "d", [(record("a", labelled=False), noise(5, 5), [[0, 0, 1, 1]])])
    with pytest.raises(DataError, match="no image"):
        write(tmp_path / "d", [])
    assert not (tmp_path / "d").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_leaves_the_old_dataset(tmp_path: Path) -> None:
    old = write(tmp_path / "d", [(record("a"), noise(5, 5), [])]).fingerprint

    def interrupted() -> None:
        with new_dataset(tmp_path / "d") as writer:
            writer.add(record("b"), to_cache(noise(5, 5), 64), np.zeros((0, 4), np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert open_dataset(tmp_path / "d").fingerprint == old
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("kind", ["file", "foreign", "dataset with more"])
def test_what_is_not_a_dataset_is_never_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "precious"
    if kind == "file":
        out.write_text("mine")
    elif kind == "foreign":
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    else:
        write(out, [(record("a"), noise(5, 5), [])])
        (out / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"other files.*or a dataset"), new_dataset(out):
        pass
    assert (out if kind == "file" else out / "thesis.tex").read_text() == "mine"


def test_a_dataset_of_another_source_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "set"
    write(out, [(record("a"), noise(5, 5), [])])
    before = (out / "dataset.json").read_bytes()
    with (
        pytest.raises(
            OutputError, match=r"another source.*made from phantom; found made from test"
        ),
        new_dataset(out, "phantom"),
    ):
        pass
    assert (out / "dataset.json").read_bytes() == before
    (out / "dataset.json").write_text("damaged")
    with new_dataset(out, "phantom") as writer:
        writer.add(record("b"), to_cache(noise(5, 5), 64), NO_BOXES)
        writer.finish(FACTS._replace(source={"type": "phantom"}))
    with new_dataset(out, "phantom") as writer:  # of the same source it is
        writer.add(record("c"), to_cache(noise(5, 5), 64), NO_BOXES)
        writer.finish(FACTS._replace(source={"type": "phantom-2"}))
    assert [item.image_id for item in open_dataset(out).records] == ["c"]


def damaged(phantom_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantom_folder, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["manifest.csv", "boxes.csv", "labels.csv", "splits.json"])
def test_a_changed_or_missing_table_is_refused(
    phantom_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = damaged(phantom_folder, tmp_path)
    path = folder / name
    path.write_text(path.read_text().replace("train", "val", 1) + "\n")
    with pytest.raises(DataError, match="changed after the import"):
        open_dataset(folder)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        open_dataset(folder)


def test_a_truncated_cache_is_refused_and_not_up_to_date(
    phantom_folder: Path, tmp_path: Path
) -> None:
    folder = damaged(phantom_folder, tmp_path)
    key = json.loads((folder / "dataset.json").read_text())["source_key"]
    assert is_up_to_date(folder, key)
    assert not is_up_to_date(folder, key + "x")
    data = (folder / "images.u8").read_bytes()
    (folder / "images.u8").write_bytes(data[:-1])
    with pytest.raises(DataError, match="cache"):
        open_dataset(folder)
    assert not is_up_to_date(folder, key)
    (folder / "images.u8").unlink()
    with pytest.raises(DataError, match="found no file"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "Not a dataset folder"),
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ('{"schema": "pneumonia.dataset/9"}', "another schema"),
        ('{"schema": "pneumonia.dataset/1", "files": []}', "incomplete"),
        *(
            (
                f'{{"schema": "pneumonia.dataset/1", "files": {{}}, "fingerprint": "", '
                f'"{key}": 3}}',
                f"expected a JSON object as {key}; found int",
            )
            for key in ("source", "split", "counts", "cache", "rejected", "adjusted")
        ),
    ],
)
def test_a_wrong_dataset_json_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)
    assert not is_up_to_date(tmp_path, "key")
