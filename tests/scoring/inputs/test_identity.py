"""The right picture of the right patient: every answer and object is held against the question.

Spans: pneumonia.scoring.inputs.dicomweb, pneumonia.scoring.inputs.object_uids,
pneumonia.scoring.inputs.pacs, pneumonia.scoring.inputs.query, pneumonia.scoring.image.expected.
"""

import json
import os

import numpy as np
import pydicom
import pytest
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_FIND

from pneumonia.runtime.errors import DataError
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.image.expected import ExpectedObject, is_match, open_keys
from pneumonia.scoring.inputs.dicomweb import boundary_of, parts
from pneumonia.scoring.inputs.object_uids import object_uids
from pneumonia.scoring.inputs.pacs import PacsInput
from pneumonia.scoring.inputs.query import FoundStudies, Query
from pneumonia.scoring.network import dicom_peer
from pneumonia.scoring.outputs import OutputSettings
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.inputs.small_pacs import SmallPacs, serving
from tests.scoring.patients import patient
from tests.support.peers import free_port

SHARED = f"{SERIES}.5"


@pytest.fixture
def twins(bright, dark):
    """Two studies of two patients with one SOP Instance UID."""
    return [
        chest_dataset(bright, **patient(1, SOPInstanceUID=SHARED)),
        chest_dataset(dark, **patient(2, SOPInstanceUID=SHARED, StudyDate="20210304")),
    ]


def both():
    return Query(studies=(f"{SERIES}.1", f"{SERIES}.2"))


def opened(peer, pacs, way, wanted=None):
    if way == "get":
        return PacsInput(peer, wanted or both())
    port = free_port()
    pacs.mover = ("127.0.0.1", port)
    return PacsInput(peer, wanted or both(), move_port=port)


def results(summary):
    """Study -> status, reason."""
    return {
        record.file.relative.split("/")[0].rsplit(".", 1)[-1]: (record.status, record.reason)
        for record in summary.records
    }


