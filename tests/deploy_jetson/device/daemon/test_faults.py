"""Faults of a small disk, a clock, a caller and a file, and whether a name leaks anywhere.

Spans: deploy_jetson.device.daemon.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time

import numpy as np
import pytest

from deploy_jetson.device.daemon.health.clock import DAY_S, ClockCheck
from pneumonia.runtime.child import ChildLimits, DecodingChild
from pneumonia.runtime.image.read_limits import ReadLimits
from tests.deploy_jetson.device.daemon.process import CANARY, PYTHON
from tests.deploy_jetson.device.daemon.rig import BUNDLE, film, running, settings
from tests.runtime import dicoms
from tests.runtime.dicoms import chest_dataset, save, save_compressed
from tests.support.processes import child_processes
from tests.support.waiting import wait_for

LIMIT = 64 << 20


# --- a disk that is really full ------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted: needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path):
    """Write until there is no space for a single page."""
    with path.open("ab", 0) as stream:
        while True:
            stream.write(bytes(4096))


def test_a_disk_that_is_really_full(small_disk):
    """Images until there is no space, then space again: refused, never half kept, never lost."""
    rng, taken, refused = np.random.default_rng(1), {}, []
    with running(settings(small_disk / "state")) as rig:
        for number in range(12):
            data = b"image %03d" % number + rng.bytes(150_000)
            status, value = rig.post(data)
            assert status in (202, 507), value
            if status == 202:
                taken[value["job"]] = data
            else:
                refused.append(data)
            if number == 2:
                filler = small_disk / "filler"
                free = os.statvfs(small_disk)
                filler.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - 500_000)))
            if number == 6:
                with pytest.raises(OSError, match="No space"):
                    fill(filler)
        assert refused
        assert rig.request("GET", "/livez")[0] == 200
        parts = [path.name for path in (small_disk / "state").rglob(".part-*")]
        assert parts == []
        filler.unlink()
        for job in taken:
            assert rig.settled(job)["status"] == "done"
        wait_for(lambda: rig.get("/readyz")[0] == 200)
        for data in refused:  # one after the other: what waits needs space, too
            status, value = rig.post(data)
            assert status == 202
            rig.settled(value["job"])
        assert rig.service.journal.counts()["done"] <= len(taken) + len(refused)


# --- the clock -----------------------------------------------------------------------------------


def test_a_clock_that_is_set_late_removes_nothing(tmp_path, monkeypatch):
    """A board without a battery wakes in 1970, answers, and is then told the time."""
    real, shift, uptime = time.time, [-real_seconds_since_1970()], [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    with running(settings(tmp_path), work=False) as rig:
        rig.service.clock = ClockCheck(lambda: time.monotonic() + uptime[0])
        rig.thread.start()
        job = rig.post(b"image 1")[1]["job"]
        assert rig.settled(job)["answered_at"].startswith("1970-01-01")
        rig.service.forget_old()
        shift[0] = 0.0
        rig.service.forget_old()  # the jump is seen, and nothing is removed for a day
        assert rig.service.metrics.value("clock_jumps_total") == 1
        assert rig.get("/v1/jobs/" + job)[0] == 200
        uptime[0] = DAY_S
        shift[0] = DAY_S  # both clocks went on for a day
        rig.service.forget_old()
        assert rig.get("/v1/jobs/" + job)[1]["changed_at"][:4] != "1970"
        assert rig.settled(job)["status"] == "done"
        with rig.service.journal.transaction() as database:
            database.execute("UPDATE jobs SET changed_at=?", (time.time() - 31 * DAY_S,))
        rig.service.forget_old()
        assert rig.get("/v1/jobs/" + job)[0] == 404  # what is old indeed does go


def real_seconds_since_1970():
    return time.time() - 600.0


def test_a_clock_that_is_mistaken_by_a_century_removes_nothing(tmp_path, monkeypatch):
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    with running(settings(tmp_path)) as rig:
        job = rig.post(b"image 1")[1]["job"]
        rig.settled(job)
        for shift[0] in (100 * 365 * DAY_S, 0.0):
            rig.service.forget_old()
        assert rig.get("/v1/jobs/" + job)[0] == 200
        assert rig.service.metrics.value("clock_jumps_total") == 2


# --- signals and configuration -------------------------------------------------------------------


@pytest.mark.slow
def test_hanging_up_stops_as_sigterm_does_and_a_second_signal_ends_at_once(tmp_path, start):
    daemon = start()
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.process.wait(60) == 0
    assert daemon.lines()[-1]["event"] == "stopped"
    daemon = start(name="second")
    jobs = [daemon.send(film(tmp_path / "a", i, str(i)).read_bytes()) for i in range(4)]
    daemon.process.send_signal(signal.SIGINT)
    daemon.process.send_signal(signal.SIGTERM)  # another one: of one kind, two may become one
    assert daemon.process.wait(60) in (0, 130)
    daemon = start(name="third")
    assert {daemon.result(job)["status"] for job in jobs} == {"done"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threshold = nonsense\n", "nonsense"),
        (
            "engine = onnxruntime\n[rest]\ntls_cert = {tmp}/none\ntls_key = {tmp}/none\n",
            "TLS files",
        ),
        ("[rest]\ntoken_file = {tmp}/none\n", "Token cannot be read"),
    ],
)
def test_what_is_wrong_in_the_configuration_is_78_wherever_it_is_found(tmp_path, text, words):
    path = tmp_path / "d.ini"
    head = f"[daemon]\nbundle = {BUNDLE}\nstate = {tmp_path}/state\n"
    path.write_text(head + text.format(tmp=tmp_path))
    done = subprocess.run(
        [PYTHON, "-m", "deploy_jetson.device.daemon", "--config", str(path)],
        capture_output=True, encoding="utf-8", check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert words in done.stderr.splitlines()[-1]


# --- callers -------------------------------------------------------------------------------------


def test_the_error_for_a_form_names_what_to_send_instead(tmp_path):
    with running(settings(tmp_path), work=False) as rig:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        status, body = rig.request("POST", "/v1/images", b"--x\r\n", kind)
        assert status == 415
        assert "--data-binary" in json.loads(body)["expected"]
        assert rig.service.journal.waiting()[0] == 0


@pytest.fixture
def networked(tmp_path, request):
    """A daemon that takes two associations and waits `timeout_s` for anyone; and how to call it."""
    pytest.importorskip("pynetdicom")
    from pynetdicom import AE

    from deploy_jetson.device.daemon.settings import DicomSettings

    entity = AE()
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.1.1")
    entity.add_requested_context("1.2.840.10008.1.1")
    dicom = DicomSettings(port=0, aet="PNEUMO", timeout_s=request.param, max_associations=2)
    with running(settings(tmp_path, dicom=dicom), work=False) as rig:

        def associate():
            link = entity.associate("127.0.0.1", rig.service.ports["dicom"], ae_title="PNEUMO")
            assert link.is_established
            return link

        yield rig, associate


def begin_pdu(link, size):
    """The head of a P-DATA-TF; the connection under an association."""
    raw = link.dul.socket.socket
    raw.sendall(b"\x04\x00" + struct.pack(">I", size))
    return raw


@pytest.mark.slow
@pytest.mark.parametrize("networked", [2], indirect=True)
def test_a_caller_that_sends_slowly_is_cut_and_delays_no_other(networked):
    rig, associate = networked
    raw = begin_pdu(associate(), 1000)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        other = associate()
        assert other.send_c_echo().Status == 0
        other.release()
        try:
            raw.sendall(b"\0")  # a byte now and then keeps no connection open
        except OSError:
            break
        time.sleep(0.5)
    assert time.monotonic() < end, "still connected"
    assert sum(rig.service.journal.counts().values()) == 0
    wait_for(lambda: rig.service.interfaces["dicom"].connections == 0)


@pytest.mark.parametrize("networked", [3600], indirect=True)
def test_what_is_announced_without_measure_is_not_waited_for(networked):
    """It ends although no time-out of an hour is over."""
    rig, associate = networked
    begin_pdu(associate(), 0xFFFFFFF0)
    wait_for(lambda: rig.service.interfaces["dicom"].connections == 0)


def test_the_daemon_stops_while_a_caller_is_silent(tmp_path, start):
    daemon = start("[dicom]\nport = 0\n")
    with socket.create_connection(("127.0.0.1", daemon.ports["dicom"])) as link:
        link.sendall(b"\x01\x00" + struct.pack(">I", 500) + b"half")
        time.sleep(0.5)
        assert daemon.end() == 0


@pytest.mark.parametrize("where", ["association", "answer"])
def test_an_archive_that_falls_silent_does_not_hold_the_sender(tmp_path, where):
    """It accepts the connection, or the object, and then half an answer is all there ever is."""
    pytest.importorskip("pynetdicom")
    from deploy_jetson.device.daemon.interfaces.dicom_send import ResultSender
    from deploy_jetson.device.daemon.settings import (
        ResultDestination,
        ResultsSettings,
        RetrySettings,
    )

    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = ResultDestination(
            "127.0.0.1", silent.getsockname()[1], "PEER", kinds=("sr",), timeout_s=1
        )
        config = settings(tmp_path / "state", results=ResultsSettings(("sr",)))
        with running(config, child=True) as rig:
            job = rig.post(film(tmp_path / "a.dcm").read_bytes())[1]["job"]
            rig.settled(job)
            service = rig.service
            service.journal.mark_answered(job, "done", "", [("pacs", "sr")])
            sender = ResultSender(
                "pacs", peer, RetrySettings(), service.spool, service.journal, service.metrics
            )
            worker = threading.Thread(target=sender.send_due, daemon=True)
            worker.start()
            with silent.accept()[0] as link:
                request = link.recv(1 << 16)
                if where == "answer":
                    link.sendall(accepting(request))
                    link.recv(1 << 16)
                    link.sendall(b"\x04\x00\x00\x00\x01\x00half")
                else:
                    link.sendall(b"\x02\x00\x00\x00\x01\x00half")
                worker.join(60)
            assert not worker.is_alive()
            (sent,) = service.journal.deliveries_of(job)
            assert (sent.state, sent.attempts) == ("pending", 1)


def accepting(request):
    """A-ASSOCIATE-AC for an A-ASSOCIATE-RQ: its only context in Explicit VR Little Endian."""

    def item(kind, body):
        return bytes([kind, 0]) + struct.pack(">H", len(body)) + body

    syntax = item(0x40, b"1.2.840.10008.1.2.1")
    context = item(0x21, bytes([1, 0, 0, 0]) + syntax)
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))
    body = request[6:74] + item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    return b"\x02\x00" + struct.pack(">I", len(body)) + body


# --- files ---------------------------------------------------------------------------------------

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def _plain(path, **tags):
    save(path, chest_dataset(RAMP, **tags))


def _cut(path):
    _plain(path)
    path.write_bytes(path.read_bytes()[:-50])


def _rle_bomb(path):
    """RLE of nothing that says 16,000 x 16,000 and unpacks to a hundred million bytes."""
    dataset = chest_dataset(RAMP)
    dataset.Rows = dataset.Columns = 16000
    segment = b"\x81\x00" * 400_000
    save_compressed(path, dataset, struct.pack("<16I", 1, 64, *[0] * 14) + segment, dicoms.RLE)


def _other_size(path):
    dataset = chest_dataset(RAMP)
    dataset.Rows = 32
    save_compressed(path, dataset, dicoms.jpeg_bytes(RAMP))


HOSTILE = {
    "empty text": (lambda path: path.write_bytes(b"hello\n" * 40), "rejected", "not_dicom"),
    "random": (lambda path: path.write_bytes(bytes(range(256)) * 8), "rejected", "not_dicom"),
    "preamble alone": (
        lambda path: path.write_bytes(b"\0" * 128 + b"DICM"), "rejected", "no_sop_instance"),
    "executable preamble": (
        lambda path: save(path, chest_dataset(RAMP), preamble=b"MZ".ljust(128, b"\0")), "read", ""),
    "pixel data cut": (_cut, "failed", "pixel_data_truncated"),
    "no rows": (lambda path: _plain(path, Rows=None), "rejected", "rows"),
    "bits": (lambda path: _plain(path, BitsAllocated=12), "rejected", "bits_allocated"),
    "no pixels": (lambda path: _plain(path, PixelData=None), "rejected", "pixel_data"),
    "deflated": (
        lambda path: save(path, chest_dataset(RAMP), dicoms.DEFLATED), "rejected", "deflated"),
    "rle bomb": (_rle_bomb, "rejected", "resource_limit"),
    "another size inside": (_other_size, "failed", "dimension_mismatch"),
    "frames": (
        lambda path: save(path, chest_dataset(np.stack([RAMP] * 3))), "rejected", "multi_frame"),
}  # fmt: skip


@pytest.fixture(scope="module")
def child():
    limits = ChildLimits(ReadLimits(max_file_bytes=LIMIT), memory_mb=1024, seconds=120)
    decoder = DecodingChild(limits)
    yield decoder
    decoder.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pathological_file_gets_a_reason_and_the_next_one_is_read(child, tmp_path, name):
    make, status, reason = HOSTILE[name]
    make(tmp_path / "x.dcm")
    found = child.decode(str(tmp_path / "x.dcm"))
    assert (found.status, found.reason) == (status, reason)
    processes = child_processes()
    assert child.decode(str(film(tmp_path / "good.dcm"))).status == "read"
    assert child_processes() == processes  # and no child was lost over it


# --- nobody's name -------------------------------------------------------------------------------


def test_no_name_gets_out_by_any_door(tmp_path, start):
    """At the most talkative level, through folder, HTTP and DICOM, in what is read and what not."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    daemon = start(
        f"[watch]\nfolder = {inbox}\nquiet_s = 0.1\nscan_s = 0.1\n[dicom]\nport = 0\n"
        "[results]\ndicom = sr,gsps,sc\n"
        f"[destination pacs]\nhost = 127.0.0.1\nport = 9\naet = PACS\n"
        "[retry]\nfirst_s = 0.1\n"
    )
    texts = ("PatientID", "AccessionNumber", "StudyDescription", "InstitutionName", "StudyID")
    tags = {"PatientName": CANARY, **dict.fromkeys(texts, CANARY)}
    film(inbox / f"{CANARY} 1.dcm", 1, "1", **tags)
    (inbox / f"{CANARY}.txt").write_bytes(b"CANARY^PHI is no image")
    (inbox / f"{CANARY}.empty").write_bytes(b"")
    cut = film(tmp_path / "cut", 2, "2", **tags).read_bytes()[:-400]
    daemon.ask("POST", f"/v1/images?name={CANARY}", cut)
    daemon.ask("GET", f"/{CANARY}")
    with socket.create_connection(("127.0.0.1", daemon.ports["rest"])) as link:
        link.sendall(CANARY.encode() + b" / HTTP/1.1\r\n\r\n")
        link.recv(100)
    with socket.create_connection(("127.0.0.1", daemon.ports["dicom"])) as link:
        link.sendall(b"\x01\x00" + struct.pack(">I", 10) + CANARY.encode())

    def answered():
        counts = json.loads(daemon.ask("GET", "/v1/jobs")[1])["counts"]
        return counts["done"] == 1 and counts["rejected"] == 1 and counts["failed"] == 1

    wait_for(answered)
    wait_for(lambda: any(line["event"] == "not_reached" for line in daemon.lines()))
    told = [daemon.ask("GET", path)[1] for path in ("/metrics", "/v1/jobs", "/readyz")]
    assert daemon.end() == 0
    told.append(daemon.log.read_bytes())
    answers = [path.read_bytes() for path in (daemon.state / "results").iterdir()]
    assert len(answers) == 3
    for data in told + answers:
        assert b"CANARY" not in data
    for data in told:  # nor a UID, where anybody may look
        assert b"1.2.826.0.1.3680043.10.999" not in data
    names = [path.name for path in daemon.state.rglob("*")]
    assert not any("CANARY" in name for name in names)
