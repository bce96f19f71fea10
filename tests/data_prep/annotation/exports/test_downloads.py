"""Exports judged by those who read them: our importer, COCO's evaluator, dicom3tools, dcmtk."""

import json
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest

from data_prep.annotation.agreement.consensus import StudyTruth, consensus_of, truth_of
from data_prep.annotation.exports.structured_report import build_reading_report
from data_prep.annotation.exports.tables import class_csv, coco_json, left_out_csv, rsna_csv
from data_prep.annotation.exports.training_set import write_training_set
from data_prep.annotation.workspace.records import Study
from data_prep.dataset.reader import open_dataset
from data_prep.importing.labels import read_labels
from data_prep.reports.findings.concepts import ConceptBase
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.results import write_dicom
from pneumonia.runtime.results.identity import ObjectCreation
from tests.data_prep.annotation.readings import BOX, FAR, OPACITY_LEFT, box, reading
from tests.support.peers import run_peer

BASE = ConceptBase.load()
STUDIES = {
    "one": Study(1, "one", "one.dcm", 512, 512),
    "two": Study(2, "two", "two.png", 2048, 1024),
    "three": Study(3, "three", "three.png", 512, 512),
}
CONSENSUS = [
    consensus_of([reading("ann", box(code=OPACITY_LEFT), box(FAR, "NIL"))], BASE),
    consensus_of([reading("ann", image="two")], BASE),
    consensus_of([reading("ann", box(), image="three"), reading("bob", image="three")], BASE),
]
TRUTHS = {c.image_id: truth_of(c, BASE) for c in CONSENSUS}


def test_rsna_csv_by_hand():
    assert rsna_csv(TRUTHS, STUDIES).splitlines() == [
        "patientId,x,y,width,height,Target",
        "one,200,200,200,200,1",
        "two,,,,,0",
    ]
    assert class_csv(TRUTHS).splitlines() == ["patientId,class", "one,Lung Opacity", "two,Normal"]


def test_rsna_csv_scales_each_side():
    truths = {"two": StudyTruth("Lung Opacity", ((200.0, 100.0, 400.0, 300.0),))}
    assert rsna_csv(truths, STUDIES).splitlines()[1] == "two,100,100,100,200,1"


def test_rsna_csv_is_read_by_importer_and_evaluation(tmp_path):
    from evaluation.study.labels import read_labels as read_for_evaluation

    (tmp_path / "labels.csv").write_text(rsna_csv(TRUTHS, STUDIES))
    (tmp_path / "classes.csv").write_text(class_csv(TRUTHS))
    labels = read_labels(tmp_path / "labels.csv", tmp_path / "classes.csv")
    assert labels.rejected == {}
    assert labels.boxes["one"].tolist() == [[200, 200, 400, 400]]
    assert labels.classes == {"one": "Lung Opacity", "two": "Normal"}
    assert read_for_evaluation(tmp_path / "labels.csv").ids == ("one", "two")


def test_names_like_formulas_come_back_from_every_csv(tmp_path):
    from pneumonia.runtime.csv_tables import read_table

    names = ["=cmd|' C calc'!A1", "+1+1", "@SUM(A1)"]
    studies = {name: Study(n, name, name, 512, 512) for n, name in enumerate(names)}
    truths = {
        names[0]: StudyTruth("Lung Opacity", (BOX,)),
        names[1]: StudyTruth("Normal", ()),
        names[2]: StudyTruth("", (), "box_disputed"),
    }
    found = []
    tables = {
        "patientId": (rsna_csv(truths, studies), class_csv(truths)),
        "image_id": (left_out_csv(truths),),
    }
    for column, texts in tables.items():
        for text in texts:
            (tmp_path / "t.csv").write_text(text)
            found += [row[column] for _, row in read_table(str(tmp_path / "t.csv"), (column,))]
            assert [line for line in text.splitlines() if line[0] in "=+-@"] == []
    assert found == [names[1], names[0]] * 2 + names[2:]


