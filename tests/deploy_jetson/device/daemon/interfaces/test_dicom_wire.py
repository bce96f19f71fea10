"""What the C-STORE service answers to contradictory and excessive requests, byte for byte."""

import contextlib
import socket
import struct
import subprocess
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
from tests.deploy_jetson.device.daemon.rig import wait_for
from tests.peers import free_port, peer
from tests.runtime.dicoms import BIG, DX, IMPLICIT, LITTLE, chest_dataset, save

UID = "1.2.826.0.1.3680043.10.999.1.1.1"
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


# --- DICOM by hand -------------------------------------------------------------------------------


def item(kind, body):
    return bytes([kind, 0]) + struct.pack(">H", len(body)) + body


def unit(kind, body):
    return bytes([kind, 0]) + struct.pack(">I", len(body)) + body


def context(number, syntaxes, abstract=DX):
    names = item(0x30, abstract.encode()) + b"".join(item(0x40, one.encode()) for one in syntaxes)
    return item(0x20, bytes([number, 0, 0, 0]) + names)


def association(items, user=b"", called="PNEUMO"):
    head = struct.pack(">HH", 1, 0) + called.ljust(16).encode() + b"PEER".ljust(16) + bytes(32)
    head += item(0x10, b"1.2.840.10008.3.1.1.1") + items
    user = item(0x51, struct.pack(">I", 65536)) + item(0x52, b"1.2.3") + user
    return unit(0x01, head + item(0x50, user))


def exactly(link, size):
    data = b""
    while len(data) < size:
        block = link.recv(size - len(data))
        if not block:
            raise ConnectionError
        data += block
    return data


def receive(link):
    """Type and contents of a unit."""
    kind, _, size = struct.unpack(">BBI", exactly(link, 6))
    return kind, exactly(link, size)


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=30)


@contextlib.contextmanager
def associated(port, syntax=LITTLE, abstract=DX):
    with connect(port) as link:
        link.sendall(association(context(1, [syntax], abstract)))
        assert receive(link)[0] == 0x02
        yield link
        link.sendall(unit(0x05, bytes(4)))  # release
        assert receive(link)[0] == 0x06


def element(tag, value):
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def even(text):
    return text.encode() + b"\0" * (len(text) % 2)


def command(sop_class, instance, has_data=True):
    elements = element(0x00000002, even(sop_class)) + element(0x00000100, b"\1\0")
    elements += element(0x00000110, b"\1\0") + element(0x00000700, b"\0\0")
    elements += element(0x00000800, b"\0\0" if has_data else b"\1\1")
    elements += element(0x00001000, even(instance))
    return element(0x00000000, struct.pack("<I", len(elements))) + elements


def store(link, sop_class, instance, data):
    """The status of a C-STORE; `data` None: the command says that there is no data set."""
    parts = [(3, command(sop_class, instance, data is not None))]
    if data is not None:
        parts += [(2, data)]
    for flags, part in parts:
        link.sendall(unit(0x04, struct.pack(">IBB", len(part) + 2, 1, flags) + part))
    kind, answer = receive(link)
    assert kind == 0x04
    status = answer.index(element(0x00000900, b"")[:4])
    return struct.unpack("<H", answer[status + 8 : status + 10])[0]


def data_set(tmp_path, syntax=LITTLE, **tags):
    path = save(tmp_path / "x.dcm", chest_dataset(np.zeros((8, 8), np.uint16), **tags), syntax)
    data = path.read_bytes()
    return data[144 + struct.unpack("<I", data[140:144])[0] :]


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
    assert seconds < 0.5


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
        with associated(archive.service.port):
            pass


def test_idle_connections_keep_no_sender_out(tmp_path, monkeypatch):
    """And associations are left alone."""
    monkeypatch.setattr(dicom_receive, "MAX_IDLE", 4)
    good = data_set(tmp_path)
    with serving(timeout_s=600, max_associations=2) as archive, contextlib.ExitStack() as stack:
        with associated(archive.service.port) as early:
            for number in range(12):
                link = stack.enter_context(connect(archive.service.port))
                link.sendall(b"\1\0\0\0\1\0half"[: number % 3 * 5])
            with associated(archive.service.port) as link:
                assert store(link, DX, UID, good) == 0x0000
            assert store(early, DX, UID, good) == 0x0000
        wait_for(lambda: archive.refused["too_many_connections"] >= 8)  # counted in its own thread
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
