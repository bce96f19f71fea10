"""What the C-STORE service answers to contradictory and excessive requests, byte for byte.

Spans: deploy_jetson.device.daemon.interfaces.association_limits,
deploy_jetson.device.daemon.interfaces.dicom_receive,
deploy_jetson.device.daemon.interfaces.store_request.
"""

import contextlib
import struct
import subprocess
import threading
import time
from collections import Counter

import numpy as np
import pydicom
import pytest

pytest.importorskip("pynetdicom")

from deploy_jetson.device.daemon.interfaces import association_limits as limits
from deploy_jetson.device.daemon.interfaces import dicom_receive
from deploy_jetson.device.daemon.interfaces.dicom_receive import StoreService
from deploy_jetson.device.daemon.interfaces.store_request import named_instance
from deploy_jetson.device.daemon.settings import DicomSettings
from deploy_jetson.device.daemon.store.intake import AcceptedImage, IntakeRefused
from tests.deploy_jetson.device.daemon.interfaces.dicom_wire import (
    UID,
    associated,
    association,
    connect,
    context,
    data_set,
    item,
    receive,
    store,
    unit,
)
from tests.runtime.dicoms import BIG, DX, IMPLICIT, LITTLE, chest_dataset, save
from tests.support.peers import free_port, peer
from tests.support.waiting import wait_for

CR = "1.2.840.10008.5.1.4.1.1.1"


class Job:
    key, state = "0" * 32, "received"


class Archive:
    """A C-STORE service without a daemon behind it, and a clock to turn."""

    def __init__(self, **settings):
        self.now = 0.0
        self.taken = []
        self.failure = None
        self.refused = Counter()
        self.lock = threading.Lock()
        self.service = StoreService(
            DicomSettings(port=0, aet="PNEUMO", **settings), None, 10_000_000, self.accept,
            self.refuse, lambda: self.now,
        )  # fmt: skip

    def accept(self, blocks):
        if self.failure:
            raise self.failure
        self.taken.append(b"".join(blocks))
        return AcceptedImage(Job, False)

    def refuse(self, reason):
        with self.lock:
            self.refused[reason] += 1


@contextlib.contextmanager
def serving(**settings):
    archive = Archive(**settings)
    archive.service.start()
    try:
        yield archive
    finally:
        archive.service.stop()


@pytest.fixture
def archive():
    with serving() as one:
        yield one


# --- request and data set ------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [LITTLE, IMPLICIT])
def test_a_request_is_compared_with_its_data_set(archive, tmp_path, syntax):
    """The statuses of PS3.4 B.2.3; one refusal does not end the association."""
    good = data_set(tmp_path, syntax)
    no_class = data_set(tmp_path, syntax, SOPClassUID=None)
    no_uid = data_set(tmp_path, syntax, SOPInstanceUID=None)
    cases = [
        (DX, UID, None, 0xC000, "no_data_set"),
        (DX, UID, b"", 0xC000, "no_data_set"),
        (DX, UID + ".9", good, 0xA900, "instance_mismatch"),
        (DX, UID, data_set(tmp_path, syntax, SOPClassUID=CR), 0xA900, "class_mismatch"),
        (CR, UID, good, 0x0122, "class_mismatch"),
        (DX, UID, no_class, 0xC000, "cannot_understand"),
        (DX, UID, no_uid, 0xC000, "cannot_understand"),
        (DX, UID, b"\xff" * 300, 0xC000, "cannot_understand"),
        (DX, UID, good[:9], 0xC000, "cannot_understand"),
    ]
    with associated(archive.service.port, syntax) as link:
        for sop_class, instance, data, status, reason in cases:
            archive.refused.clear()
            assert store(link, sop_class, instance, data) == status, (reason, data)
            assert archive.refused == {reason: 1}
        assert archive.taken == []
        assert store(link, DX, UID, good) == 0x0000
    assert archive.taken[0].endswith(good)


@pytest.mark.parametrize(("later", "status"), [(True, 0xA700), (False, 0xC000)])
def test_intake_decides_between_come_again_and_not_understood(archive, tmp_path, later, status):
    archive.failure = IntakeRefused("reason", later)
    with associated(archive.service.port) as link:
        assert store(link, DX, UID, data_set(tmp_path)) == status


