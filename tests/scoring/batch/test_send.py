"""Results to a PACS: each with what the PACS said, and what did not arrive goes next time."""

import io
import json
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pydicom
import pytest
from pynetdicom import AE, evt

from pneumonia.runtime import commitment
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.results import KIND_OF, SOP_CLASSES
from pneumonia.scoring.batch.audit import verify_audit
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.batch.send import Destination, send_results
from pneumonia.scoring.inputs.dicomweb import boundary_of, parts
from pneumonia.scoring.network import dicomweb_service
from pneumonia.scoring.network.commitment import CommitmentSettings
from pneumonia.scoring.network.dicom_peer import Peer, parse_peer
from pneumonia.scoring.network.dicomweb_service import DicomwebService
from pneumonia.scoring.outputs import OutputSettings
from tests.runtime.dicoms import chest_dataset, save
from tests.scoring.network.archive import archive
from tests.scoring.patients import patient
from tests.support.peers import free_port, peer

QUICK = (0.05, 0.05)


@pytest.fixture(scope="module")
def scored_once(tmp_path_factory, detector, bright, dark):
    folder = tmp_path_factory.mktemp("scored")
    (folder / "in").mkdir()
    for number, pixels in enumerate((bright, dark), start=1):
        save(folder / "in" / f"{number}.dcm", chest_dataset(pixels, **patient(number)))
    settings = ScoreSettings(outputs=OutputSettings(dicom=tuple(KIND_OF)))
    score_batch(folder / "in", folder / "out", detector, settings)
    return folder


@pytest.fixture
def out(tmp_path, scored_once):
    """An output folder with six results."""
    shutil.copytree(scored_once / "in", tmp_path / "in")
    return shutil.copytree(scored_once / "out", tmp_path / "out")


@contextmanager
def receiver(answer):
    """A C-STORE provider that says what `answer(number, event)` says; yields what it took."""
    taken = []

    def store(event):
        taken.append(str(event.request.AffectedSOPInstanceUID))
        return answer(len(taken), event)

    entity = AE("PACS")
    for kind in SOP_CLASSES.values():
        entity.add_supported_context(kind)
    port = free_port()
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        yield Destination(Peer("PACS", "127.0.0.1", port)), taken
    finally:
        server.shutdown()


def lines(out):
    return [json.loads(line) for line in (out / "sent.jsonl").read_text().splitlines()]


def test_each_object_has_its_own_status(out):
    codes = {2: 0xB000, 3: 0xA700, 5: 0xC001}
    with receiver(lambda number, event: codes.get(number, 0)) as (to, taken):
        summary = send_results(out, to, pauses_seconds=QUICK)
        assert summary.counts == {
            "sent": 3, "sent_with_warning": 1, "refused": 2, "not_sent": 0,
            "committed": 0, "not_committed": 0,
        }  # fmt: skip
        assert summary.missing == 2
        assert [(line["status"], line["code"]) for line in lines(out)] == [
            ("sent", "0x0000"),
            ("sent_with_warning", "0xB000"),
            ("refused", "0xA700"),
            ("sent", "0x0000"),
            ("refused", "0xC001"),
            ("sent", "0x0000"),
        ]
        assert len(set(taken)) == 6
        refused = {taken[2], taken[4]}
        del taken[:]
        codes.clear()
        again = send_results(out, to, pauses_seconds=QUICK)
        assert set(taken) == refused
        assert (again.counts["sent"], again.earlier, again.missing) == (2, 4, 0)
        assert send_results(out, to).earlier == 6
    verify_audit(out)
    audit = [json.loads(line) for line in (out / "audit.jsonl").read_text().splitlines()]
    assert [line["totals"]["sent"] for line in audit if line["event"] == "results_sent"] == [
        3,
        2,
        0,
    ]
    assert "CANARY" not in (out / "sent.jsonl").read_text()


def test_another_pacs_gets_everything(out):
    with receiver(lambda *_: 0) as (first, _), receiver(lambda *_: 0) as (second, taken):
        send_results(out, first)
        assert send_results(out, second).counts["sent"] == len(taken) == 6


def test_a_result_that_changed_is_sent_again(out, tmp_path, detector, dark):
    with receiver(lambda *_: 0) as (to, taken):
        send_results(out, to)
        settings = ScoreSettings("sensitive", outputs=OutputSettings(dicom=("sr",)))
        score_batch(tmp_path / "in", out, detector, settings)
        del taken[:]
        assert send_results(out, to).counts["sent"] == 2


