"""The decoding child: bombs, crashes and hangs cost one file each.

Spans: pneumonia.runtime.child.
"""

import sys
import zlib

import numpy as np
import pytest

from pneumonia.runtime.child import ChildLimits, DecodingChild, Wanted
from pneumonia.runtime.image.read_limits import ReadLimits
from tests.runtime.dicoms import DEFLATED, chest_dataset, jpeg_bytes, save
from tests.support.processes import child_processes
from tests.support.waiting import wait_for

LIMIT = 64 << 20


def opened(max_file_bytes=LIMIT, **bounds):
    limits = ChildLimits(ReadLimits(max_file_bytes=max_file_bytes), **bounds)
    return DecodingChild(limits, Wanted(header=True))


def film(path, **tags):
    pixels = np.random.default_rng(1).integers(0, 4096, (48, 64)).astype(np.uint16)
    return save(path, chest_dataset(pixels, 12, **tags))


@pytest.fixture
def child():
    decoder = opened(memory_mb=1024, seconds=60)
    yield decoder
    decoder.close()


def resident_mb():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * 4096 / 2**20


def test_a_film(child, tmp_path):
    found = child.decode(str(film(tmp_path / "a.dcm", PatientName="CANARY^PHI")))
    assert found.status == "read"
    assert found.pixels.shape == (48, 64)
    assert found.identity["StudyInstanceUID"] == "1.2.826.0.1.3680043.10.999.1"
    assert found.info["view"] == "PA"
    assert found.header[128:132] == b"DICM"
    assert "CANARY" not in repr(found.info)


def deflate_bomb(path):
    dataset = chest_dataset(np.zeros((8, 8), np.uint16))
    save(path, dataset, DEFLATED)
    head = path.read_bytes()[: 144 + int.from_bytes(path.read_bytes()[140:144], "little")]
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(800)) + squeezer.flush()
    path.write_bytes(head + body)
    assert len(body) < 1 << 20


def big_jpeg(path):
    """A JPEG that says 60,000 x 60,000."""
    data = bytearray(jpeg_bytes(np.zeros((16, 16), np.uint8)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (60000).to_bytes(2, "big") * 2
    path.write_bytes(bytes(data))


def big_header(path):
    dataset = chest_dataset(np.zeros((8, 8), np.uint16))
    dataset.Rows = dataset.Columns = 65535
    save(path, dataset)


@pytest.mark.parametrize("bomb", [deflate_bomb, big_jpeg, big_header])
def test_bombs_are_refused_and_the_daemon_does_not_grow(child, tmp_path, bomb):
    path = tmp_path / "bomb"
    bomb(path)
    before = resident_mb()
    found = child.decode(str(path))
    assert found.status in ("rejected", "failed")
    assert found.reason in ("resource_limit", "transfer_syntax", "deflated", "rows")
    assert resident_mb() - before < 50
    assert child.decode(str(film(tmp_path / "good.dcm"))).status == "read"


def test_an_allocation_beyond_the_limit_costs_the_file(tmp_path):
    decoder = opened(LIMIT * 4, memory_mb=400, seconds=60)
    path = tmp_path / "large.dcm"
    save(path, chest_dataset(np.arange(6000 * 6000, dtype=np.uint16).reshape(6000, 6000)))
    try:
        found = decoder.decode(str(path))
        assert (found.status, found.reason) == ("rejected", "resource_limit")
        assert decoder.decode(str(film(tmp_path / "good.dcm"))).status == "read"
    finally:
        decoder.close()


def test_a_header_that_takes_for_ever_to_parse(tmp_path):
    decoder = opened(LIMIT * 4, seconds=0.5)
    path = film(tmp_path / "long.dcm")
    with path.open("r+b") as stream:  # millions of empty elements, sparse on the disk
        stream.truncate(200 << 20)
    try:
        found = decoder.decode(str(path))
        assert (found.status, found.reason) == ("failed", "decode_timeout")
        good = str(film(tmp_path / "good.dcm"))
        # on a busy machine half a second may be too short for this one, too: then the next time
        wait_for(lambda: decoder.decode(good).status == "read")
    finally:
        decoder.close()


READY = (
    "import json,struct,sys,time,os\n"
    "def say(r,p=b''):\n"
    "    h=json.dumps(r).encode(); sys.stdout.buffer.write(struct.pack('>I',len(h))+h+p)\n"
    "    sys.stdout.buffer.flush()\n"
    "sys.stdin.readline()\n"
    "say({'status':'ready','parts':[]})\n"
    "for line in sys.stdin:\n    "
)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("os.abort()", "decoder_crash"),
        ("time.sleep(600)", "decode_timeout"),
        ("sys.exit(0)", "decoder_crash"),
        ("sys.stdout.buffer.write(b'\\xff'*8); sys.stdout.buffer.flush()", "decoder_crash"),
        ("say({'status':'read','parts':[['pixels',1<<40]],'seconds':0})", "decoder_crash"),
        ("say({'status':'read','parts':[['pixels',4]],'seconds':0,'height':3,'width':3},b'1234')",
         "decoder_crash"),
        ("say(['no','object'])", "decoder_crash"),
    ],
)  # fmt: skip
def test_a_child_that_misbehaves(tmp_path, act, reason):
    command = (sys.executable, "-c", READY + act)
    before = child_processes()
    seconds = 0.5 if reason == "decode_timeout" else 60
    decoder = opened(seconds=seconds, command=command)
    try:
        found = decoder.decode(str(tmp_path / "x"))
        assert (found.status, found.reason) == ("failed", reason)
        assert child_processes() == before
    finally:
        decoder.close()


def test_a_child_that_does_not_start():
    decoder = opened(command=(sys.executable, "-c", "pass"))
    with pytest.raises(OSError, match="does not start"):
        decoder.start()