@pytest.mark.interop
def test_dcmtk_refuses_the_same(tmp_path):
    """dcmtk's storescp, the judge: 0xA900 for another instance and for another class."""
    port = free_port()
    process = subprocess.Popen(
        [peer("storescp"), "-od", str(tmp_path), "-aet", "PNEUMO", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def is_up():
        with contextlib.suppress(OSError), connect(port):
            return True

    try:
        wait_for(is_up)
        other = data_set(tmp_path, SOPClassUID=CR)
        for instance, data in ((UID + ".9", data_set(tmp_path)), (UID, other)):
            with associated(port) as link:
                assert store(link, DX, instance, data) == 0xA900
    finally:
        process.kill()
        process.wait()


def test_names_are_read_in_every_encoding_and_behind_a_sequence(tmp_path):
    for syntax in (LITTLE, IMPLICIT, BIG):
        language = pydicom.Dataset()
        language.CodeValue = "en"
        dataset = chest_dataset(np.zeros((8, 8), np.uint8), LanguageCodeSequence=[language])
        data = save(tmp_path / "y.dcm", dataset, syntax).read_bytes()
        start = data[144 + struct.unpack("<I", data[140:144])[0] :]
        assert named_instance(start, syntax) == (DX, UID)


# --- associations --------------------------------------------------------------------------------

SYNTAXES = [LITTLE, IMPLICIT]
EXCESS = {
    "contexts": association(b"".join(context(1, SYNTAXES) for _ in range(2000))),
    "empty contexts": association(item(0x20, b"\1\0\0\0") * 30_000),
    "syntaxes": association(context(1, ["1.2"] * 9000)),
    "syntaxes in all": association(b"".join(context(2 * i + 1, ["1"] * 66) for i in range(128))),
    "roles": association(context(1, SYNTAXES), item(0x54, b"\0\0031.2\1\1") * 4000),
    "user items": association(context(1, SYNTAXES) + item(0x50, b"") * 50_000),
    "a long item": association(context(1, SYNTAXES) + item(0x77, bytes(65000)) * 5),
    "a long answer": b"\2" + association(context(1, ["1"] * 10_000))[1:],
    "announced": b"\1\0\xff\xff\xff\xff",
    "announced data": b"\4\0\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", EXCESS)
def test_an_excessive_request_costs_little_and_is_aborted(archive, name):
    with connect(archive.service.port) as link:
        started = time.process_time()  # of this process: client and service
        with contextlib.suppress(OSError):
            link.sendall(EXCESS[name])
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = link.recv(100)
        seconds = time.process_time() - started
    assert answer in (limits.ABORT, b"")  # nothing where the connection was reset
    assert archive.refused == {"protocol_limit": 1}
    assert seconds < 2  # unbounded, pynetdicom takes far longer; a busy machine several times more


def test_the_largest_association_that_is_of_use_is_accepted(archive):
    every = [LITTLE, IMPLICIT, *(f"1.2.840.10008.1.2.4.{number}" for number in range(50, 112))]
    offers = b"".join(context(2 * number + 1, every) for number in range(128))
    with connect(archive.service.port) as link:
        link.sendall(association(offers, item(0x54, b"\0\0031.2\1\1") * 400))
        assert receive(link)[0] == 0x02
        link.sendall(unit(0x05, bytes(4)))
        assert receive(link)[0] == 0x06
    assert archive.refused == {}


@pytest.mark.slow
def test_connections_that_come_and_go_take_no_places():
    """The health checks of a load balancer: each kept a place for the whole time limit."""
    with serving(timeout_s=600, max_associations=2) as archive:
        for _ in range(30):
            connect(archive.service.port).close()
        port = archive.service.port
        with associated(port), associated(port), connect(port) as third:
            third.sendall(association(context(1, SYNTAXES)))
            assert receive(third) == (0x03, b"\0\x02\x03\x02")  # local limit exceeded
        wait_for(lambda: archive.service.connections == 0)  # both have been released
        with associated(archive.service.port):
            pass


def test_idle_connections_keep_no_sender_out(tmp_path, monkeypatch):
    """And associations are left alone."""
    monkeypatch.setattr(dicom_receive, "MAX_IDLE", 4)
    good = data_set(tmp_path)
    with serving(timeout_s=600, max_associations=2) as archive, contextlib.ExitStack() as stack:
        with associated(archive.service.port) as early:
            assert store(early, DX, UID, good) == 0x0000
            for number in range(12):
                link = stack.enter_context(connect(archive.service.port))
                link.sendall(b"\1\0\0\0\1\0half"[: number % 3 * 5])
            # every one of them has its thread: until those have run, the next may look the oldest
            wait_for(lambda: archive.refused["too_many_connections"] >= 8)
            with associated(archive.service.port) as link:
                assert store(link, DX, UID, good) == 0x0000
            assert store(early, DX, UID, good) == 0x0000
        wait_for(lambda: archive.service.connections <= 4)


def test_rejected_associations_and_addresses_are_counted():
    with serving(allow_aets=("FRIEND",)) as archive:
        for called in ("PNEUMO", "OTHER"):
            with connect(archive.service.port) as link:
                link.sendall(association(context(1, SYNTAXES), called=called))
                assert receive(link)[0] == 0x03
        wait_for(lambda: archive.refused == {"calling_aet": 1, "called_aet": 1})
    with serving(allow=("10.0.0.0/8",)) as archive:
        with connect(archive.service.port) as link, contextlib.suppress(ConnectionError):
            assert link.recv(10) == b""
        assert archive.refused == {"address": 1}


@pytest.mark.parametrize("start", [b"", b"\1\0\0\0\1\0half"])
def test_a_silent_caller_is_cut_at_the_time_limit(start):
    with serving(timeout_s=600) as archive, connect(archive.service.port) as link:
        link.sendall(start)
        wait_for(lambda: archive.service.connections == 1)
        archive.now = 602.0
        with contextlib.suppress(ConnectionError):
            link.recv(100)
        wait_for(lambda: archive.refused == {"timeout": 1})
