"""One's own labelled images: every label format gives the same dataset, faulty labels are named."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.dataset.reader import Dataset, open_dataset
from data_prep.importing.own_images import OwnImageOptions, import_own_images
from pneumonia.runtime.errors import ConfigError, DataError, PneumoniaError
from pneumonia.runtime.label_table import LABEL_FRAME
from tests.data_prep.conftest import NORMAL, NOT_NORMAL, OPACITY, write_csv

CSV_HEADER = ("image", "x1", "y1", "x2", "y2")


class Radiographs:
    """A folder of pictures, and label files beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"

    def image(self, name: str, width: int = 60, height: int = 40) -> np.ndarray:
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(name.encode(), "little") % 2**32
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
        Image.fromarray(pixels).save(path)
        return pixels

    def table(self, rows: list[tuple[object, ...]], header: tuple[str, ...] = CSV_HEADER) -> Path:
        path = self.root / "boxes.csv"
        write_csv(path, header, rows)
        return path

    def coco(self, **parts: Any) -> Path:
        path = self.root / "boxes.json"
        table = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "opacity"}]}
        path.write_text(json.dumps({**table, **parts}))
        return path

    def yolo(self, texts: dict[str, str]) -> Path:
        folder = self.root / "labels"
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return folder

    def imported(self, labels: Path, **options: Any) -> Dataset:
        out = self.root / "dataset"
        import_own_images(self.images, labels, out, OwnImageOptions(**options), workers=1)
        return open_dataset(out)


@pytest.fixture
def own(tmp_path: Path) -> Radiographs:
    return Radiographs(tmp_path)


def boxes(dataset: Dataset) -> dict[str, list[list[float]]]:
    return {
        record.image_id: dataset.boxes(i).round(3).tolist()
        for i, record in enumerate(dataset.records)
    }


def rejected(dataset: Dataset) -> dict[str, list[str]]:
    """Names by reason, which dataset.json and rejected.csv have alike."""
    found = {reason: entry["names"] for reason, entry in dataset.info["rejected"].items()}
    path = dataset.folder / "rejected.csv"
    listed: dict[str, list[str]] = {}
    if path.is_file():
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                listed.setdefault(row["reason"], []).append(row["name"])
                assert row["detail"], row
    assert listed == found
    return found


