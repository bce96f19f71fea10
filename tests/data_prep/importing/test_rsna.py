"""Imports: what is kept, what is left out and why, and that nothing half is ever there."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.dataset.reader import Dataset, open_dataset
from data_prep.importing import assemble
from data_prep.importing.rsna import ImportOptions, import_rsna
from pneumonia.runtime.errors import ConfigError, DataError, OutputError
from tests.data_prep.conftest import NORMAL, NOT_NORMAL, OPACITY, KaggleFolder, write_csv


def imported(source: Path, **options: object) -> Dataset:
    out = source.parent / "dataset"
    assert import_rsna(source, out, ImportOptions(**options), workers=1)
    return open_dataset(out)


def rejected(dataset: Dataset) -> dict[str, list[str]]:
    found = dataset.info["rejected"]
    assert all(entry["count"] == len(entry["names"]) for entry in found.values())
    return {reason: entry["names"] for reason, entry in found.items()}


def by_id(dataset: Dataset) -> dict[str, int]:
    return {record.image_id: i for i, record in enumerate(dataset.records)}


def test_kaggle_layout(kaggle: KaggleFolder) -> None:
    pixels = kaggle.image("one", width=64, height=32)
    kaggle.positive("one", (512, 256, 128, 512), (0, 0, 1024, 1024))
    pixels = kaggle.image("one", width=64, height=32)
    kaggle.negative("two")
    kaggle.negative("three", NOT_NORMAL)
    dataset = imported(kaggle.write())
    at = by_id(dataset)
    one = dataset.records[at["one"]]
    assert (one.kind, one.class_name, one.labelled) == ("full", OPACITY, True)
    assert (one.width, one.height) == (64, 32)
    # the frame of 1024 is stretched over the image: x by 64/1024, y by 32/1024
    np.testing.assert_array_equal(dataset.boxes(at["one"]), [[0, 0, 64, 32], [32, 8, 40, 24]])
    np.testing.assert_array_equal(dataset.pixels(at["one"]), pixels)
    assert dataset.records[at["two"]].class_name == NORMAL
    assert dataset.records[at["three"]].class_name == NOT_NORMAL
    assert dataset.info["source"]["type"] == "rsna-kaggle"
    assert rejected(dataset) == {}
    assert not (dataset.folder / "rejected.csv").exists()
    assert "--mapping" in dataset.info["split"]["leak_warning"]


def test_a_mapping_keeps_patients_together_and_ends_the_warning(kaggle: KaggleFolder) -> None:
    names = [f"i{number:02}" for number in range(40)]
    for name in names:
        kaggle.negative(name)
    entries = [
        {"subset_img_id": name, "img_id": f"{number // 4:08}_{number % 4:03}.png"}
        for number, name in enumerate(names)
    ]
    path = kaggle.folder / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_text(json.dumps(entries))
    dataset = imported(kaggle.write())
    splits: dict[str, set[str]] = {}
    for record in dataset.records:
        assert record.patient_id == f"{int(record.image_id[1:]) // 4:08}"
        splits.setdefault(record.patient_id, set()).add(record.split)
    assert len(splits) == 10
    assert all(len(found) == 1 for found in splits.values())
    assert {s for found in splits.values() for s in found} == {"train", "val", "test"}
    assert dataset.info["split"]["leak_warning"] is None
    recorded = json.loads((dataset.folder / "splits.json").read_text())
    assert recorded["patients"] == {patient: found.pop() for patient, found in splits.items()}


def test_every_left_out_image_is_named_with_its_reason(kaggle: KaggleFolder) -> None:
    kaggle.positive("good")
    kaggle.positive("nan", (float("nan"), 1, 2, 3))
    kaggle.positive("outside", (2000, 1, 20, 30))
    kaggle.negative("mismatch", OPACITY)
    kaggle.image("unlabelled")
    kaggle.labels.append(("lost", "", "", "", "", 0))
    kaggle.labels.append(("lost and bad", "", "", "", "", 7))
    kaggle.negative("truncated")
    path = kaggle.images / "truncated.png"
    path.write_bytes(path.read_bytes()[:60])
    kaggle.negative("text")
    (kaggle.images / "text.png").write_text("not an image")
    kaggle.negative("empty")
    (kaggle.images / "empty.png").write_bytes(b"")
    (kaggle.images / "Thumbs.db").write_bytes(b"x")
    (kaggle.images / "more").mkdir()
    (kaggle.images / "more" / "good.png").write_bytes(b"x")
    dataset = imported(kaggle.write())
    assert [record.image_id for record in dataset.records] == ["good"]
    assert rejected(dataset) == {
        "bad_target": ["lost and bad"],
        "box_not_finite": ["nan"],
        "box_outside_frame": ["outside"],
        "class_target_mismatch": ["mismatch"],
        "no_image": ["lost"],
        "no_label": ["unlabelled"],
        "not_an_image_name": ["Thumbs.db"],
        "not_dicom": ["empty", "text"],
        "pixel_data_truncated": ["truncated"],
        "second_file_of_id": ["good.png"],
    }
    with (dataset.folder / "rejected.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    by_reason: dict[str, list[str]] = {}
    for row in listed:
        by_reason.setdefault(row["reason"], []).append(row["name"])
        assert row["detail"], row
    assert by_reason == rejected(dataset)


def test_a_dangling_link_is_left_out_and_named(kaggle: KaggleFolder) -> None:
    """And a link to a folder or a pipe; a link to an image is an image."""
    kaggle.negative("good")
    source = kaggle.write()
    images = source / "stage_2_train_images"
    (images / "gone.dcm").symlink_to(images / "nowhere.dcm")
    os.mkfifo(images / "pipe.png")
    left_out = rejected(imported(source))
    assert left_out["dangling_link"] == ["gone.dcm"]
    assert left_out["not_a_file"] == ["pipe.png"]


def test_nothing_that_matches_is_one_error_with_counts(kaggle: KaggleFolder) -> None:
    kaggle.image("a")
    kaggle.labels.append(("b", "", "", "", "", 0))
    kaggle.classes.append(("b", NORMAL))
    with pytest.raises(
        DataError, match=r"file and a usable label.*no_label: 1 \(a\), no_image: 1 \(b\)"
    ):
        import_rsna(kaggle.write(), kaggle.folder.parent / "out")
    assert not (kaggle.folder.parent / "out").exists()


def test_only_broken_images_is_an_error_and_leaves_nothing(kaggle: KaggleFolder) -> None:
    kaggle.negative("a")
    (kaggle.images / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"No image could be used.*not_dicom: 1 \(a\)"):
        import_rsna(kaggle.write(), kaggle.folder.parent / "out")
    assert [path.name for path in kaggle.folder.parent.iterdir()] == ["rsna"]


def test_a_second_run_does_nothing_until_something_changes(kaggle: KaggleFolder) -> None:
    kaggle.positive("a")
    kaggle.negative("b")
    source, out = kaggle.write(), kaggle.folder.parent / "out"
    assert import_rsna(source, out)
    stamp = (out / "images.u8").stat().st_mtime_ns
    assert not import_rsna(source, out)
    assert (out / "images.u8").stat().st_mtime_ns == stamp
    assert import_rsna(source, out, ImportOptions(cache_size=32))
    assert import_rsna(source, out, ImportOptions(seed=1))
    assert not import_rsna(source, out, ImportOptions(seed=1))
    stat = (source / "stage_2_train_images" / "a.png").stat()
    os.utime(source / "stage_2_train_images" / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert import_rsna(source, out, ImportOptions(seed=1))
    kaggle.negative("c")
    assert import_rsna(kaggle.write(), out, ImportOptions(seed=1))
    assert len(open_dataset(out)) == 3
    (out / "images.u8").unlink()
    assert import_rsna(source, out, ImportOptions(seed=1))


def test_an_interrupted_import_leaves_what_was_there(
    kaggle: KaggleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        kaggle.negative(f"i{number}")
    source, out = kaggle.write(), kaggle.folder.parent / "out"
    import_rsna(source, out)
    before = open_dataset(out).fingerprint
    calls = []

    def stop_at_four(path: Path, cache_size: int) -> object:
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(path, cache_size)

    original = assemble.decode_image
    monkeypatch.setattr(assemble, "decode_image", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        import_rsna(source, out, ImportOptions(cache_size=32))
    assert open_dataset(out).fingerprint == before
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        import_rsna(source, out.parent / "new")
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "rsna"]


def test_workers_and_one_process_give_the_same_folder(kaggle: KaggleFolder) -> None:
    for number in range(70):  # enough for a pool
        kaggle.negative(f"i{number:03}")
    (kaggle.images / "i010.png").write_text("broken")
    source = kaggle.write()
    seen: list[tuple[int, int]] = []
    import_rsna(source, source.parent / "one", workers=1)
    import_rsna(
        source, source.parent / "two", workers=2, progress=lambda d, t, note: seen.append((d, t))
    )
    for path in sorted((source.parent / "one").iterdir()):
        assert path.read_bytes() == (source.parent / "two" / path.name).read_bytes()
    assert seen == [(done, 70) for done in range(1, 71)]


def test_the_same_seed_gives_the_same_split_and_another_another(kaggle: KaggleFolder) -> None:
    for number in range(60):
        kaggle.negative(f"i{number:03}")
    source = kaggle.write()

    def splits(seed: int, name: str) -> list[str]:
        import_rsna(source, source.parent / name, ImportOptions(seed=seed))
        return [record.split for record in open_dataset(source.parent / name).records]

    assert splits(5, "a") == splits(5, "b")
    assert splits(5, "a") != splits(6, "c")


def test_phantoms_import_to_their_own_images_and_boxes(
    phantom_folder: Path, phantoms: Dataset, tmp_path: Path
) -> None:
    assert import_rsna(phantom_folder, tmp_path / "again", workers=1)
    again = open_dataset(tmp_path / "again")
    assert len(again) == len(phantoms)
    partner: dict[str, str] = {}
    for i, (new, old) in enumerate(zip(again.records, phantoms.records, strict=True)):
        np.testing.assert_array_equal(again.pixels(i), phantoms.pixels(i))
        np.testing.assert_array_equal(
            np.sort(again.boxes(i), axis=0), np.sort(phantoms.boxes(i), axis=0)
        )
        assert new._replace(split="", patient_id="") == old._replace(split="", patient_id="")
        # the header's number is replaced, one to one
        assert new.patient_id.startswith("dicom-")
        assert partner.setdefault(new.patient_id, old.patient_id) == old.patient_id
    assert len(partner) == len({record.patient_id for record in phantoms.records})
    assert again.info["split"]["leak_warning"] is None


def curated(folder: Path) -> Path:
    """The layout with images.csv: kinds, files, splits and patients given."""
    (folder / "full").mkdir(parents=True)
    (folder / "lungs").mkdir()
    rows = []
    for name, kind, split in (
        ("a", "full", "train"),
        ("a", "lungs", "train"),
        ("b", "lungs", "val"),
        ("c", "full", "val"),
    ):
        file = f"{kind}/{name}.png"
        Image.fromarray(np.full((16, 16), 7, np.uint8)).save(folder / file)
        rows.append((name, kind, split, "0001" + name, "61", "M", "PA", file))
    header = ("patientId", "kind", "split", "nih_patient", "PatientAge", "PatientSex",
              "ViewPosition", "file")  # fmt: skip
    write_csv(folder / "images.csv", header, rows)
    labels = [("a", 64, 64, 128, 128, 1), ("b", "", "", "", "", 0), ("c", "", "", "", "", 0)]
    write_csv(folder / "labels.csv", ("patientId", "x", "y", "width", "height", "Target"), labels)
    return folder


def test_curated_layout_keeps_kinds_splits_and_facts(tmp_path: Path) -> None:
    dataset = imported(curated(tmp_path / "source"))
    first = dataset.records[0]
    assert (first.image_id, first.kind, first.split, first.patient_id) == (
        "a",
        "full",
        "train",
        "0001a",
    )
    assert (first.view, first.sex, first.age) == ("PA", "M", 61)
    assert [(r.image_id, r.kind, r.split) for r in dataset.records[1:]] == [
        ("c", "full", "val"), ("a", "lungs", "train"), ("b", "lungs", "val"),
    ]  # fmt: skip
    np.testing.assert_array_equal(dataset.boxes(0), [[1, 1, 3, 3]])
    np.testing.assert_array_equal(dataset.boxes(2), [[1, 1, 3, 3]])
    assert dataset.info["split"]["method"] == "given"
    assert dataset.info["split"]["leak_warning"] is None
    # without a class table a positive has its class, a negative may be normal or not
    assert [record.class_name for record in dataset.records] == [OPACITY, "", OPACITY, ""]


def test_split_lists_that_contradict_the_table_are_named(tmp_path: Path) -> None:
    folder = curated(tmp_path / "source")
    (folder / "train_full.txt").write_text("full/a.png\nfull/c.png\n")
    dataset = imported(folder)
    assert rejected(dataset) == {"given_splits_differ": ["c"]}
    (folder / "val_full.txt").write_text("full/a.png\n")
    with pytest.raises(DataError, match="two splits"):
        import_rsna(folder, tmp_path / "other")


def test_listed_files_outside_the_source_are_not_read(tmp_path: Path) -> None:
    folder = curated(tmp_path / "source")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "secret.png")
    text = (folder / "images.csv").read_text()
    text = text.replace("full/a.png", "../secret.png").replace(
        "full/c.png", str(tmp_path / "secret.png")
    )
    (folder / "images.csv").write_text(text)
    assert rejected(imported(folder)) == {"file_missing": ["a", "c"]}


def test_patients_given_in_two_splits_are_warned_of(tmp_path: Path) -> None:
    folder = curated(tmp_path / "source")
    text = (folder / "images.csv").read_text().replace("0001c", "0001a")
    (folder / "images.csv").write_text(text)
    assert "1 patients lie in several" in imported(folder).info["split"]["leak_warning"]


def test_nih_frames_without_finding_are_negatives_and_others_unlabelled(tmp_path: Path) -> None:
    nih = tmp_path / "nih"
    (nih / "images").mkdir(parents=True)
    rows = []
    for name, findings, in_rsna in (
        ("w", "Effusion", "False"),
        ("x", "No Finding", "False"),
        ("y", "Edema|Pneumonia", "False"),
        ("z", "No Finding", "True"),
    ):
        Image.fromarray(np.full((16, 16), 9, np.uint8)).save(nih / "images" / f"{name}.png")
        rows.append((f"{name}.png", in_rsna, "0002", "val", findings, "AP", f"images/{name}.png"))
    header = ("image", "in_rsna", "nih_patient", "split", "nih_labels", "view", "file")
    write_csv(nih / "images.csv", header, rows)
    dataset = imported(curated(tmp_path / "source"), nih=nih)
    w, x, y = dataset.records[-3:]
    assert (x.image_id, x.kind, x.split, x.class_name, x.labelled) == (
        "x",
        "nih",
        "val",
        NORMAL,
        True,
    )
    assert (y.image_id, y.class_name, y.labelled) == ("y", "", False)
    assert (x.weak_opacity, y.weak_opacity, w.weak_opacity) == ("", "yes", "")
    assert rejected(dataset) == {"nih_frame_is_in_rsna": ["z"]}
    assert "y" not in (dataset.folder / "labels.csv").read_text().split("\n", 1)[1]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "not a folder"),
        (lambda folder: folder.mkdir(), "known layouts"),
    ],
)
def test_a_foreign_source_is_explained(tmp_path: Path, prepare: object, message: str) -> None:
    prepare(tmp_path / "source")  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        import_rsna(tmp_path / "source", tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '[{"subset_img_id": "a"}]', '["a"]', "[1, 2", '{"a": "b"}']
)
def test_a_foreign_mapping_is_refused(kaggle: KaggleFolder, text: str) -> None:
    kaggle.negative("a")
    mapping = kaggle.folder.parent / "map.json"
    mapping.write_text(text)
    with pytest.raises(DataError, match="Patient mapping"):
        import_rsna(kaggle.write(), kaggle.folder.parent / "out", ImportOptions(mapping=mapping))


def test_options_out_of_range_and_overlapping_folders_are_refused(kaggle: KaggleFolder) -> None:
    kaggle.negative("a")
    source = kaggle.write()
    with pytest.raises(ConfigError, match="Cache size"):
        import_rsna(source, source.parent / "out", ImportOptions(cache_size=5))
    for out in (source, source / "inside", source.parent):
        with pytest.raises(ConfigError, match="overlap"):
            import_rsna(source, out)
    (source.parent / "home").mkdir()
    (source.parent / "home" / "letter.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"):
        import_rsna(source, source.parent / "home")


@pytest.mark.real_data
def test_real_labels_and_tables_agree(real_rsna: Path) -> None:
    """The real tables are clean: nothing may be left out but what has no file here."""
    from data_prep.importing.labels import read_labels
    from data_prep.importing.sources import open_source

    source = open_source(real_rsna)
    labels = read_labels(source.labels_csv, source.class_csv)
    assert not source.rejected
    assert not labels.rejected
    assert not labels.adjusted
    kinds = [image.kind for image in source.images]
    assert (kinds.count("full"), kinds.count("lungs")) == (7942, 9070)
    found = {image.image_id: labels.boxes[image.image_id] for image in source.images}
    sizes = np.concatenate(list(found.values()))
    # the published medians of all RSNA boxes are 217 x 298
    assert np.median(sizes[:, 2] - sizes[:, 0]) == pytest.approx(217, abs=10)
    assert np.median(sizes[:, 3] - sizes[:, 1]) == pytest.approx(298, abs=15)