def test_a_pacs_that_is_down_is_given_up_soon(out):
    started = time.monotonic()
    summary = send_results(
        out, Destination(Peer("PACS", "127.0.0.1", free_port())), pauses_seconds=QUICK
    )
    assert summary.counts["not_sent"] == summary.missing == 6
    assert time.monotonic() - started < 60
    with receiver(lambda *_: 0) as (to, taken):
        assert send_results(out, to).counts["sent"] == len(taken) == 6


def test_an_association_that_breaks_is_opened_again(out):
    def abort_third(number, event):
        if number == 3:
            event.assoc.abort()
        return 0

    with receiver(abort_third) as (to, _):
        summary = send_results(out, to, pauses_seconds=QUICK)
    assert summary.counts["sent"] == 6


def test_the_other_results_go_to_a_pacs_without_one_class(out):
    def store(event):
        return 0

    entity = AE("PACS")
    for kind in [*SOP_CLASSES.values()][:2]:
        entity.add_supported_context(kind)
    port = free_port()
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        summary = send_results(
            out, Destination(Peer("PACS", "127.0.0.1", port)), pauses_seconds=QUICK
        )
    finally:
        server.shutdown()
    assert (summary.counts["sent"], summary.counts["refused"]) == (4, 2)
    # the peer gave no status, and none is made up
    refused = {(line["code"], line["detail"]) for line in lines(out) if line["status"] == "refused"}
    assert refused == {(None, "presentation context: abstract syntax not supported")}


IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"


@pytest.mark.parametrize(
    ("syntaxes", "used"),
    [
        ([BIG, EXPLICIT, IMPLICIT], EXPLICIT),
        ([BIG, IMPLICIT], IMPLICIT),
        ([IMPLICIT], IMPLICIT),
        ([IMPLICIT, EXPLICIT], IMPLICIT),
        ([EXPLICIT], EXPLICIT),
    ],
)
def test_a_peer_gets_the_objects_in_a_syntax_that_it_prefers(out, syntaxes, used):
    """A peer that prefers big endian is not offered it."""
    found = []
    entity = AE("PACS")
    for kind in SOP_CLASSES.values():
        entity.add_supported_context(kind, syntaxes)

    def store(event):
        found.append((event.context.transfer_syntax, event.dataset.StudyInstanceUID))
        return 0

    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        to = Destination(Peer("PACS", "127.0.0.1", server.socket.getsockname()[1]))
        assert send_results(out, to, pauses_seconds=QUICK).counts["sent"] == 6
    finally:
        server.shutdown()
    assert {syntax for syntax, _ in found} == {used}


def test_a_peer_of_big_endian_alone_is_quoted(out):
    entity = AE("PACS")
    for kind in SOP_CLASSES.values():
        entity.add_supported_context(kind, [BIG])
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        to = Destination(Peer("PACS", "127.0.0.1", server.socket.getsockname()[1]))
        summary = send_results(out, to, pauses_seconds=QUICK)
    finally:
        server.shutdown()
    assert summary.missing == 6
    assert {line["code"] for line in lines(out)} == {None}
    assert all(line["detail"] for line in lines(out))


# --- storage commitment ---


@pytest.mark.parametrize("has_own_association", [False, True])
def test_sent_means_safe_when_the_archive_commits(out, has_own_association):
    port = free_port() if has_own_association else None
    with archive(own_port=port) as (made, peer):
        to = Destination(peer, commitment=CommitmentSettings(port, 300))
        summary = send_results(out, to, pauses_seconds=QUICK)
        assert (summary.counts["sent"], summary.counts["committed"], summary.missing) == (6, 6, 0)
        assert [line["status"] for line in lines(out)] == ["sent"] * 6 + ["committed"] * 6
        again = send_results(out, to, pauses_seconds=QUICK)
        assert (again.earlier, sum(again.counts.values()), made.requests) == (6, 0, 1)
    verify_audit(out)


