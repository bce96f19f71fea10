"""What other programs say about the result objects.

Spans: pneumonia.runtime.results.
"""

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import ResultFacts, build_results, source_header, write_dicom
from tests.contracts.tree import ROOT
from tests.runtime.dicoms import DX, SERIES, chest_dataset, lut_item, save
from tests.runtime.image import presentation_headers
from tests.support.peers import run_peer

pytestmark = pytest.mark.interop

FACTS = ResultFacts("tiny", "0.1.0", "ab" * 32, "balanced", 0.4)
PIXELS = np.linspace(0, 255, 120 * 80).reshape(120, 80).astype(np.uint8)
BOXES = np.array([[10, 20, 40, 70.5], [50, 30, 80, 80]], np.float32)
FOUND = Prediction("x", BOXES, np.array([0.41, 0.62], np.float32), 80, 120)
EMPTY = Prediction("x", BOXES[:0], np.zeros(0, np.float32), 80, 120)


def request():
    item = Dataset()
    item.RequestedProcedureID = "RP1"
    item.ScheduledProcedureStepID = "SPS1"
    item.RequestedProcedureDescription = "XR chest"
    return item


FULL = {
    "PatientName": "Müller^Jörg",
    "PatientID": "P1",
    "PatientBirthDate": "19600101",
    "PatientSex": "M",
    "StudyDate": "20200102",
    "StudyTime": "101112",
    "AccessionNumber": "A1",
    "StudyID": "S1",
    "ReferringPhysicianName": "Doe^R",
    "SeriesNumber": 1,
    "InstanceNumber": 7,
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientOrientation": ["L", "F"],
    "PixelSpacing": [0.5, 0.25],
    "RescaleSlope": 2,
    "RescaleIntercept": -5,
    "RescaleType": "US",
    "WindowCenter": [100, 5],
    "WindowWidth": [50, 6],
    "LossyImageCompression": "01",
    "LossyImageCompressionRatio": 12,
    "LossyImageCompressionMethod": "ISO_10918_1",
    "BurnedInAnnotation": "NO",
    "PatientAge": "045Y",
    "PatientWeight": 70,
    "BodyPartExamined": "CHEST",
    "AcquisitionDate": "20200102",
    "AcquisitionTime": "101010",
    "TimezoneOffsetFromUTC": "+0200",
    "RequestAttributesSequence": Sequence([request()]),
}
ODD = {
    "StudyDate": "2020.1.2",
    "StudyTime": "x",
    "StudyID": "",
    "PatientSex": "0000",
    "PatientIdentityRemoved": "YES",
}
# of a source that breaks rules, its own words are not taken over
LEFT_OUT = ("<StudyDate>", "<StudyTime>", "<PatientSex>", "<PatientIdentityRemoved>")
CASES = {
    "full": (chest_dataset(PIXELS, **FULL), FOUND),
    "negative": (chest_dataset(PIXELS, **FULL), EMPTY),
    "bare": (chest_dataset(PIXELS), FOUND),
    "inverse": (chest_dataset(PIXELS, photometric="MONOCHROME1", **FULL), FOUND),
    "frames": (chest_dataset(PIXELS, NumberOfFrames=2, **FULL), FOUND),
    "odd": (chest_dataset(PIXELS, **{**FULL, **ODD}), FOUND),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    paths = {}
    for name, (source, prediction) in CASES.items():
        (folder / name).mkdir()
        paths[name] = {"source": save(folder / name / "source.dcm", source)}
        for kind, made in build_results(source, PIXELS, prediction, FACTS).items():
            paths[name][kind] = folder / name / f"{kind}.dcm"
            write_dicom(str(paths[name][kind]), made)
    return paths


def complaints(done, *words):
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(words)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["SR", "PR", "SC"])
def test_dciodvfy_finds_no_error(written, case, kind):
    done = run_peer("dciodvfy", written[case][kind])
    if case in ("full", "negative", "inverse", "frames"):  # nor anything to warn of
        assert complaints(done, "Warning") == []
    names = {"SR": "ComprehensiveSR", "PR": "GrayscaleSoftcopyPresentationState", "SC": "SCImage"}
    assert names[kind] in done.stdout + done.stderr  # it knew what to check
    assert complaints(done, "Error", "Abort") == []