@pytest.mark.parametrize("way", ["get", "move"])
def test_studies_that_share_an_instance_uid_get_their_own_pixels(way, twins, detector, tmp_path):
    pacs = SmallPacs(twins)
    settings = ScoreSettings(outputs=OutputSettings(dicom=("sr",), fhir=True))
    with serving(pacs) as peer:
        summary = score_batch(opened(peer, pacs, way), tmp_path / "out", detector, settings)
    assert results(summary) == {"1": ("scored", ""), "2": ("scored", "")}
    assert len({record.sha256 for record in summary.records}) == 2
    scores = [record.max_score() for record in summary.records]
    assert scores[0] > 0.9 > scores[1]
    # which image a result means is not known by the UID alone: none is made
    assert not list((tmp_path / "out").glob("dicom/*.dcm"))
    assert not list((tmp_path / "out").glob("fhir/*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["get", "move"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_pacs_that_sends_both_for_either(way, order, twins, detector, tmp_path):
    """A PACS that finds instances by their UID alone sends both studies' objects."""
    pacs = SmallPacs(twins)
    pacs.sends = lambda found: twins[::order]
    with serving(pacs) as peer:
        summary = score_batch(opened(peer, pacs, way), tmp_path / "out", detector)
    assert results(summary) == {"1": ("scored", ""), "2": ("scored", "")}
    scores = {r.file.relative.split("/")[0]: r.max_score() for r in summary.records}
    assert scores[f"{SERIES}.1"] > 0.9 > scores[f"{SERIES}.2"]


@pytest.mark.parametrize("way", ["get", "move"])
def test_a_pacs_that_sends_the_first_for_both(way, twins, detector, tmp_path):
    pacs = SmallPacs(twins)
    pacs.sends = lambda found: twins[:1]
    with serving(pacs) as peer:
        summary = score_batch(opened(peer, pacs, way), tmp_path / "out", detector)
    assert results(summary) == {"1": ("scored", ""), "2": ("failed", "wrong_object")}


@pytest.mark.parametrize("way", ["get", "move"])
@pytest.mark.parametrize("is_same", [True, False])
def test_two_patients_under_the_same_three_uids(way, is_same, bright, dark, detector, tmp_path):
    """Whose picture it is cannot be said; the same object sent twice is one."""
    first = chest_dataset(bright, **patient(1))
    second = chest_dataset(bright if is_same else dark, **patient(1))
    if not is_same:
        second.PatientID = "ANOTHER"
    pacs = SmallPacs([first, second])
    with serving(pacs) as peer:
        source = opened(peer, pacs, way, Query(studies=(f"{SERIES}.1",)))
        summary = score_batch(source, tmp_path / "out", detector)
    expected = ("scored", "") if is_same else ("failed", "ambiguous_object")
    assert results(summary) == {"1": expected}


@pytest.mark.parametrize("way", ["get", "move"])
def test_another_series_is_another_object(way, bright, detector, tmp_path):
    held = chest_dataset(bright, **patient(1))
    other = chest_dataset(bright, **patient(1, SeriesInstanceUID=f"{SERIES}.99"))
    pacs = SmallPacs([held, other])
    pacs.held.remove(other)
    pacs.sends = lambda found: [other]
    with serving(pacs) as peer:
        summary = score_batch(opened(peer, pacs, way), tmp_path / "out", detector)
    assert results(summary) == {"1": ("failed", "wrong_object")}


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("AccessionNumber", Query(accessions=("ACC1",))),
        ("StudyDate", Query(date="20200102")),
        ("StudyInstanceUID", Query(studies=(f"{SERIES}.1",))),
        ("AccessionNumber", Query(studies=(f"{SERIES}.1",), accessions=("ACC1",))),
    ],
)
@pytest.mark.parametrize("is_returned", [True, False])
def test_a_pacs_that_ignores_a_key(key, wanted, is_returned, bright, dark, detector, tmp_path):
    """What the answer does not show is held against the header of the image."""
    pacs = SmallPacs(
        [
            chest_dataset(bright, **patient(1)),
            chest_dataset(dark, **patient(2, StudyDate="20210304")),
        ]
    )
    pacs.ignored = (key,) if key != "StudyInstanceUID" else ()
    if key == "StudyInstanceUID":  # at study level only: below it no PACS works without
        pacs.matching = ignoring_study_uid(pacs)
    pacs.unnamed = () if is_returned or key == "StudyInstanceUID" else (key,)
    with serving(pacs) as peer:
        summary = score_batch(PacsInput(peer, wanted), tmp_path / "out", detector)
    found = results(summary)
    assert found["1"] == ("scored", "")
    assert found.get("2", ("skipped", "not_asked_for")) == ("skipped", "not_asked_for")
    assert "CANARY" not in (tmp_path / "out" / "manifest.jsonl").read_text()


@pytest.mark.parametrize("wanted", [(1,), (1, 2)])
def test_a_pacs_that_lists_series_of_other_studies(wanted, bright, detector, tmp_path):
    pacs = SmallPacs([chest_dataset(bright, **patient(n)) for n in (1, 2)])
    exact = pacs.matching

    def matching(identifier):
        is_series = identifier.QueryRetrieveLevel == "SERIES" and not identifier.SeriesInstanceUID
        return list(pacs.held) if is_series else exact(identifier)

    pacs.matching = matching
    query = Query(studies=tuple(f"{SERIES}.{number}" for number in wanted))
    with serving(pacs) as peer:
        summary = score_batch(PacsInput(peer, query), tmp_path / "out", detector)
    expected = {"1": ("scored", ""), "2": ("scored", "")}
    assert results(summary) == (
        expected if len(wanted) == 2 else {**expected, "2": ("skipped", "not_asked_for")}
    )


