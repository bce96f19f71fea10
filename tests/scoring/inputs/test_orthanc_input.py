"""From a real PACS to a worklist, by DICOMweb, C-GET and C-MOVE: the same results as from files.

Spans: pneumonia.scoring.inputs.dicomweb, pneumonia.scoring.inputs.pacs,
pneumonia.scoring.inputs.query.
"""

import json

import numpy as np
import pytest

from pneumonia.cli import group, run
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.model.predictions import read_predictions
from pneumonia.scoring.batch.audit import verify_audit
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.inputs.dicomweb import DicomwebInput
from pneumonia.scoring.inputs.pacs import PacsInput
from pneumonia.scoring.inputs.query import Query
from pneumonia.scoring.network.dicom_peer import Peer
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.batches import counting
from tests.scoring.inputs.conftest import MOVE_TITLE
from tests.scoring.patients import patient
from tests.support.peers import free_port, running_orthanc

pytestmark = [pytest.mark.interop, pytest.mark.slow]
WAYS = ("dicomweb", "get", "move")


@pytest.fixture
def open_input(pacs, move_port):
    return lambda way, wanted: input_of(pacs, way, wanted, move_port)


def input_of(server, way, wanted, move_port):
    if way == "dicomweb":
        if not server.has_dicomweb:
            pytest.skip("the DICOMweb plugin of Orthanc is not installed")
        return DicomwebInput(f"http://127.0.0.1:{server.http_port}/dicom-web", wanted)
    peer = Peer("ORTHANC", "127.0.0.1", server.dicom_port)
    return PacsInput(peer, wanted, MOVE_TITLE, move_port if way == "move" else None)


def manifest(out):
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return {line["path"]: (line["status"], line["reason"]) for line in lines}


def uid(number):
    return f"{SERIES}.{number}"


@pytest.mark.parametrize("way", WAYS)
def test_two_studies(way, open_input, both_studies, detector, tmp_path):
    out = tmp_path / "out"
    summary = score_batch(open_input(way, both_studies), out, detector)
    assert manifest(out) == {
        f"{uid(1)}/{uid('1.1')}/{uid('1.1.1')}.dcm": ("scored", ""),
        f"{uid(2)}/{uid('2.1')}/{uid('2.1.1')}.dcm": ("scored", ""),
        f"{uid(2)}/{uid('4.1')}/{uid('4.1.1')}.dcm": ("skipped", "not_frontal_chest"),
        f"{uid(2)}/{uid('5.1')}/{uid('5.1.1')}.dcm": ("skipped", "not_frontal_chest"),
    }
    found = {item.image_id: item for item in read_predictions(out / "predictions.csv")}
    assert set(found) == {uid("1.1.1"), uid("2.1.1")}
    np.testing.assert_allclose(found[uid("1.1.1")].boxes, [[32, 16, 48, 32]], atol=1e-4)
    assert not (out / "fetched").exists()
    assert summary.document["input"] == ("dicomweb" if way == "dicomweb" else "pacs")
    assert "127.0.0.1" in summary.document["endpoint"]
    verify_audit(out)
    audit = (out / "audit.jsonl").read_text()
    assert summary.document["endpoint"] in audit
    assert SERIES not in audit
    for path in out.rglob("*"):
        assert not path.is_file() or b"CANARY" not in path.read_bytes()


