"""Results in a PACS: stored beside their source, and recognised when they come twice.

Spans: pneumonia.scoring.outputs.dicom.
"""

import json

import pydicom
import pytest

from tests.runtime.dicoms import SERIES
from tests.support.peers import running_orthanc

pytestmark = [pytest.mark.interop, pytest.mark.slow]
NAMES = ("one", "two", "none")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture(scope="module")
def filled(orthanc, scored):
    """Orthanc with the sources and their results, all sent by C-STORE."""
    source, out, _ = scored
    sources = [source / f"{name}.dcm" for name in NAMES]
    results = sorted((out / "dicom").iterdir())
    done = orthanc.store(*sources, *results)
    assert done.returncode == 0, done.stderr
    return sources, results


def test_each_study_holds_source_and_results(orthanc, filled):
    studies = [orthanc.get(f"/studies/{study}") for study in orthanc.get("/studies")]
    assert {s["MainDicomTags"]["StudyInstanceUID"] for s in studies} == {
        f"{SERIES}.{number}" for number in (1, 2, 3)
    }
    for study in studies:
        series = [orthanc.get(f"/series/{key}")["MainDicomTags"] for key in study["Series"]]
        assert sorted(s["Modality"] for s in series) == ["DX", "OT", "PR", "SR"]
    patients = {orthanc.get(f"/patients/{p}")["MainDicomTags"]["PatientID"] for p in
                orthanc.get("/patients")}  # fmt: skip
    assert patients == {"CANARY1", "CANARY2", "CANARY3"}


def test_duplicates_are_recognised(orthanc, filled):
    sources, results = filled
    before = orthanc.get("/statistics")["CountInstances"]
    assert before == len(sources) + len(results) == 12
    assert orthanc.store(*results).returncode == 0
    assert orthanc.get("/statistics")["CountInstances"] == before
    answer = orthanc.post("/instances", results[0].read_bytes())
    assert answer["Status"] == "AlreadyStored"


def test_what_comes_back_is_what_was_sent(orthanc, filled):
    _, results = filled
    for path in results:
        sent = pydicom.dcmread(path)
        query = {"Level": "Instance", "Query": {"SOPInstanceUID": sent.SOPInstanceUID}}
        (key,) = orthanc.post("/tools/find", json.dumps(query).encode())
        data = orthanc.request(f"/instances/{key}/file")
        (path.parent.parent / "back.dcm").write_bytes(data)
        back = pydicom.dcmread(path.parent.parent / "back.dcm")
        assert back == sent
        (path.parent.parent / "back.dcm").unlink()


def test_orthanc_draws_the_capture(orthanc, filled):
    _, results = filled
    capture = pydicom.dcmread(next(path for path in results if path.name.endswith("-sc.dcm")))
    query = {"Level": "Instance", "Query": {"SOPInstanceUID": capture.SOPInstanceUID}}
    (key,) = orthanc.post("/tools/find", json.dumps(query).encode())
    picture = orthanc.request(f"/instances/{key}/preview")
    assert picture.startswith(b"\x89PNG")


def test_dicomweb_finds_and_returns_the_results(orthanc, filled):
    if not orthanc.has_dicomweb:
        pytest.skip("the DICOMweb plugin of Orthanc is not installed (package orthanc-dicomweb)")
    query = f"/dicom-web/studies/{SERIES}.1/series"
    answer = json.loads(orthanc.request(query, headers={"Accept": "application/dicom+json"}))
    found = {series["00080060"]["Value"][0]: series["0020000E"]["Value"][0] for series in answer}
    assert set(found) == {"DX", "OT", "PR", "SR"}
    url = f"/dicom-web/studies/{SERIES}.1/series/{found['SR']}/metadata"
    (report,) = json.loads(orthanc.request(url, headers={"Accept": "application/dicom+json"}))
    assert report["00080016"]["Value"] == ["1.2.840.10008.5.1.4.1.1.88.33"]
    assert report["0040A504"]["Value"][0]["0040DB00"]["Value"] == ["1500"]


def test_stow_recognises_a_duplicate(orthanc, filled):
    if not orthanc.has_dicomweb:
        pytest.skip("the DICOMweb plugin of Orthanc is not installed (package orthanc-dicomweb)")
    _, results = filled
    before = orthanc.get("/statistics")["CountInstances"]
    body = b"".join(
        b"--cut\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n"
        for path in results
    )
    kind = 'multipart/related; type="application/dicom"; boundary=cut'
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
    answer = json.loads(
        orthanc.request("/dicom-web/studies", body + b"--cut--\r\n", "POST", headers)
    )
    assert len(answer["00081199"]["Value"]) == len(results)
    assert orthanc.get("/statistics")["CountInstances"] == before
