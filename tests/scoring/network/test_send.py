"""Results to a PACS: each with what the PACS said, and what did not arrive goes next time."""

import json
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from pynetdicom import AE, evt

from pneumonia.runtime.errors import ConfigError
from pneumonia.scoring.batch.audit import verify_audit
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.network.dicom_peer import Peer, parse_peer
from pneumonia.scoring.network.send import CLASSES, send_results
from pneumonia.scoring.outputs import OutputSettings
from pneumonia.scoring.outputs.dicom import KINDS
from tests.peers import free_port, peer
from tests.runtime.dicoms import chest_dataset, save
from tests.scoring.patients import patient

QUICK = (0.05, 0.05)


@pytest.fixture
def out(tmp_path, detector, bright, dark):
    (tmp_path / "in").mkdir()
    for number, pixels in enumerate((bright, dark), start=1):
        save(tmp_path / "in" / f"{number}.dcm", chest_dataset(pixels, **patient(number)))
    settings = ScoreSettings(outputs=OutputSettings(dicom=tuple(KINDS)))
    score_batch(tmp_path / "in", tmp_path / "out", detector, settings)
    return tmp_path / "out"


@contextmanager
def receiver(answer):
    """A C-STORE provider that says what `answer(number, event)` says; yields what it took."""
    taken = []

    def store(event):
        taken.append(str(event.request.AffectedSOPInstanceUID))
        return answer(len(taken), event)

    entity = AE("PACS")
    for kind in CLASSES:
        entity.add_supported_context(kind)
    port = free_port()
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        yield Peer("PACS", "127.0.0.1", port), taken
    finally:
        server.shutdown()


def lines(out):
    return [json.loads(line) for line in (out / "sent.jsonl").read_text().splitlines()]


def test_each_object_has_its_own_status(out):
    codes = {2: 0xB000, 3: 0xA700, 5: 0xC001}
    with receiver(lambda number, event: codes.get(number, 0)) as (to, taken):
        summary = send_results(out, to, pauses_seconds=QUICK)
        assert summary.counts == {"sent": 3, "sent_with_warning": 1, "refused": 2, "not_sent": 0}
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
    summary = send_results(out, Peer("PACS", "127.0.0.1", free_port()), pauses_seconds=QUICK)
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
    for kind in CLASSES[:2]:
        entity.add_supported_context(kind)
    port = free_port()
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        summary = send_results(out, Peer("PACS", "127.0.0.1", port), pauses_seconds=QUICK)
    finally:
        server.shutdown()
    assert (summary.counts["sent"], summary.counts["refused"]) == (4, 2)


@pytest.mark.interop
@pytest.mark.parametrize("fault", ["--abort-during", "--abort-after"])
def test_dcmtk_that_aborts_leaves_results_unsent_and_resumable(out, tmp_path, fault):
    (tmp_path / "taken").mkdir()
    port = free_port()
    command = [peer("storescp"), "-aet", "PACS", "-od", str(tmp_path / "taken"), str(port)]
    to = Peer("PACS", "127.0.0.1", port)
    with running([*command, fault], port):
        summary = send_results(out, to, pauses_seconds=QUICK)
    assert summary.counts["not_sent"] == 6
    assert {line["status"] for line in lines(out)} == {"not_sent"}
    with running(command, port):
        summary = send_results(out, to, pauses_seconds=QUICK)
    assert summary.counts["sent"] == 6
    whole = [path for path in (tmp_path / "taken").iterdir() if path.stat().st_size > 0]
    assert len({path.name for path in whole}) >= 6


@contextmanager
def running(command, port):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port):
    import socket

    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.05)
    raise AssertionError("nobody listens")


@pytest.mark.parametrize("text", ["", "PACS", "PACS@host", "@host:1", "PACS@host:x", "A@h:70000",
                                  "A\\B@host:1", "LONGER_THAN_SIXTEEN@host:1"])  # fmt: skip
def test_addresses_that_are_none(text):
    with pytest.raises(ConfigError):
        parse_peer(text)


def test_an_address():
    assert parse_peer("MY PACS@pacs.example:11112") == Peer("MY PACS", "pacs.example", 11112)
    assert parse_peer("A@[::1]:104") == Peer("A", "::1", 104)