def as_coco(phantoms: Dataset) -> dict[str, Any]:
    annotations = [
        {
            "id": 1000 * i + k + 1,
            "image_id": i,
            "category_id": 7,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
        }
        for i in range(len(phantoms))
        for k, (x1, y1, x2, y2) in enumerate(phantoms.boxes(i).astype(float).tolist())
    ]
    images = [
        {"id": i, "file_name": f"{r.image_id}.dcm", "width": r.width, "height": r.height}
        for i, r in enumerate(phantoms.records)
    ]
    categories = [{"id": 7, "name": "opacity"}, {"id": 8, "name": "unused"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_labels(form: str, phantoms: Dataset, root: Path) -> Path:
    """The phantoms' boxes as a label file of a format."""
    if form == "coco":
        (root / "boxes.json").write_text(json.dumps(as_coco(phantoms)))
        return root / "boxes.json"
    if form == "yolo":
        (root / "labels").mkdir()
        (root / "labels" / "classes.txt").write_text("nodule\nopacity\n")
        for i, record in enumerate(phantoms.records):
            shares = phantoms.boxes(i).astype(float) / np.tile([record.width, record.height], 2)
            lines = [
                f"1 {(x1 + x2) / 2:.9f} {(y1 + y2) / 2:.9f} {x2 - x1:.9f} {y2 - y1:.9f}\n"
                for x1, y1, x2, y2 in shares
            ]
            (root / "labels" / f"{record.image_id}.txt").write_text("".join(lines))
        return root / "labels"
    rows: list[tuple[object, ...]] = []
    for i, record in enumerate(phantoms.records):
        found = phantoms.boxes(i).astype(float).tolist() or [("", "", "", "")]
        rows += [(f"{record.image_id}.dcm", *box, record.class_name) for box in found]
    write_csv(root / "boxes.csv", (*CSV_HEADER, "class"), rows)
    return root / "boxes.csv"


@pytest.mark.parametrize("form", ["coco", "yolo", "csv"])
def test_every_format_gives_the_dataset_it_was_written_from(
    form: str, phantom_folder: Path, phantoms: Dataset, tmp_path: Path
) -> None:
    labels = write_labels(form, phantoms, tmp_path)
    out = tmp_path / "dataset"
    assert import_own_images(phantom_folder / "dicom", labels, out, workers=1)
    again = open_dataset(out)
    assert len(again) == len(phantoms) == 40
    order = {record.image_id: i for i, record in enumerate(again.records)}
    partner: dict[str, str] = {}
    splits: dict[str, set[str]] = {}
    for i, old in enumerate(phantoms.records):
        new = again.records[order[old.image_id]]
        at = order[old.image_id]
        np.testing.assert_array_equal(again.pixels(at), phantoms.pixels(i))
        expected = phantoms.boxes(i)[np.lexsort(phantoms.boxes(i).T[::-1])]
        np.testing.assert_allclose(again.boxes(at), expected, atol=1e-3)
        assert (new.kind, new.labelled, new.width) == ("full", True, old.width)
        assert (new.class_name == OPACITY) == (len(expected) > 0)
        assert new.class_name == old.class_name or (form != "csv" and not len(expected))
        # one patient of the headers is one pseudonym, in one split
        assert new.patient_id.startswith("dicom-")
        assert old.patient_id not in new.patient_id
        assert partner.setdefault(old.patient_id, new.patient_id) == new.patient_id
        splits.setdefault(new.patient_id, set()).add(new.split)
    assert all(len(found) == 1 for found in splits.values())
    assert again.info["split"]["leak_warning"] is None
    assert rejected(again) == {}
    assert again.info["adjusted"] == {}
    assert not import_own_images(phantom_folder / "dicom", labels, out, workers=1)


def test_coco_is_read_as_another_reader_reads_it(
    phantom_folder: Path, phantoms: Dataset, tmp_path: Path
) -> None:
    coco_class = pytest.importorskip("faster_coco_eval").COCO
    labels = write_labels("coco", phantoms, tmp_path)
    import_own_images(phantom_folder / "dicom", labels, tmp_path / "dataset", workers=1)
    found = boxes(open_dataset(tmp_path / "dataset"))
    judge = coco_class(str(labels))
    expected = {}
    for entry in judge.loadImgs(judge.getImgIds()):
        own = [item["bbox"] for item in judge.loadAnns(judge.getAnnIds(imgIds=[entry["id"]]))]
        corners = [[x, y, x + w, y + h] for x, y, w, h in own]
        expected[Path(entry["file_name"]).stem] = corners
    assert found.keys() == expected.keys()
    for name, corners in expected.items():
        np.testing.assert_allclose(found[name], sorted(corners), atol=1e-2)


@pytest.mark.parametrize(
    ("frame", "row"),
    [
        (None, (15, 10, 30, 20)),
        ((1.0, 1.0), (0.25, 0.25, 0.5, 0.5)),
        ((1024.0, 1024.0), (256, 256, 512, 512)),
        ((120.0, 40.0), (30, 10, 60, 20)),
    ],
)
def test_the_frame_of_the_boxes_is_scaled_to_the_image(
    own: Radiographs, frame: tuple[float, float] | None, row: tuple[float, ...]
) -> None:
    own.image("a.png", 60, 40)
    assert boxes(own.imported(own.table([("a", *row)]), frame=frame)) == {"a": [[15, 10, 30, 20]]}


def test_size_columns_are_a_corner_and_a_size(own: Radiographs) -> None:
    own.image("a.png", 60, 40)
    table = own.table([("a.png", 15, 10, 15, 10)], ("filename", "x", "y", "Width", "height"))
    assert boxes(own.imported(table)) == {"a": [[15, 10, 30, 20]]}


def test_coco_boxes_follow_the_size_that_the_file_states(own: Radiographs) -> None:
    """Labels drawn on copies of half the size; a copy of another shape is not trusted."""
    for name in ("half", "squeezed"):
        own.image(f"{name}.png", 60, 40)
    images = [
        {"id": 1, "file_name": "half.png", "width": 30, "height": 20},
        {"id": 2, "file_name": "squeezed.png", "width": 30, "height": 30},
    ]
    box = {"category_id": 1, "bbox": [10, 10, 15, 5]}
    annotations = [{"image_id": n, **box} for n in (1, 2)]
    dataset = own.imported(own.coco(images=images, annotations=annotations))
    assert boxes(dataset) == {"half": [[20, 20, 50, 30]]}
    assert rejected(dataset) == {"image_shape_differs": ["squeezed"]}
    assert dataset.info["adjusted"] == {"boxes_scaled_to_image": 1}
    # a frame that the user states is taken as it is
    stated = own.imported(own.coco(images=images, annotations=annotations), frame=(30.0, 30.0))
    assert boxes(stated)["squeezed"] == [[20.0, pytest.approx(13.333, abs=1e-3), 50, 20]]


def test_empty_labels_are_negatives_and_missing_ones_are_left_out(own: Radiographs) -> None:
    for name in ("positive", "empty", "unnamed"):
        own.image(f"{name}.png")
    labels = own.yolo({"positive.txt": "0 0.5 0.5 0.5 0.5\n", "empty.txt": "\n"})
    dataset = own.imported(labels)
    assert boxes(dataset) == {"positive": [[15, 10, 45, 30]], "empty": []}
    assert rejected(dataset) == {"no_label": ["unnamed"]}
    taken = own.imported(labels, unlabelled_negative=True)
    assert boxes(taken) == {"positive": [[15, 10, 45, 30]], "empty": [], "unnamed": []}
    assert all(record.labelled for record in taken.records)


def test_categories_that_are_not_opacities_are_left_out(own: Radiographs) -> None:
    for name in "abcd":
        own.image(f"{name}.png")
    rows = [
        ("a", 1, 1, 20, 20, "Lung Opacity"),
        ("a", 5, 5, 9, 9, "Nodule"),
        ("b", 1, 1, 20, 20, "consolidation"),
        ("c", 1, "nan", 20, 20, "Nodule"),  # a fault that does not concern us
        ("d", "", "", "", "", NOT_NORMAL),
        ("a", 5, 5, 9, 9, "Nodule"),
    ]
    table = own.table(rows, (*CSV_HEADER, "class_name"))
    with pytest.raises(ConfigError, match=r"several categories.*'Nodule': 2.*--category"):
        own.imported(table)
    with pytest.raises(ConfigError, match=r"'effusion'.*'Nodule': 2"):
        own.imported(table, categories=("Effusion",))
    dataset = own.imported(table, categories=("lung opacity", "Consolidation"))
    assert boxes(dataset) == {"a": [[1, 1, 20, 20]], "b": [[1, 1, 20, 20]], "c": [], "d": []}
    assert [r.class_name for r in dataset.records] == [OPACITY, OPACITY, "", NOT_NORMAL]
    assert dataset.info["adjusted"] == {"box_of_other_category": 3}
    assert dataset.info["source"]["categories"] == ["Lung Opacity", "consolidation"]


def test_faulty_labels_reject_their_image_and_nothing_else(own: Radiographs) -> None:
    names = ["good", "nan", "inf", "text", "comma", "partial", "flat", "negative_size", "far",
             "both", "contradiction", "over"]  # fmt: skip
    for name in names:
        own.image(f"{name}.png")
    rows: list[tuple[object, ...]] = [
        ("good", 1, 2, 30, 20, "o"),
        ("good.png", 1, 2, 30, 20, "o"),
        ("nan", "nan", 2, 30, 20, "o"),
        ("inf", 1, 2, "1e999", 20, "o"),
        ("text", 1, 2, "wide", 20, "o"),
        ("comma", "1,5", 2, 30, 20, "o"),
        ("partial", 1, 2, "", 20, "o"),
        ("flat", 1, 2, 1, 20, "o"),
        ("negative_size", 30, 20, 1, 2, "o"),
        ("far", 100, 100, 200, 200, "o"),
        ("both", 1, 2, 30, 20, "o"),
        ("both", "", "", "", "", ""),
        ("contradiction", "", "", "", "", "o"),
        ("over", -5, 2, 300, 20, "o"),
        ("", 1, 2, 30, 20, "o"),
        ("lost", 1, 2, 30, 20, "o"),
        ("lost", 1, 2, 31, 20, "o"),
        ("../../etc/passwd", 1, 2, 30, 20, "o"),
        ("/etc/hostname", 1, 2, 30, 20, "o"),
    ]
    dataset = own.imported(own.table(rows, (*CSV_HEADER, "category")))
    assert boxes(dataset) == {"good": [[1, 2, 30, 20]], "over": [[0, 2, 60, 20]]}
    assert rejected(dataset) == {
        "box_not_finite": ["comma", "inf", "nan", "partial", "text"],
        "box_outside_image": ["far"],
        "box_without_area": ["flat", "negative_size"],
        "category_without_box": ["contradiction"],
        "no_id": ["line 16"],
        "no_image": ["../../etc/passwd", "/etc/hostname", "lost"],
        "target_mismatch": ["both"],
    }
    assert dataset.info["adjusted"] == {"box_clipped_to_image": 1, "repeated_row": 1}


def test_faulty_coco_entries_reject_their_image_and_nothing_else(own: Radiographs) -> None:
    names = ["good", "twice", "again", "listed", "category", "short", "boolean", "huge", "words"]
    for name in names:
        own.image(f"{name}.png")
    images: list[Any] = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(names)]
    images[2]["id"] = 1
    images += [{"id": 90, "file_name": "listed.png"}, {"id": 91, "file_name": 5}, "x", {"id": [1]}]
    box = {"category_id": 1, "bbox": [1, 2, 30, 20]}
    annotations: list[Any] = [
        {"image_id": 0, **box},
        {"image_id": 4, **box, "category_id": 99},
        {"image_id": 5, **box, "bbox": [1, 2, 3]},
        {"image_id": 6, **box, "bbox": [1, 2, True, 4]},
        {"image_id": 7, **box, "bbox": [1, 2, 10**400, 4]},
        {"image_id": 8, **box, "bbox": {"x": 1}},
        {"image_id": 777, **box},
        None,
    ]
    dataset = own.imported(own.coco(images=images, annotations=annotations))
    assert boxes(dataset) == {"good": [[1, 2, 31, 22]]}
    assert rejected(dataset) == {
        "box_not_finite": ["boolean", "huge"],
        "image_id_repeated": ["again", "twice"],
        "listed_twice": ["listed"],
        "malformed_row": ["images[10]", "images[11]", "images[12]", "short", "words"],
        "unknown_category": ["category"],
        "unknown_image": ["annotations[6]", "annotations[7]"],
    }


def test_faulty_yolo_lines_reject_their_image_and_nothing_else(own: Radiographs) -> None:
    names = ["good", "word", "mask", "unknown", "pixels", "flat", "minus", "latin"]
    for name in names:
        own.image(f"{name}.png")
    labels = own.yolo(
        {
            "good.txt": "\ufeff1 0.5 0.5 0.5 0.5\r\n1 0.5 0.5 0.5 0.5\r\n",
            "word.txt": "opacity 0.5 0.5 0.5 0.5\n",
            "mask.txt": "1 0.1 0.1 0.2 0.1 0.2 0.2\n",
            "unknown.txt": "7 0.5 0.5 0.5 0.5\n",
            "pixels.txt": "1 300 200 100 100\n",
            "flat.txt": "1 0.5 0.5 0 0.5\n",
            "minus.txt": "1 0.5 0.5 -0.5 0.5\n",
            "lost.txt": "1 0.5 0.5 0.5 0.5\n",
            "classes.txt": "nodule\nopacity\n",
        }
    )
    (labels / "latin.txt").write_bytes(b"1 0.5 0.5 0.5 0.5 \xe9\n")
    dataset = own.imported(labels)
    assert boxes(dataset) == {"good": [[15, 10, 45, 30]]}
    assert dataset.info["source"] == {"type": "own-yolo", "categories": ["opacity"]}
    assert rejected(dataset) == {
        "box_outside_image": ["pixels"],
        "box_without_area": ["flat", "minus"],
        "malformed_row": ["mask", "word"],
        "no_image": ["lost"],
        "not_utf8": ["latin"],
        "unknown_category": ["unknown"],
    }


@pytest.mark.parametrize("text", ["names: [nodule, opacity]", "names: {0: nodule, 1: opacity}"])
def test_class_names_of_a_yaml(own: Radiographs, text: str) -> None:
    own.image("train/a.png")
    own.yolo({"train/a.txt": "1 0.5 0.5 0.5 0.5\n"})
    (own.root / "data.yaml").write_text(text)
    source = own.imported(own.root / "labels").info["source"]
    assert source["categories"] == ["opacity"]


def test_a_yolo_dataset_with_both_folders_below_each_split(own: Radiographs) -> None:
    """Folders `labels` and `images` side by side, with the same names in both splits."""
    for split in ("train", "val"):
        own.image(f"{split}/images/1.png", 60 if split == "train" else 120)
        path = own.images / split / "labels" / "1.txt"
        path.parent.mkdir()
        path.write_text("0 0.5 0.5 0.5 0.5\n")
    dataset = own.imported(own.images)
    assert boxes(dataset) == {
        "train/images/1": [[15, 10, 45, 30]],
        "val/images/1": [[30, 10, 90, 30]],
    }


def test_names_are_matched_as_far_as_they_are_unambiguous(own: Radiographs) -> None:
    for name in ("p1/front.png", "p2/front.png", "p3/side.png", "top.png"):
        own.image(name)
    rows = [
        ("/data/study/p1/front.png", 1, 1, 20, 20),  # folders of another computer
        ("front.png", 1, 1, 20, 20),  # of which patient?
        (r"D:\data\p3\side.png", 1, 1, 20, 20),
        ("p4/front.png", 1, 1, 20, 20),  # not the image of another patient
        ("p8/top.png", 1, 1, 20, 20),
        ("p9/top.png", 1, 1, 20, 20),  # two names cannot both be top.png
    ]
    dataset = own.imported(own.table(rows))
    assert boxes(dataset) == {"p1/front": [[1, 1, 20, 20]], "side": [[1, 1, 20, 20]]}
    assert rejected(dataset) == {
        "ambiguous_name": ["front.png", "top"],
        "no_image": ["p4/front.png"],
        "no_label": ["p2/front"],
    }


def test_a_label_of_a_png_copy_belongs_to_the_dicom_file(
    phantom_folder: Path, phantoms: Dataset, tmp_path: Path
) -> None:
    name = phantoms.records[0].image_id
    write_csv(tmp_path / "boxes.csv", CSV_HEADER, [(f"{name}.png", 1, 1, 20, 20)])
    import_own_images(
        phantom_folder / "dicom", tmp_path / "boxes.csv", tmp_path / "dataset", workers=1
    )
    dataset = open_dataset(tmp_path / "dataset")
    assert boxes(dataset) == {name: [[1, 1, 20, 20]]}
    assert dataset.info["adjusted"] == {"image_has_other_suffix": 1}


def test_dicom_files_without_a_suffix_are_images(
    phantom_folder: Path, phantoms: Dataset, own: Radiographs
) -> None:
    name = phantoms.records[0].image_id
    own.images.mkdir()
    source = next((phantom_folder / "dicom").rglob(f"{name}.dcm"))
    (own.images / "IM0001").write_bytes(source.read_bytes())
    (own.images / "1.2.840.7").write_bytes(source.read_bytes())
    (own.images / "DICOMDIRECTORY").write_text("none")
    dataset = own.imported(own.table([("IM0001", 1, 1, 20, 20), ("1.2.840.7", "", "", "", "")]))
    assert sorted(boxes(dataset)) == ["1.2.840.7", "IM0001"]
    assert rejected(dataset) == {"not_an_image_name": ["DICOMDIRECTORY"]}


def test_patients_of_a_table_stay_in_one_split(own: Radiographs) -> None:
    for number in range(40):
        own.image(f"i{number:02}.png")
    rows = [(f"i{n:02}", 1, 1, 20, 20, f"MRN-{n // 4}") for n in range(40)]
    dataset = own.imported(own.table(rows, (*CSV_HEADER, "patient_id")))
    splits: dict[str, set[str]] = {}
    for record in dataset.records:
        splits.setdefault(record.patient_id, set()).add(record.split)
    assert len(splits) == 10
    assert all(len(found) == 1 for found in splits.values())
    assert {s for found in splits.values() for s in found} == {"train", "val", "test"}
    assert dataset.info["split"]["leak_warning"] is None
    everything = "".join(
        path.read_text() for path in dataset.folder.iterdir() if path.suffix in (".csv", ".json")
    )
    assert "MRN" not in everything  # a patient number stays outside of the dataset
    # the same from a table of its own
    table = own.root / "patients.csv"
    write_csv(table, ("image", "patient_id"), [(row[0], row[5]) for row in rows])
    again = own.imported(own.table([row[:5] for row in rows]), patients=table)
    assert [r.patient_id for r in again.records] == [r.patient_id for r in dataset.records]


def test_unknown_patients_are_warned_of_and_conflicts_rejected(own: Radiographs) -> None:
    for name in "abc":
        own.image(f"{name}.png")
    rows = [("a", 1, 1, 20, 20, "p"), ("a", 2, 2, 9, 9, "q"), ("b", 1, 1, 9, 9, ""),
            ("c", 1, 1, 9, 9, "p")]  # fmt: skip
    dataset = own.imported(own.table(rows, (*CSV_HEADER, "patient_id")))
    assert rejected(dataset) == {"patient_conflict": ["a"]}
    assert dataset.info["split"]["leak_warning"].startswith("1 images: ")
    assert "--patients" in dataset.info["split"]["leak_warning"]


def test_given_splits_are_kept(own: Radiographs) -> None:
    for name in "abc":
        own.image(f"{name}.png")
    rows = [("a", 1, 1, 20, 20, "test"), ("b", 2, 2, 9, 9, "val"), ("c", 1, 1, 9, 9, "train")]
    dataset = own.imported(own.table(rows, (*CSV_HEADER, "split")))
    assert [record.split for record in dataset.records] == ["test", "val", "train"]


def test_a_picture_that_exif_data_rotate_is_rejected(own: Radiographs) -> None:
    own.image("upright.png")
    own.image("turned.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    Image.fromarray(pixels).save(own.images / "turned.jpg", exif=exif)
    (own.images / "turned.png").unlink()
    dataset = own.imported(own.table([("upright", 1, 1, 9, 9), ("turned", 1, 1, 9, 9)]))
    assert rejected(dataset) == {"picture_stored_rotated": ["turned"]}


def test_labels_csv_of_the_dataset_is_the_official_one(own: Radiographs) -> None:
    """`evaluate` reads it: boxes in a frame of 1024."""
    own.image("a.png", 60, 40)
    own.image("b.png")
    dataset = own.imported(own.table([("a", 15, 10, 30, 20), ("b", "", "", "", "")]))
    text = (dataset.folder / "labels.csv").read_text().splitlines()
    assert text[1:] == ["a,256,256,256,256,1", "b,,,,,0"]
    assert LABEL_FRAME == 1024


@pytest.mark.slow
def test_a_hundred_thousand_annotations(own: Radiographs) -> None:
    own.image("a.png", 600, 400)
    annotations = [
        {"image_id": 1, "category_id": 1, "bbox": [n % 500, n // 500, 50, 60]}
        for n in range(100_000)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 600, "height": 400}]
    dataset = own.imported(own.coco(images=images, annotations=annotations))
    assert len(dataset.boxes(0)) == 100_000


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.json", b"", "not JSON"),
        ("l.json", b"{", "not JSON"),
        ("l.json", DEEP.encode(), "not JSON"),
        ("l.json", b"[]", "not a JSON object; found list"),
        ("l.json", b'{"images": [], "annotations": []}', "not COCO.*categories"),
        ("l.json", b'{"images": {}, "annotations": [], "categories": []}', "not COCO"),
        ("l.json", b'{"images": [], "annotations": [], "categories": [{}]}', "Categories"),
        (
            "l.json",
            b'{"images":[],"annotations":[],"categories":[{"id":1,"name":"a"},{"id":1,"name":"b"}]}',
            "Categories",
        ),
        ("l.json", b'{"images": [], "annotations": [], "categories": []}', "No image has both"),
        ("l.json", b'{"a": "\xe9"}', "not in UTF-8"),
        ("l.csv", b"", "no rows"),
        ("l.csv", b"image,x1,y1,x2,y2\n", "no rows"),
        ("l.csv", b"image,x1,y1\na,1,2\n", "lacks columns"),
        ("l.csv", b"image;x1;y1;x2;y2\na;1;2;3;4\n", "lacks columns"),
        ("l.csv", b"patientId,x,y,width,height,Target\na,1,2,3,4,1\n", "import-rsna"),
        ("l.csv", b"image,x1,y1,x2,y2\n\xe9,1,2,3,4\n", "not in UTF-8"),
        ("l.csv", b"\xff\xfei\0m\0", "not in UTF-8"),
        ("l.csv", b"image,x1,y1,x2,y2\nzz,1,2,3,4\n", r"no_image: 1 \(zz\)"),
        ("l.xml", b"<annotation/>", "Format of the labels"),
        ("l", None, "no YOLO labels"),
        ("absent.csv", None, "missing"),
    ],
)
def test_unusable_label_files_are_one_error_and_leave_nothing(
    own: Radiographs, name: str, content: bytes | None, message: str
) -> None:
    own.image("a.png")
    labels = own.root / name
    if content is not None:
        labels.write_bytes(content)
    elif "." not in name:
        labels.mkdir()
    with pytest.raises(DataError, match=message) as caught:
        own.imported(labels)
    assert "\n" not in str(caught.value)
    assert not (own.root / "dataset").exists()


@pytest.mark.parametrize(
    "text",
    ["", "names:", "names: 5", "- a", "names: [[a]]", "names: {x: a}", "names: [", "[" * 5000,
     "nc: 2"],
)  # fmt: skip
def test_unusable_class_files_are_one_error(own: Radiographs, text: str) -> None:
    own.image("a.png")
    labels = own.yolo({"a.txt": "0 0.5 0.5 0.5 0.5\n"})
    (own.root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match="Names of the classes"):
        own.imported(labels)


def test_options_that_do_not_fit_are_refused(own: Radiographs) -> None:
    own.image("a.png")
    labels = own.yolo({"a.txt": "0 0.5 0.5 0.5 0.5\n"})
    with pytest.raises(ConfigError, match="--frame"):
        own.imported(labels, frame=(1024.0, 1024.0))
    with pytest.raises(ConfigError, match="overlap"):
        import_own_images(own.images, labels, own.images / "out")
    with pytest.raises(ConfigError, match="overlap"):
        import_own_images(own.images, labels, labels)
    table = own.table([("a", 1, 1, 9, 9)])
    with pytest.raises(ConfigError, match="YOLO"):
        own.imported(table, class_file=table)
    (own.root / "none").mkdir()
    with pytest.raises(DataError, match="no image"):
        import_own_images(own.root / "none", table, own.root / "out")
    with pytest.raises(PneumoniaError, match="patient_id"):
        own.imported(table, patients=table)


def test_a_change_of_labels_imports_again(own: Radiographs) -> None:
    own.image("a.png")
    out = own.root / "dataset"
    assert import_own_images(own.images, own.table([("a", 1, 1, 9, 9)]), out)
    assert import_own_images(own.images, own.table([("a", 1, 1, 9, 19)]), out)
    assert not import_own_images(own.images, own.root / "boxes.csv", out)
    relative = OwnImageOptions(frame=(30.0, 40.0))
    assert import_own_images(own.images, own.root / "boxes.csv", out, relative)
    assert boxes(open_dataset(out)) == {"a": [[2, 1, 18, 19]]}


def test_normal_rows_have_their_class(own: Radiographs) -> None:
    own.image("a.png")
    own.image("b.png")
    rows = [("a", "", "", "", "", NORMAL), ("b", "", "", "", "", "No finding")]
    dataset = own.imported(own.table(rows, (*CSV_HEADER, "class")))
    assert [record.class_name for record in dataset.records] == [NORMAL, ""]