def test_an_archive_that_reports_once_the_association_has_ended(out, monkeypatch):
    monkeypatch.setattr(commitment, "SAME_ASSOCIATION_S", 0.2)
    port = free_port()
    with archive(own_port=port, waits_for_end=True) as (_, peer):
        to = Destination(peer, commitment=CommitmentSettings(port, 300))
        assert send_results(out, to, pauses_seconds=QUICK).counts["committed"] == 6


def test_an_object_that_the_archive_lost_is_sent_again(out):
    with archive() as (made, peer):
        to = Destination(peer, commitment=CommitmentSettings(None, 300))
        made.lost = AlmostAll()
        summary = send_results(out, to, pauses_seconds=QUICK)
        assert summary.counts["not_committed"] == summary.missing == 6
        assert {line["code"] for line in lines(out)[6:]} == {"0x0112"}
        made.lost = set()
        first = len(made.stored)
        again = send_results(out, to, pauses_seconds=QUICK)
        assert len(made.stored) - first == 6
        assert (again.counts["committed"], again.missing) == (6, 0)


class AlmostAll:
    def __contains__(self, item):
        return True


@pytest.mark.parametrize(
    ("changed", "detail"),
    [
        ({"is_silent": True}, "no report in time"),
        ({"transaction": "1.2.3"}, "no report in time"),
        ({"answer": 0x0110}, "request: status 0x0110"),
    ],
)
def test_without_a_commitment_the_objects_count_as_missing(out, changed, detail):
    with archive(**changed) as (made, peer):
        to = Destination(peer, commitment=CommitmentSettings(None, 0.2))
        summary = send_results(out, to, pauses_seconds=QUICK)
        assert (summary.counts["sent"], summary.counts["not_committed"]) == (6, 6)
        assert {(line["code"], line["detail"]) for line in lines(out)[6:]} == {(None, detail)}
        # asked for again next time, not sent again: the archive did not say that it lost them
        send_results(out, to, pauses_seconds=QUICK)
        assert (made.requests, len(made.stored)) == (2, 6)


def test_a_pacs_without_storage_commitment(out):
    with receiver(lambda *_: 0) as (to, _):
        asked = Destination(to.server, commitment=CommitmentSettings(None, 0.2))
        summary = send_results(out, asked, pauses_seconds=QUICK)
        assert summary.counts["not_committed"] == 6
        details = {line.get("detail") for line in lines(out)[6:]}
        assert details <= {"storage commitment is not offered", "no association"}


# --- STOW-RS ---


class StowHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = boundary_of(self.headers["Content-Type"])
        (data,) = parts(body, boundary)
        instance = pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID
        self.server.asked.append((self.path, self.headers.get("Authorization"), instance))
        status, document, headers = self.server.answer(len(self.server.asked), instance)
        data = json.dumps(document).encode() if document is not None else b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def reference(instance, **reason):
    item = {"00081155": {"vr": "UI", "Value": [instance]}}
    for tag, code in reason.items():
        item[tag.strip("_")] = {"vr": "US", "Value": [code]}
    return item


def stored(instance):
    return {"00081199": {"vr": "SQ", "Value": [reference(instance)]}}


@contextmanager
def stow_server(answer):
    server = ThreadingHTTPServer(("127.0.0.1", 0), StowHandler)
    server.asked, server.answer = [], answer
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/dicom-web/"
        yield Destination(DicomwebService(url)), server
    finally:
        server.shutdown()
        server.server_close()


def test_stow_gives_each_object_the_status_that_the_service_answered(out, monkeypatch):
    monkeypatch.setenv("PNEUMONIA_DICOMWEB_TOKEN", "tok123")
    answers = {
        2: (202, {"00081199": {"Value": [reference("", _00081196_=1)]}}),
        3: (409, {"00081198": {"Value": [reference("", _00081197_=0xC122)]}}),
        4: (200, None),
        5: (403, None),
        6: (200, [1, 2]),
    }

    def answer(number, instance):
        status, document = answers.get(number, (200, stored(instance)))
        text = json.dumps(document).replace('"Value": [""]', f'"Value": ["{instance}"]')
        if number == 2:
            text = text.replace('"Value": [1]', '"Value": [45056]')  # 0xB000: coerced
        return status, json.loads(text), {}

    with stow_server(answer) as (to, server):
        summary = send_results(out, to, pauses_seconds=QUICK)
        found = [(line["status"], line["code"], line.get("detail")) for line in lines(out)]
        assert found == [
            ("sent", None, None),
            ("sent_with_warning", "0xB000", None),
            ("refused", "0xC122", None),
            ("refused", None, "the answer does not confirm the object"),
            ("refused", None, "HTTP 403"),
            ("refused", None, "the answer does not confirm the object"),
        ]
        assert summary.missing == 4
        assert {(path, auth) for path, auth, _ in server.asked} == {
            ("/dicom-web/studies", "Bearer tok123")
        }
        answers.clear()
        again = send_results(out, to, pauses_seconds=QUICK)
        assert (again.counts["sent"], again.earlier, again.missing) == (4, 2, 0)
    assert "tok123" not in (out / "sent.jsonl").read_text()


