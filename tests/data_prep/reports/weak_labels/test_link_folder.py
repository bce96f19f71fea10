"""Weak labels: the rule, the folder of links, the dataset, training on it, and the command."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.dataset.audit import audit_dataset
from data_prep.dataset.reader import open_dataset
from data_prep.phantom.study import make_phantoms
from data_prep.reports.findings.concepts import ConceptBase
from data_prep.reports.weak_labels.link_folder import LinkedReports, link_source
from data_prep.reports.weak_labels.opacity_label import opacity_label
from data_prep.reports.weak_labels.weak_dataset import WeakSources, write_weak_dataset
from pneumonia.cli import group, run
from pneumonia.runtime.errors import DataError, OutputError
from pneumonia.training.config import DataConfig
from pneumonia.training.detector.task import unboxed_items
from tests.data_prep.reports.conftest import make_reports, write_reports

BASE = ConceptBase.load()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Right lower lobe pneumonia.", "yes"),
        ("Opacity at the left base, may represent atelectasis.", "yes"),
        ("No focal consolidation.", "no"),
        ("The lungs are clear.", "no"),
        ("Normal chest.", "no"),
        ("Cardiomegaly. No infiltrate.", "no"),
        ("Possible infiltrate.", "uncertain"),
        ("No consolidation. Left basilar atelectasis.", "uncertain"),
        ("Small effusion. No infiltrate.", "uncertain"),
        ("Heart size is normal.", "uncertain"),
        ("The lungs are otherwise clear.", "uncertain"),
        ("The lungs are not clear.", "uncertain"),
        ("The infiltrate has resolved. Heart normal.", "uncertain"),
        ("INDICATION: Pneumonia.\nFINDINGS: The lungs are clear.", "no"),
    ],
)
def test_label(text: str, label: str) -> None:
    assert opacity_label(text, BASE) == label


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


SECRET = "Zebediah Quux"


def bad_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.txt").write_text(f"Patient {SECRET}. There is opacity in the left base.")
    (folder / "b.txt").write_text("The lungs are clear.")
    (folder / "c.txt").write_text("")
    (folder / "d.txt").write_bytes(bytes(range(256)) * 9)
    (folder / "e.txt").write_text("The lungs are clear. " * 500_000)  # 10 MB
    (folder / "f.txt").write_text(f"<html><body>{SECRET}</body></html>")
    (folder / "g.txt").write_text("Radiographie du thorax de face. Pas de foyer ni epanchement.")
    return folder


def test_bad_reports_end_in_one_line_without_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = bad_folder(tmp_path / "in"), tmp_path / "out"
    assert run(group, ["data", "link-reports", str(source), "--out", str(out)]) == 3
    rows = {row["report_id"]: row for row in table(out / "reports.csv")}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "a": "", "b": "", "c": "empty", "d": "binary", "e": "too_long", "f": "html",
        "g": "language",
    }  # fmt: skip
    assert (rows["a"]["opacity"], rows["b"]["opacity"]) == ("yes", "no")
    assert rows["a"]["codes"] == "Opacity/lung/base/left"
    (concept,) = table(out / "concepts.csv")
    text = (source / "a.txt").read_text()
    assert text[int(concept["start"]) : int(concept["end"])] == "opacity"
    assert (concept["site"], concept["side"], concept["assertion"]) == (
        "lung/base", "left", "present",
    )  # fmt: skip
    shown = capsys.readouterr()
    assert "5 of 7" in shown.err
    written = "".join(path.read_text() for path in out.iterdir())
    for name in SECRET.split():
        assert name not in shown.out + shown.err + written
    assert "Not a medical device" in json.loads((out / "links.json").read_text())["disclaimer"]


def test_two_reports_of_one_image_that_disagree_leave_it_open(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("report_id,text,images\n1,Pneumonia.,x;y\n2,The lungs are clear.,y;z\n")
    linked = link_source(path, tmp_path / "out", BASE)
    assert {name: label for name, (_, label) in linked.images.items()} == {
        "x": "yes", "y": "uncertain", "z": "no",
    }  # fmt: skip


def test_a_foreign_folder_is_not_replaced_and_nothing_usable_is_an_error(tmp_path: Path) -> None:
    source = write_reports(tmp_path / "r.csv", make_reports(3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="other files"):
        link_source(source, tmp_path / "mine", BASE)
    (tmp_path / "e.csv").write_text("text\n \n")
    with pytest.raises(DataError, match="empty: 1"):
        link_source(tmp_path / "e.csv", tmp_path / "out", BASE)
    assert not (tmp_path / "out").exists()
    link_source(source, tmp_path / "out", BASE)
    link_source(source, tmp_path / "out", BASE)  # its own folder is replaced


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxed") / "set"
    make_phantoms(folder, count=24, seed=3, size=64, workers=1)
    return folder


def write_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for at, name in enumerate(names):
        pixels = np.random.default_rng(at).integers(0, 256, (70, 60), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


LABELS = {"n": ("r1", "no"), "y": ("r2", "yes"), "u": ("r3", "uncertain"), "gone": ("r4", "no")}


def test_weak_images_join_a_dataset_with_boxes(tmp_path: Path, boxed: Path) -> None:
    images = write_images(tmp_path / "png", ["n", "y", "u", "stranger"])
    (images / "broken.png").write_bytes(b"no image")
    first = open_dataset(boxed)
    name = first.records[0].image_id
    labels = {**LABELS, "broken": ("r5", "no"), name: ("r6", "uncertain")}
    fates = write_weak_dataset(tmp_path / "d", labels, WeakSources(images, first), workers=1)
    assert fates == {
        "joined": 24, "joined_with_report": 1, "no": 1, "yes": 1, "uncertain": 1,
        "unreadable": 1, "without_report": 1,
    }  # fmt: skip
    dataset = open_dataset(tmp_path / "d")
    new = {r.image_id: r for r in dataset.records[24:]}
    assert {n: (r.weak_opacity, r.labelled, r.split) for n, r in new.items()} == {
        "n": ("no", True, "train"),
        "y": ("yes", False, "train"),
        "u": ("uncertain", False, "train"),
    }
    for i, record in enumerate(first.records):  # what has boxes comes as it was
        assert dataset.records[i]._replace(weak_opacity="") == record
        np.testing.assert_array_equal(dataset.boxes(i), first.boxes(i))
        np.testing.assert_array_equal(dataset.pixels(i), first.pixels(i))
    assert dataset.records[0].weak_opacity == "uncertain"
    chosen = [dataset.records[i].image_id for i in dataset.select("train")]
    assert "n" in chosen
    assert not {"y", "u"} & set(chosen)  # never negatives
    report = audit_dataset(dataset, None)
    assert all(check["passed"] for check in report["checks"]), report["checks"]


def test_a_weak_negative_of_a_held_out_patient_judges_nothing(tmp_path: Path, boxed: Path) -> None:
    """The same DICOM patient in the joined dataset's validation part keeps the image out of use."""
    first = open_dataset(boxed)
    held_out = next(r for r in first.records if r.split == "val")
    (tmp_path / "dicom").mkdir()
    shutil.copy(boxed / "dicom" / f"{held_out.image_id}.dcm", tmp_path / "dicom" / "n.dcm")
    from data_prep.importing.assemble import pseudonym
    from data_prep.importing.decode import decode_image

    header = decode_image(tmp_path / "dicom" / "n.dcm", 64).patient_id
    renamed = first.records[:0] + tuple(
        r._replace(patient_id=pseudonym(header, r.image_id))
        if r.patient_id == held_out.patient_id
        else r
        for r in first.records
    )
    first.records = renamed
    write_weak_dataset(
        tmp_path / "d", {"n": ("r1", "no")}, WeakSources(tmp_path / "dicom", first), workers=1
    )
    record = open_dataset(tmp_path / "d").records[-1]
    assert (record.split, record.labelled, record.weak_opacity) == ("val", False, "no")