@pytest.mark.parametrize("n_lost", [1, 2, 99])
def test_a_response_that_is_lost_between_threads(n_lost, bright, detector, tmp_path, monkeypatch):
    """Another thread of the association takes a response: the study would be missing unnoticed."""
    taken = DIMSEServiceProvider.get_msg
    left = [n_lost]

    def losing(provider, block=False):
        context, message = taken(provider, block)
        if isinstance(message, C_FIND) and message.Status == 0xFF00 and left[0]:
            left[0] -= 1
            context, message = taken(provider, block)
        return context, message

    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", losing)
    with serving(SmallPacs([chest_dataset(bright, **patient(1))])) as peer:
        source = PacsInput(peer, Query(studies=(f"{SERIES}.1",)))
        if n_lost > 2:
            with pytest.raises(DataError, match="responses are lost"):
                score_batch(source, tmp_path / "out", detector)
            return
        summary = score_batch(source, tmp_path / "out", detector)
    assert results(summary) == {"1": ("scored", "")}


def ignoring_study_uid(pacs):
    exact = pacs.matching

    def matching(identifier):
        if identifier.QueryRetrieveLevel == "STUDY":
            return list(pacs.held)
        return exact(identifier)

    return matching


def test_a_corrected_patient_is_fetched_again(bright, detector, tmp_path):
    held = chest_dataset(bright, **patient(1))
    pacs = SmallPacs([held])
    settings = ScoreSettings(outputs=OutputSettings(dicom=("sr",)))
    with serving(pacs) as peer:
        source = PacsInput(peer, Query(studies=(f"{SERIES}.1",)))
        score_batch(source, tmp_path / "out", detector, settings)
        again = score_batch(source, tmp_path / "out", detector, settings)
        assert [record.reused for record in again.records] == [True]
        held.PatientName = "CORRECTED^NAME"
        third = score_batch(source, tmp_path / "out", detector, settings)
        assert [record.reused for record in third.records] == [False]
    (report,) = (tmp_path / "out" / "dicom").iterdir()
    assert b"CORRECTED^NAME" in report.read_bytes()
    for name in ("manifest.jsonl", "run.json", "audit.jsonl"):
        assert "CORRECTED" not in (tmp_path / "out" / name).read_text()


@pytest.mark.parametrize("refetch", [True, False])
def test_other_pixels_under_the_same_uids(refetch, bright, dark, detector, tmp_path):
    pacs = SmallPacs([chest_dataset(dark, **patient(1))])
    settings = ScoreSettings(refetch=refetch, outputs=OutputSettings(dicom=("sr",)))
    with serving(pacs) as peer:
        source = PacsInput(peer, Query(studies=(f"{SERIES}.1",)))
        score_batch(source, tmp_path / "out", detector, settings)
        (first,) = (tmp_path / "out" / "dicom").iterdir()
        before = pydicom.dcmread(first).SOPInstanceUID
        pacs.held[0].PixelData = bright.tobytes()
        again = score_batch(source, tmp_path / "out", detector, settings)
    (record,) = again.records
    (report,) = (tmp_path / "out" / "dicom").iterdir()
    if not refetch:  # nothing in the archive's answers shows the change; the tables state it
        assert (record.reused, record.is_unchecked) == (True, True)
        assert again.document["totals"]["unchecked"] == 1
        assert json.loads((tmp_path / "out" / "manifest.jsonl").read_text())["unchecked"] is True
        return
    assert (record.reused, record.is_unchecked) == (False, False)
    assert record.max_score() > 0.9
    assert "image_changed" in record.warnings
    assert (
        pydicom.dcmread(report)
        .PredecessorDocumentsSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence[0]
        .ReferencedSOPInstanceUID
        == before
    )


@pytest.mark.parametrize("change", ["patient", "age"])
def test_what_an_interrupted_run_fetched_is_not_used_for_ever(
    change, bright, dark, detector, tmp_path, monkeypatch
):
    # the peer is in the middle of its answer: an interrupt must not wait for its consent
    monkeypatch.setattr(dicom_peer, "CONNECT_SECONDS", 3600.0)

    def interrupt(done, total, note):
        if note == "fetch":
            raise KeyboardInterrupt

    held = chest_dataset(dark, **patient(1))
    pacs = SmallPacs([held])
    with serving(pacs) as peer:
        source = PacsInput(peer, Query(studies=(f"{SERIES}.1",)))
        with pytest.raises(KeyboardInterrupt):
            score_batch(source, tmp_path / "out", detector, None, interrupt)
        (fetched,) = (tmp_path / "out" / "fetched").iterdir()
        held.PixelData = bright.tobytes()
        if change == "patient":  # the archive's answer shows that the study has changed
            held.PatientName = "CORRECTED^NAME"
        else:
            os.utime(fetched, (0, 0))
        summary = score_batch(source, tmp_path / "out", detector)
    assert summary.records[0].max_score() > 0.9