def test_a_busy_stow_service_is_asked_again(out, monkeypatch):
    waits = []
    monkeypatch.setattr(dicomweb_service, "sleep", waits.append)

    def answer(number, instance):
        if number == 1:
            return 503, None, {"Retry-After": "7"}
        return 200, stored(instance), {}

    with stow_server(answer) as (to, server):
        assert send_results(out, to, pauses_seconds=QUICK).counts["sent"] == 6
        assert (waits, len(server.asked)) == ([7.0], 7)


def test_a_stow_service_that_is_down_is_given_up_soon(out):
    with stow_server(lambda *_: (500, None, {})) as (to, server):
        summary = send_results(out, to, pauses_seconds=QUICK)
        assert summary.counts["not_sent"] == 6
        assert len(server.asked) == 3  # of the first object
        assert lines(out)[0]["detail"] == "HTTP 500"


@pytest.mark.interop
@pytest.mark.parametrize("fault", ["--abort-during", "--abort-after"])
def test_dcmtk_that_aborts_leaves_results_unsent_and_resumable(out, tmp_path, fault):
    (tmp_path / "taken").mkdir()
    port = free_port()
    command = [peer("storescp"), "-aet", "PACS", "-od", str(tmp_path / "taken"), str(port)]
    to = Destination(Peer("PACS", "127.0.0.1", port))
    with running([*command, fault], port):
        summary = send_results(out, to, pauses_seconds=QUICK)
    assert summary.counts["not_sent"] == 6
    assert {line["status"] for line in lines(out)} == {"not_sent"}
    with running(command, port):
        summary = send_results(out, to, pauses_seconds=QUICK)
    assert summary.counts["sent"] == 6
    whole = [path for path in (tmp_path / "taken").iterdir() if path.stat().st_size > 0]
    assert len({path.name for path in whole}) >= 6


@pytest.mark.interop
@pytest.mark.parametrize("preference", ["+xb", "+xi", "+xe"])
def test_dcmtk_gets_everything_whatever_it_prefers(out, tmp_path, preference):
    """+xb, +xi, +xe: big endian, implicit, explicit little endian first."""
    (tmp_path / "taken").mkdir()
    port = free_port()
    command = [peer("storescp"), "-aet", "PACS", preference, "-od", str(tmp_path / "taken")]
    with running([*command, str(port)], port):
        to = Destination(Peer("PACS", "127.0.0.1", port))
        assert send_results(out, to, pauses_seconds=QUICK).counts["sent"] == 6
    sent = {pydicom.dcmread(path).SOPInstanceUID for path in (out / "dicom").iterdir()}
    taken = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "taken").iterdir()}
    assert taken == sent


@contextmanager
def running(command, port):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _wait_for(port):
    import socket

    for _ in range(1200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.05)
    raise AssertionError("nobody listens")


@pytest.mark.parametrize("text", ["", "PACS", "PACS@host", "@host:1", "PACS@host:x", "A@h:70000",
                                  "A\\B@host:1", "A@fe80::1", "A@::1:104", "A@[::1:104",
                                  "A@[]:104", "A@[host]:104", "A@host:" + "9" * 5000,
                                  "LONGER_THAN_SIXTEEN@host:1"])  # fmt: skip
def test_addresses_that_are_none(text):
    with pytest.raises(ConfigError):
        parse_peer(text)


def test_an_address():
    assert parse_peer("MY PACS@pacs.example:11112") == Peer("MY PACS", "pacs.example", 11112)
    assert parse_peer("A@[::1]:104") == Peer("A", "::1", 104)
    assert str(parse_peer("A@[::1]:104")) == "A@[::1]:104"