def test_dciodvfy_would_find_an_error(written, tmp_path):
    source, prediction = CASES["full"]
    made = build_results(source, PIXELS, prediction, FACTS)["SR"]
    del made.CompletionFlag
    write_dicom(str(tmp_path / "bad.dcm"), made)
    assert complaints(run_peer("dciodvfy", tmp_path / "bad.dcm"), "Error")


@pytest.mark.parametrize("case", CASES)
def test_dcentvfy_sees_one_patient_and_one_study(written, case):
    done = run_peer("dcentvfy", *written[case].values())
    lines = complaints(done, "Error", "Abort")
    if case == "odd":
        lines = [line for line in lines if not any(name in line for name in LEFT_OUT)]
    assert lines == []


def test_dcentvfy_would_see_another_patient(written, tmp_path):
    source, prediction = CASES["full"]
    made = build_results(source, PIXELS, prediction, FACTS)["SR"]
    made.PatientID = "OTHER"
    write_dicom(str(tmp_path / "bad.dcm"), made)
    done = run_peer("dcentvfy", written["full"]["source"], tmp_path / "bad.dcm")
    assert "PatientID" in done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_dsrdump_reads_the_report(written, case):
    done = run_peer("dsrdump", "+Pl", written[case]["SR"])
    assert done.returncode == 0
    assert complaints(done, "E:", "W:", "F:") == []
    said = done.stdout
    assert "Imaging Measurement Report" in said
    assert "Research use only. Not a medical device." in said
    boxes = 0 if case == "negative" else 2
    assert said.count("SCOORD") == boxes
    if boxes:
        assert '(,,"Certainty of Finding")="62.0000" (%,UCUM,"Percent")' in said
        assert "POLYLINE,50/30,80/30,80/80,50/80,50/30" in said


@pytest.mark.parametrize("case", CASES)
def test_dcmpschk_passes_the_presentation_state(written, case):
    done = run_peer("dcmpschk", written[case]["PR"])
    assert complaints(done, "E:", "F:") == []
    said = complaints(done, "W:")[1:]
    if case == "bare":  # dcmtk wants a name, the standard does not; none is made up
        assert said[0] == "W: patientName absent or empty in presentation state"
    else:
        assert said == ["W: Test passed."]


