"""Orthanc judges what arrives, what it commits to, and whose picture it is.

Spans: pneumonia.scoring.network, pneumonia.scoring.batch.send.
"""

import json

import pydicom
import pytest

from pneumonia.cli import group, run
from pneumonia.runtime.results import KIND_OF
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.batch.send import Destination, send_results
from pneumonia.scoring.inputs.dicomweb import DicomwebInput
from pneumonia.scoring.inputs.pacs import PacsInput
from pneumonia.scoring.inputs.query import Query
from pneumonia.scoring.network.commitment import CommitmentSettings
from pneumonia.scoring.network.dicom_peer import Peer
from pneumonia.scoring.network.dicomweb_service import DicomwebService
from pneumonia.scoring.outputs import OutputSettings
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.patients import patient
from tests.support.peers import free_port, running_orthanc

pytestmark = [pytest.mark.interop, pytest.mark.slow]
SHARED = f"{SERIES}.77"


@pytest.fixture(scope="module")
def report_port():
    return free_port()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, report_port):
    options = {
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomModalities": {"us": ["PNEUMONIA", "127.0.0.1", report_port]},
    }
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), **options) as server:
        yield server


def peer_of(orthanc):
    return Peer("ORTHANC", "127.0.0.1", orthanc.dicom_port)


def web_of(orthanc):
    if not orthanc.has_dicomweb:
        pytest.skip("the DICOMweb plugin of Orthanc is not installed")
    return f"http://127.0.0.1:{orthanc.http_port}/dicom-web"


def score(folder, detector, pixels, **tags):
    (folder / "in").mkdir(parents=True, exist_ok=True)
    save(folder / "in" / "film.dcm", chest_dataset(pixels, **patient(1, **tags)))
    settings = ScoreSettings(outputs=OutputSettings(dicom=tuple(KIND_OF)))
    score_batch(folder / "in", folder / "out", detector, settings)
    return folder / "out"


def stored(orthanc, out):
    """Results of a folder that Orthanc holds, by its patient's name."""
    found = []
    for path in sorted((out / "dicom").iterdir()):
        uid = pydicom.dcmread(path).SOPInstanceUID
        query = {"Level": "Instance", "Query": {"SOPInstanceUID": uid}, "Expand": True}
        for item in orthanc.post("/tools/find", json.dumps(query).encode()):
            tags = orthanc.get(f"/instances/{item['ID']}/simplified-tags")
            found.append(tags["PatientName"])
    return found


@pytest.mark.parametrize("way", ["get", "dicomweb"])
def test_two_studies_with_one_instance_uid(way, orthanc, detector, tmp_path, bright, dark):
    for number, pixels in ((51, bright), (52, dark)):
        tags = patient(number, SOPInstanceUID=SHARED, StudyDate="20190101")
        assert (
            orthanc.store(save(tmp_path / f"{number}", chest_dataset(pixels, **tags))).returncode
            == 0
        )
    wanted = Query(date="20190101")
    source = (
        PacsInput(peer_of(orthanc), wanted)
        if way == "get"
        else DicomwebInput(web_of(orthanc), wanted)
    )
    summary = score_batch(source, tmp_path / "out", detector)
    scored = summary.records
    # Orthanc's DICOMweb plugin has no instance whose UID is not unique; it has the series
    assert [(r.status, r.reason, r.file.detail) for r in scored] == [("scored", "", "")] * 2
    scores = {record.file.relative.split("/")[0]: record.max_score() for record in scored}
    assert scores[f"{SERIES}.51"] > 0.9 > scores[f"{SERIES}.52"]


def test_a_corrected_patient_replaces_nothing_and_arrives(orthanc, detector, tmp_path, bright):
    for name in ("WRONG^NAME", "RIGHT^NAME"):
        out = score(tmp_path, detector, bright, PatientName=name, PatientID=name[:5])
        summary = send_results(out, Destination(peer_of(orthanc)))
        assert summary.counts["sent"] == 3
        assert stored(orthanc, out) == [name] * 3
    report = pydicom.dcmread(next((tmp_path / "out" / "dicom").glob("*-sr.dcm")))
    (study,) = report.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == report.StudyInstanceUID


def test_orthanc_commits_to_what_it_keeps(orthanc, report_port, detector, tmp_path, dark):
    out = score(tmp_path, detector, dark, PatientName="KEPT^FOR")
    to = Destination(peer_of(orthanc), commitment=CommitmentSettings(report_port, 60))
    summary = send_results(out, to)
    assert (summary.counts["sent"], summary.counts["committed"], summary.missing) == (3, 3, 0)


def test_stow(orthanc, detector, tmp_path, dark):
    out = score(tmp_path, detector, dark, PatientName="STOW^RS", StudyDate="20180101")
    summary = send_results(out, Destination(DicomwebService(web_of(orthanc))))
    assert (summary.counts["sent"], summary.missing) == (3, 0)
    assert stored(orthanc, out) == ["STOW^RS"] * 3


def test_from_the_command_line(orthanc, bundle_folder, tmp_path, dark, capsys):
    (tmp_path / "in").mkdir()
    tags = patient(1, PatientName="COMMAND^LINE")
    save(tmp_path / "in" / "film.dcm", chest_dataset(dark, **tags))
    arguments = ["score", str(tmp_path / "in"), str(tmp_path / "out"), "--send", web_of(orthanc),
                 "--bundle", str(bundle_folder), "--engine", "reference"]  # fmt: skip
    assert run(group, arguments) == 0
    assert "3 sent" in capsys.readouterr().out
    assert run(group, [*arguments, "--commit"]) == 2