def test_names_that_match_nothing_are_an_error(tmp_path: Path) -> None:
    images = write_images(tmp_path / "png", ["a", "b"])
    with pytest.raises(DataError, match="No image has a report"):
        write_weak_dataset(tmp_path / "d", LABELS, WeakSources(images, None), workers=1)
    with pytest.raises(DataError, match="folder is missing"):
        write_weak_dataset(tmp_path / "d", LABELS, WeakSources(tmp_path / "no", None), workers=1)
    assert not (tmp_path / "d").exists()


def test_a_manifest_has_the_column_only_where_there_is_a_report(
    tmp_path: Path, boxed: Path
) -> None:
    images = write_images(tmp_path / "png", ["n"])
    write_weak_dataset(tmp_path / "d", LABELS, WeakSources(images, None), workers=1)
    (row,) = table(tmp_path / "d" / "manifest.csv")
    assert row["weak_opacity"] == "no"
    assert "weak_opacity" not in table(boxed / "manifest.csv")[0]


def test_a_label_that_is_none_is_refused(tmp_path: Path) -> None:
    import hashlib

    images = write_images(tmp_path / "png", ["n"])
    write_weak_dataset(tmp_path / "d", LABELS, WeakSources(images, None), workers=1)
    path = tmp_path / "d" / "manifest.csv"
    text = path.read_text().replace(",no\n", ",maybe\n")
    path.write_text(text)
    info = json.loads((tmp_path / "d" / "dataset.json").read_text())
    info["files"]["manifest.csv"]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="weak_opacity 'maybe'"):
        open_dataset(tmp_path / "d")