def test_coco_is_read_by_an_evaluator(tmp_path):
    from faster_coco_eval import COCO

    made = coco_json(CONSENSUS, STUDIES, BASE)
    (tmp_path / "coco.json").write_text(json.dumps(made))
    coco = COCO(str(tmp_path / "coco.json"))
    (opacity,) = coco.getCatIds(catNms=[OPACITY_LEFT])
    (annotation,) = coco.loadAnns(coco.getAnnIds(catIds=[opacity]))
    assert annotation["bbox"] == [100, 100, 100, 100]
    assert annotation["area"] == 10_000
    assert coco.loadImgs([annotation["image_id"]])[0]["file_name"] == "one.dcm"
    groups = {c["name"]: c["supercategory"] for c in made["categories"]}
    assert groups == {OPACITY_LEFT: "Lungs", "NIL": "none"}
    # the disputed study is no negative: it is left out, and the file says so
    assert len(made["images"]) == 2
    assert [item["reason"] for item in made["info"]["left_out"]] == ["box_disputed"]
    assert len(made["annotations"]) == 2


@pytest.fixture(scope="module")
def source(phantom_folder):
    return sorted((phantom_folder / "dicom").glob("*.dcm"))[0]


SR_CASES = {
    "single": CONSENSUS[0],
    "normal": CONSENSUS[1],
    "two readers": consensus_of([reading("Ann Lee", box()), reading("bob", box(FAR))], BASE),
    "long name": consensus_of(
        [reading("x" * 40, box(code=max(BASE, key=len), assertion="uncertain"))], BASE
    ),
}


@pytest.mark.parametrize("case", SR_CASES)
def test_structured_report_passes_its_judges(case, source, tmp_path):
    consensus = SR_CASES[case]
    header = pydicom.dcmread(source, stop_before_pixels=True)
    made = build_reading_report(header, consensus)
    path = tmp_path / "sr.dcm"
    write_dicom(str(path), made)
    done = run_peer("dciodvfy", path)
    said = (done.stdout + done.stderr).splitlines()
    assert any("ComprehensiveSR" in line for line in said)
    assert [line for line in said if line.startswith(("Error", "Abort"))] == []
    assert run_peer("dcentvfy", source, path).returncode == 0
    dump = run_peer("dsrdump", "+Pl", path)
    assert dump.returncode == 0
    assert [line for line in dump.stdout.splitlines() if line[:2] in ("E:", "W:", "F:")] == []
    assert dump.stdout.count("SCOORD") == len(consensus.kept)
    for name in consensus.readers:
        assert name in dump.stdout
    assert "Research use only. Not a medical device." in dump.stdout


def test_structured_report_is_the_same_twice_and_new_for_other_content(source):
    header = pydicom.dcmread(source, stop_before_pixels=True)
    creation = ObjectCreation(moment=datetime(2026, 1, 2, tzinfo=UTC))
    first, again, other = (
        build_reading_report(header, SR_CASES[name], creation)
        for name in ("single", "single", "two readers")
    )
    assert first.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    assert first.StudyInstanceUID == header.StudyInstanceUID
    assert str(first) == str(again)


def test_dataset_is_opened_and_split_by_patient(phantom_folder, tmp_path):
    paths = {p.stem: p for p in sorted((phantom_folder / "dicom").glob("*.dcm"))[:12]}
    names = list(paths)
    truths = {name: StudyTruth("Normal", ()) for name in names}
    truths[names[0]] = StudyTruth("Lung Opacity", ((10.0, 20.0, 60.0, 70.0),))
    truths[names[1]] = StudyTruth("", (), "box_disputed")
    paths[names[2]] = tmp_path / "gone.dcm"
    counts = write_training_set(tmp_path / "set", truths, paths)
    assert counts == {"box_disputed": 1, "Lung Opacity": 1, "Normal": 9}
    dataset = open_dataset(tmp_path / "set")
    at = [r.image_id for r in dataset.records].index(names[0])
    assert dataset.boxes(at).tolist() == [[10, 20, 60, 70]]
    assert dataset.records[at].class_name == "Lung Opacity"
    assert names[1] not in {r.image_id for r in dataset.records}
    rejected = dataset.info["rejected"]
    assert rejected["box_disputed"] == {"count": 1, "names": [names[1]]}
    assert sum(entry["count"] for entry in rejected.values()) == 2
    patients = {}
    for record in dataset.records:
        assert patients.setdefault(record.patient_id, record.split) == record.split
        assert record.patient_id.startswith("dicom-")
    assert np.array_equal(dataset.pixels(at).shape, (128, 128))


def test_dataset_without_truth_is_refused(tmp_path):
    with pytest.raises(DataError, match="box_disputed"):
        write_training_set(tmp_path / "set", {"x": StudyTruth("", (), "box_disputed")}, {})
    assert not (tmp_path / "set").exists()


def test_boxes_are_what_the_reader_drew():
    assert TRUTHS["one"].boxes == (BOX,)