def test_an_image_over_the_limit_does_not_cost_the_others(bright, detector, tmp_path):
    large = np.kron(bright, np.ones((8, 8), np.uint8))
    pacs = SmallPacs(
        [
            chest_dataset(large, **patient(1, SOPInstanceUID=f"{SERIES}.1.1.0")),
            chest_dataset(bright, **patient(1)),
        ]
    )
    with serving(pacs) as peer:
        source = PacsInput(peer, Query(studies=(f"{SERIES}.1",)), max_file_bytes=100_000)
        summary = score_batch(source, tmp_path / "out", detector)
    found = {r.file.image_id[-1]: (r.status, r.reason) for r in summary.records}
    assert found == {"0": ("rejected", "resource_limit"), "1": ("scored", "")}
    assert sorted(pacs.codes) == [0x0000, 0xC000]  # 0xA700 would end the retrieval


def test_a_pacs_without_c_get_is_a_reason_of_each_image(bright, detector, tmp_path):
    pacs = SmallPacs([chest_dataset(bright, **patient(1))])
    with serving(pacs) as peer:
        source = PacsInput(peer, Query(studies=(f"{SERIES}.1",)))
        (entry,) = source.query(ScoreSettings())
    # the PACS has gone since it was asked
    (entry,) = source.fetch([entry], tmp_path, lambda entry: False, None)
    assert (entry.status, entry.reason, entry.detail) == (
        "failed", "not_retrieved", "no association",
    )  # fmt: skip


# --- the rules by hand ---


@pytest.mark.parametrize(
    ("keyword", "asked", "found", "fits"),
    [
        ("AccessionNumber", "A1", "A1 ", True),
        ("AccessionNumber", "A1", "A10", False),
        ("AccessionNumber", "A1", "a1", False),
        ("StudyInstanceUID", "1.2", "1.2\0", True),
        ("StudyInstanceUID", "1.2", "1.2.3", False),
        ("StudyDate", "20240301", "20240301", True),
        ("StudyDate", "20240301", "20240302", False),
        ("StudyDate", "20240301-20240305", "20240305", True),
        ("StudyDate", "20240301-20240305", "20240306", False),
        ("StudyDate", "20240301-", "20990101", True),
        ("StudyDate", "20240301-", "20240229", False),
        ("StudyDate", "-20240301", "19990101", True),
        ("StudyDate", "-20240301", "20240302", False),
        ("StudyDate", "20240301", "2024.03.01", True),
        ("StudyDate", "20240301-", "today", False),
    ],
)
def test_matching_rules(keyword, asked, found, fits):
    assert is_match(keyword, asked, found) is fits


def test_what_an_answer_leaves_open():
    asked = {"AccessionNumber": "A1", "StudyDate": "20240301"}
    assert open_keys(asked, {"AccessionNumber": "A1", "StudyDate": "20240301"}) == {}
    assert open_keys(asked, {"AccessionNumber": "", "StudyDate": "20240301"}) == {
        "AccessionNumber": "A1"
    }
    assert open_keys(asked, {"AccessionNumber": "A2"}) is None
    found = FoundStudies()
    found.add({"AccessionNumber": "A1"}, [{"StudyInstanceUID": "1.2", "AccessionNumber": "A1"},
                                          {"StudyInstanceUID": "1.2", "AccessionNumber": "A2"},
                                          {"StudyInstanceUID": "1.3", "AccessionNumber": "A2"},
                                          {"StudyInstanceUID": "../x"}])  # fmt: skip
    # one study UID for two studies: the header of each image decides
    assert found.studies["1.2"].keys == ((("AccessionNumber", "A1"),),)
    assert [entry.relative for entry in found.refused([])] == ["1.3"]
    found.add({"AccessionNumber": "A2"}, [{"StudyInstanceUID": "1.3", "AccessionNumber": "A2"}])
    assert found.refused([]) == []
    assert found.studies["1.3"].keys == ()