@pytest.mark.parametrize("refetch", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_second_run_scores_nothing(way, refetch, open_input, both_studies, detector, tmp_path):
    score_batch(open_input(way, both_studies), tmp_path / "out", detector)
    engine, again = counting(detector)
    before = manifest(tmp_path / "out")
    events = []
    summary = score_batch(
        open_input(way, both_studies), tmp_path / "out", again, ScoreSettings(refetch=refetch),
        lambda done, total, note: events.append(note),
    )  # fmt: skip
    assert engine.count == 0
    # the lateral one is known by its header only
    assert events.count("fetch") == 3 if refetch else events.count("fetch") <= 1
    assert summary.document["totals"]["reused"] == 2
    assert summary.document["totals"]["unchecked"] == (0 if refetch else 2)
    assert manifest(tmp_path / "out") == before


@pytest.mark.parametrize("way", WAYS)
def test_other_pixels_under_the_same_uids(way, bright, dark, move_port, detector, tmp_path):
    """An archive that lets an image be overwritten, header and UIDs unchanged."""
    options = {
        "OverwriteInstances": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"mover": [MOVE_TITLE, "127.0.0.1", move_port]},
    }
    (tmp_path / "pacs").mkdir()
    with running_orthanc(tmp_path / "pacs", **options) as server:
        source = input_of(server, way, Query(studies=(uid(1),)), move_port)
        scores = []
        for pixels in (dark, bright, bright):
            film = save(tmp_path / "film.dcm", chest_dataset(pixels, **patient(1)))
            assert server.store(film).returncode == 0
            summary = score_batch(source, tmp_path / "out", detector)
            (record,) = summary.records
            scores.append(
                (record.max_score() > 0.9, record.reused, "image_changed" in record.warnings)
            )
    assert scores == [(False, False, False), (True, False, True), (True, True, True)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Query(date="20210101-20211231"), {uid("2.1.1"), uid("4.1.1"), uid("5.1.1")}),
        (Query(accessions=("ACC1", "ACC3")), {uid("1.1.1"), uid("3.1.1")}),
        (Query(studies=(uid(3),), date="20220101"), {uid("3.1.1")}),
        (Query(studies=(uid(3),), date="20220102"), set()),
        (Query(studies=("1.2.3.4",)), set()),
    ],
)
def test_what_a_query_finds(way, wanted, expected, open_input):
    entries = open_input(way, wanted).query(ScoreSettings())
    names = {entry.relative.rsplit("/", 1)[1].removesuffix(".dcm") for entry in entries}
    if way != "dicomweb" and wanted.date == "20210101-20211231":
        expected = {uid("2.1.1"), uid("4.1.1"), uid("5.1.1")}
    assert names == expected


def test_no_match_is_a_result(open_input, detector, tmp_path):
    wanted = Query(studies=("1.2.3.4",))
    for way in WAYS:
        summary = score_batch(open_input(way, wanted), tmp_path / way, detector)
        assert (summary.records, summary.document["exit_reason"]) == ((), "all_scored")


def test_a_pacs_that_is_not_there(detector, tmp_path):
    nobody = PacsInput(Peer("NOBODY", "127.0.0.1", free_port()), Query(date="20200101"))
    with pytest.raises(DataError, match="DICOM peer does not answer"):
        score_batch(nobody, tmp_path / "out", detector)


def test_c_move_to_an_unknown_destination_is_a_reason_of_each_image(
    pacs, both_studies, detector, tmp_path
):
    peer = Peer("ORTHANC", "127.0.0.1", pacs.dicom_port)
    stranger = PacsInput(peer, both_studies, "STRANGER", free_port())
    summary = score_batch(stranger, tmp_path / "out", detector)
    statuses = sorted((record.status, record.reason) for record in summary.records)
    details = {r.file.detail for r in summary.records if r.reason == "not_retrieved"}
    assert details
    assert all(detail.startswith("status 0x") for detail in details)
    assert statuses == [("failed", "not_retrieved")] * 3 + [("skipped", "not_frontal_chest")]


def test_from_the_command_line_and_back_into_the_pacs(pacs, bundle_folder, tmp_path, capsys):
    peer = f"ORTHANC@127.0.0.1:{pacs.dicom_port}"
    out = tmp_path / "out"
    arguments = ["score", "--pacs", peer, "--study", uid(3), "--send", peer, str(out),
                 "--bundle", str(bundle_folder), "--engine", "reference"]  # fmt: skip
    assert run(group, [*arguments, "--dry-run"]) == 0
    assert not out.exists()
    assert run(group, arguments) == 0
    shown = capsys.readouterr()
    assert f"{peer}: 3 sent" in shown.out
    assert "CANARY" not in shown.out + shown.err
    query = {"Level": "Study", "Query": {"StudyInstanceUID": uid(3)}}
    (study,) = pacs.post("/tools/find", json.dumps(query).encode())
    series = pacs.get(f"/studies/{study}/series")
    assert sorted(item["MainDicomTags"]["Modality"] for item in series) == ["DX", "OT", "PR", "SR"]
    assert run(group, arguments) == 0
    assert f"{peer}: nothing to send, 3 before" in capsys.readouterr().out
    # our own results are in the study now; nobody scores them
    assert sorted(status for status, _ in manifest(out).values()) == ["scored"] + ["skipped"] * 3