CURVE = (np.arange(4096) ** 1.5 / 64).astype(int)
STORED = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
DISPLAYS = {
    "none": {},
    "window": {"WindowCenter": 2000, "WindowWidth": 1500},
    "inverse": {"photometric": "MONOCHROME1", "WindowCenter": 2000, "WindowWidth": 1500},
    "rescaled": {
        "RescaleSlope": 2,
        "RescaleIntercept": -100,
        "WindowCenter": 3000,
        "WindowWidth": 4000,
    },
    "table": {"VOILUTSequence": Sequence([lut_item(CURVE, 0, 12)])},
    "of a part": {"stored": STORED // 4 + 300},
    "of a part, inverse": {"stored": STORED // 4 + 300, "photometric": "MONOCHROME1"},
    "signed": {"stored": STORED.astype(np.int16) - 2048, "RescaleIntercept": 2048},
    "padded": {"stored": np.where(STORED < 900, 0, STORED // 2 + 500), "PixelPaddingValue": 0},
    "invalid window": {"stored": STORED // 2, "WindowCenter": 5, "WindowWidth": 0},
    "half a window": {"stored": STORED // 2, "WindowCenter": 5},
    "slope alone": {"RescaleSlope": 2, "WindowCenter": 4096, "WindowWidth": 8192},
    "intercept alone": {"RescaleIntercept": -1000, "WindowCenter": 1000, "WindowWidth": 2000},
    "slope of zero": {"RescaleSlope": 0, "RescaleIntercept": 7},
    "deeper than its values": {"VOILUTSequence": Sequence([lut_item(CURVE, 0, 16)])},
    "negative table": {
        "RescaleSlope": 1,
        "RescaleIntercept": -2048,
        "VOILUTSequence": Sequence([lut_item(CURVE, -2048, 12, signed=True)]),
    },
    "rescaled, all values": {"RescaleSlope": 3, "RescaleIntercept": -100},
    "inverse table": {
        "photometric": "MONOCHROME1",
        "VOILUTSequence": Sequence([lut_item(CURVE, 0, 12)]),
    },
}


@pytest.mark.parametrize("display", DISPLAYS)
def test_dcmtk_shows_the_source_through_the_state_as_we_do(tmp_path, display):
    """dcmp2pgm renders image and presentation state; our own reader is within one grey level."""
    tags = dict(DISPLAYS[display])
    values = tags.pop("stored", STORED)
    given = chest_dataset(values, 12, PatientName="A^B", PatientID="1", **tags)
    shown_as_dcmtk_does(tmp_path, save(tmp_path / "source.dcm", given))


@pytest.mark.parametrize("step", [50, pytest.param(5, marks=pytest.mark.slow)])
def test_dcmtk_shows_odd_headers_through_the_state_as_we_do(tmp_path, step):
    for case in list(presentation_headers.cases())[::step]:
        if case[4] in ("sigmoid", "exact"):
            continue  # dcmp2pgm takes every window for linear
        given = presentation_headers.build(case)
        given.PatientName, given.PatientID = "A^B", "1"
        shown_as_dcmtk_does(tmp_path, save(tmp_path / "source.dcm", given), case)


def shown_as_dcmtk_does(tmp_path, path, case=None):
    source = read_radiograph(str(path))
    grey, given = source.pixels, source.header
    found = Prediction("x", BOXES[:1], FOUND.scores[:1], 64, 64)
    write_dicom(str(tmp_path / "pr.dcm"), build_results(given, grey, found, FACTS, ["PR"])["PR"])
    done = run_peer("dcmp2pgm", "-p", tmp_path / "pr.dcm", path, tmp_path / "shown.pgm")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "shown.pgm") as image:
        shown = np.asarray(image).astype(int)
    difference = np.abs(shown - grey.astype(int))
    if case is None:
        assert np.ptp(shown) >= 250  # not a blank picture
        assert difference.max() <= 1
        return
    # dcmtk rounds modality values, which moves pixels across the edges of a narrow window
    rounded = case[3] in ("fraction", "comma")
    outside = (difference > presentation_headers.tolerance(case)).mean()
    assert outside <= (0.005 if rounded else 0), case


def test_the_sources_are_what_the_tests_take_them_for(written):
    source, _ = CASES["full"]
    assert (source.SOPClassUID, source.StudyInstanceUID) == (DX, SERIES + ".1")
    assert source_header(source).PatientName == "Müller^Jörg"


ZOO = Path(os.environ.get("PNEUMONIA_DATA", ROOT.parent / "shared" / "data")) / "dicom-zoo"
IMAGES = tuple(f"1.2.840.10008.5.1.4.1.1.{number}." for number in (1, 2, 4))  # CR and DX, CT, MR


@pytest.mark.real_data
@pytest.mark.slow
def test_results_of_real_headers_are_valid(tmp_path):
    """CR, DX, CT and MR headers of many makers; damaged ones among them."""
    if not ZOO.is_dir():
        pytest.skip("PNEUMONIA_DATA has no dicom-zoo")
    judged = 0
    for path in sorted(path for path in ZOO.rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if not f"{header.get('SOPClassUID', '')}.".startswith(IMAGES):
            continue
        for kind, made in build_results(header, PIXELS, FOUND, FACTS).items():
            write_dicom(str(tmp_path / f"{kind}.dcm"), made)
            done = run_peer("dciodvfy", tmp_path / f"{kind}.dcm")
            assert complaints(done, "Error", "Abort") == [], (path.name, kind)
        assert complaints(run_peer("dsrdump", tmp_path / "SR.dcm"), "E:", "F:") == []
        judged += 1
    assert judged >= 10