def test_training_runs_on_the_output_of_the_command(
    tmp_path: Path, boxed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["w1", "w2", "w3"]
    images = write_images(tmp_path / "png", names)
    texts = ("The lungs are clear.", "Left base opacity.", "Possible infiltrate.")
    rows = "".join(f"{n},{t},{n}\n" for n, t in zip(names, texts, strict=True))
    (tmp_path / "r.csv").write_text("report_id,text,images\n" + rows)
    out = tmp_path / "links"
    arguments = ["data", "link-reports", tmp_path / "r.csv", "--out", out, "--images", images,
                 "--join", boxed, "--workers", 1]  # fmt: skip
    assert run(group, [str(a) for a in arguments]) == 0
    assert f"next: pneumonia data audit {out / 'dataset'}" in capsys.readouterr().out
    dataset = open_dataset(out / "dataset")
    unboxed = [dataset.records[i].image_id for i in unboxed_items(dataset, DataConfig())]
    assert unboxed == ["w2"]  # an opacity that nobody drew teaches the image-level output
    sets = ["epochs=1", "workers=0", "batch_size=4", "model.size=64", "data.images_per_epoch=8",
            "model.image_head=true"]  # fmt: skip
    arguments = ["train", "--data", out / "dataset", "--recipe", "phantom", "--out",
                 tmp_path / "run"]  # fmt: skip
    settings = [part for item in sets for part in ("--set", item)]
    assert run(group, [*(str(a) for a in arguments), *settings]) == 0
    assert (tmp_path / "run" / "best" / "weights.safetensors").is_file()
    (row,) = table(tmp_path / "run" / "metrics.csv")
    assert float(row["loss_image"]) > 0


def test_train_linker_and_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_reports(tmp_path / "r.csv", make_reports(120))
    linker, out = tmp_path / "linker", tmp_path / "links"
    train = ["data", "train-linker", source, "--out", linker, "--epochs", 2]
    assert run(group, [str(a) for a in train]) == 0
    assert "24 reports of the test part" in capsys.readouterr().out
    link = ["data", "link-reports", source, "--out", out, "--linker", linker]
    assert run(group, [str(a) for a in link]) == 0
    assert len(table(out / "reports.csv")) == 120
    assert run(group, [str(a) for a in [*link, "--concepts", "x.json"]]) == 2


def test_filling_sees_the_unfinished_folder_and_a_fault_leaves_nothing(tmp_path: Path) -> None:
    source = write_reports(tmp_path / "r.csv", make_reports(3))

    def fail(folder: Path, linked: LinkedReports) -> None:
        assert (folder / "reports.csv").is_file()
        raise DataError("stop")

    with pytest.raises(DataError, match="stop"):
        link_source(source, tmp_path / "out", BASE, fill=fail)
    assert not list(tmp_path.glob("out*"))