def test_what_a_file_must_be():
    expected = ExpectedObject(("1", "2", "3"), ((("AccessionNumber", "A"),),))
    identity = {"StudyInstanceUID": "1", "SeriesInstanceUID": "2", "SOPInstanceUID": "3"}
    assert expected.mismatch({**identity, "AccessionNumber": "A"}) == ""
    assert expected.mismatch(identity) == "not_asked_for"
    for keyword in identity:
        assert expected.mismatch({**identity, keyword: "9"}) == "wrong_object"
        assert expected.mismatch({**identity, keyword: ""}) == "wrong_object"


def test_uids_of_an_object(tmp_path, bright):
    data = save(tmp_path / "a", chest_dataset(bright, **patient(1))).read_bytes()
    assert object_uids(data) == (f"{SERIES}.1", f"{SERIES}.1.1", f"{SERIES}.1.1.1")
    assert object_uids(b"this is not DICOM") is None
    assert object_uids(b"") is None


# --- multipart ---


def body(*contents, boundary=b"b", head=b"Content-Type: application/dicom\r\n"):
    made = [b"--" + boundary + b"\r\n" + head + b"\r\n" + data + b"\r\n" for data in contents]
    return b"".join(made) + b"--" + boundary + b"--"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (body(b"one"), [b"one"]),
        (body(b"one", b"two") + b"\r\n", [b"one", b"two"]),
        (body(b"one", head=b""), [b"one"]),
        (body(b""), [b""]),
        (b"preamble\r\n" + body(b"one") + b"\r\nepilogue", [b"one"]),
        (body(b"x\r\n--bb\r\ny"), [b"x\r\n--bb\r\ny"]),  # another boundary that begins alike
        (body(b"x--b--y"), [b"x--b--y"]),
        (body(b"one").replace(b"--b\r\n", b"--b  \r\n"), [b"one"]),  # transport padding
        (body(b"\r\n\r\nA\r\n"), [b"\r\n\r\nA\r\n"]),
    ],
)
def test_multipart_bodies(data, found):
    assert list(parts(data, b"b")) == found


@pytest.mark.parametrize("data", [b"", b"--b", body(b"one")[:-5], body(b"one")[:-2],
                                  b"--b\r\nContent-Type: x\r\n--b--", b"no boundary"])  # fmt: skip
def test_multipart_that_is_cut_off(data):
    with pytest.raises(ValueError, match="multipart"):
        list(parts(data, b"b"))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("multipart/related; boundary=b1", b"b1"),
        ('Multipart/Related; type="application/dicom"; boundary="a b;c"', b"a b;c"),
        ("multipart/related;BOUNDARY=b1;type=x", b"b1"),
        ('multipart/related; boundary="b1"; type="application/dicom"', b"b1"),
        ("application/dicom", b""),
        ("", b""),
    ],
)
def test_boundaries(header, found):
    assert boundary_of(header) == found


@pytest.mark.parametrize("header", ["multipart/related", "multipart/related; boundary="])
def test_no_boundary(header):
    with pytest.raises(ValueError, match="boundary"):
        boundary_of(header)


def test_the_manifest_counts_what_was_dropped(bright, dark, detector, tmp_path):
    pacs = SmallPacs([chest_dataset(bright, **patient(n)) for n in (1, 2, 3)])
    pacs.ignored = ("AccessionNumber",)
    with serving(pacs) as peer:
        source = PacsInput(peer, Query(accessions=("ACC2",)))
        summary = score_batch(source, tmp_path / "out", detector)
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").open()]
    assert sorted((line["status"], line["reason"]) for line in lines) == [
        ("scored", ""), ("skipped", "not_asked_for"), ("skipped", "not_asked_for"),
    ]  # fmt: skip
    assert summary.document["totals"]["statuses"]["skipped"] == 2
