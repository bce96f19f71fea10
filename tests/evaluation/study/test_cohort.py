from pathlib import Path

import pytest

from evaluation.study.cohort import read_cohort
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import NORMAL


def _csv(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_files_complete_each_other(tmp_path: Path) -> None:
    classes = _csv(tmp_path, "class_info.csv", f"patientId,class\na,{NORMAL}\na,{NORMAL}\n")
    images = _csv(
        tmp_path,
        "images.csv",
        "patientId,kind,ViewPosition,PatientSex,PatientAge,nih_patient\n"
        "a,full,AP,F,58,00012\na,lungs,AP,F,58,00012\n",
    )
    cohort = read_cohort(classes, images)
    assert cohort.facts["a"] == {
        "class": NORMAL,
        "patient": "00012",
        "view": "AP",
        "sex": "F",
        "age": "58",
    }
    assert cohort.get("b", "view") == ""


def test_a_dataset_manifest_is_understood(tmp_path: Path) -> None:
    path = _csv(tmp_path, "manifest.csv", "image_id,patient_id,view,sex,age\nx,p1,PA,M,31\n")
    assert read_cohort(path).get("x", "patient") == "p1"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("patientId,class\nsecret,Ill\n", "Unknown class"),
        ("patientId,view\nsecret,AP\nsecret,PA\n", "two values of 'view'"),
        ("patientId,view\n,AP\n", "without an image id"),
        ("name,view\nsecret,AP\n", "Not a table"),
        ("patientId,colour\nsecret,AP\n", "Not a table"),
    ],
)
def test_faults_are_named_without_identifiers(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(DataError) as caught:
        read_cohort(_csv(tmp_path, "images.csv", text))
    assert part in str(caught.value)
    assert "secret" not in str(caught.value)
