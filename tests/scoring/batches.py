"""Inputs of a batch, and what may be compared of its outputs."""

import json
import os

import numpy as np
import pydicom
from PIL import Image

from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import Engine
from pneumonia.runtime.results.files import file_bytes
from pneumonia.runtime.results.identity import ALL_KINDS, CREATION
from tests.runtime.dicoms import SERIES, chest_dataset, save, save_compressed

CANARY = "CANARY^PHI"


def png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def text_tags():
    """The canary in every text field a radiograph commonly has."""
    names = (
        "PatientName PatientID OtherPatientIDs PatientAddress PatientComments InstitutionName "
        "InstitutionAddress ReferringPhysicianName OperatorsName StudyDescription "
        "SeriesDescription StudyID AccessionNumber StationName Manufacturer ProtocolName "
        "ImageComments DerivationDescription RequestedProcedureDescription"
    )
    return dict.fromkeys(names.split(), CANARY)


def fill(folder, bright, dark):
    folder.mkdir(parents=True, exist_ok=True)

    def image(number, pixels, **more):
        uid = f"{SERIES}.7.{number}"  # each an instance of its own, but of one study
        return chest_dataset(pixels, SOPInstanceUID=uid, **{**text_tags(), **more})

    (folder / "a").mkdir()
    save(folder / "a" / "sick.dcm", image(1, bright, PixelSpacing=[0.5, 0.25]))
    save(folder / "well.dcm", image(2, dark))
    save(folder / "side.dcm", image(3, bright, ViewPosition="LL"))
    coded = {"ViewPosition": "CANARYPHI", "BodyPartExamined": "CANARYPHI"}
    save(folder / "child.dcm", image(4, bright, PatientAge="004Y", **coded))
    save(folder / "broken.dcm", image(5, bright, Rows=None))
    cut = save(folder / "cut.dcm", image(6, bright))
    cut.write_bytes(cut.read_bytes()[:-999])
    save_compressed(folder / "noise.dcm", image(7, bright), CANARY.encode() * 20)
    save(folder / "abort.dcm", image(8, bright))
    png(folder / "picture.png", bright)
    (folder / "notes.txt").write_text(CANARY)
    (folder / "text.dcm").write_text(CANARY)
    (folder / "blank.png").write_bytes(
        png(folder / "x.png", np.zeros((9, 9), np.uint8)).read_bytes()
    )
    (folder / "x.png").unlink()
    os.mkfifo(folder / "fifo")


def manifest(out):
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return {line["path"]: line for line in lines}


class CountingEngine(Engine):
    name = "reference"

    def __init__(self, inner):
        super().__init__(inner.spec)
        self.inner = inner
        self.count = 0

    def _run(self, batch):
        self.count += 1
        return self.inner.run(batch)


def counting(detector):
    engine = CountingEngine(detector.engine)
    return engine, Detector(detector.bundle, engine)


def without_times(out):
    """Every file of an output folder, with what may differ between runs taken out."""
    return {
        path.relative_to(out).as_posix(): file_without_times(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "audit.jsonl"  # who ran what when; tested by itself
    }


def file_without_times(path):
    """One of these files."""
    if path.suffix == ".dcm":
        return _without_creation(path)
    text = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        return text
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    documents = [json.loads(line) for line in lines]
    for document in documents:
        for key in ("times", "timings_ms", "seconds", "reused", "settings", "audit"):
            document.pop(key, None)
        document.get("totals", {}).pop("reused", None)
    return json.dumps(documents).encode()


def _without_creation(path):
    """A DICOM result without the date and time at which it was made."""
    result = pydicom.dcmread(path)
    for pair in (*ALL_KINDS, *CREATION.values()):
        for keyword in pair:
            if keyword in result:
                delattr(result, keyword)
    return file_bytes(result)
