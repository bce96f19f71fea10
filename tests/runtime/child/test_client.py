"""A child process that crashes, hangs or eats memory costs one image."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pneumonia.runtime.child import ChildLimits, DecodingChild, FileRequest, Wanted
from pneumonia.runtime.child.memory_file import memory_file, put_bytes, take_bytes
from pneumonia.runtime.image.read_limits import ReadLimits
from pneumonia.runtime.results import header_from_bytes
from tests.runtime.dicoms import chest_dataset, save
from tests.support.processes import child_processes
from tests.support.waiting import wait_for
from tests.support.warm_child import ODD

BUNDLE = Path(__file__).parents[3] / "pneumonia" / "models" / "default"
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture(scope="module")
def odd():
    with DecodingChild(ChildLimits(command=ODD, seconds=120)) as worker:
        yield worker


def dicom(folder, name):
    return str(save(folder / name, chest_dataset(RAMP, AccessionNumber="A1", StudyDate="20200102")))


def test_pixels_facts_and_identity(tmp_path):
    path = dicom(tmp_path, "a.dcm")
    with DecodingChild(ChildLimits()) as worker:
        found = worker.decode(path)
        again = worker.decode(path, found.sha256)
    np.testing.assert_array_equal(found.pixels, RAMP)
    assert found.status == "read"
    assert found.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert found.n_bytes == Path(path).stat().st_size
    assert found.info["view"] == "PA"
    assert found.identity["AccessionNumber"] == "A1"
    assert found.identity["StudyDate"] == "20200102"
    assert (again.status, again.pixels) == ("known", None)


@pytest.mark.parametrize("name", ["pneumonia", "numpy", "runpy", "gdcm", "dl"])
def test_nothing_is_imported_from_the_working_directory(tmp_path, monkeypatch, name):
    path = dicom(tmp_path, "a.dcm")
    planted = tmp_path / name
    planted.mkdir()
    (planted / "__init__.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    with DecodingChild(ChildLimits()) as worker:
        assert worker.decode(path).status == "read"
    assert not (tmp_path / "planted").exists()


def test_a_header_travels_when_it_is_wanted(tmp_path):
    path = dicom(tmp_path, "a.dcm")
    with DecodingChild(ChildLimits()) as worker:
        assert worker.decode(path).header == b""
    with DecodingChild(ChildLimits(), Wanted(header=True)) as worker:
        found = worker.decode(path)
    assert header_from_bytes(found.header).AccessionNumber == "A1"


@pytest.mark.parametrize("name", ["abort.dcm", "greedy.dcm"])
def test_a_crash_costs_one_image(tmp_path, odd, name):
    found = odd.decode(dicom(tmp_path, name))
    expected = {
        "abort.dcm": ("failed", "decoder_crash"),
        "greedy.dcm": ("rejected", "resource_limit"),
    }
    assert (found.status, found.reason) == expected[name]
    assert found.pixels is None
    after = odd.decode(dicom(tmp_path, "fine.dcm"))
    np.testing.assert_array_equal(after.pixels, RAMP)


def test_a_hang_is_ended(tmp_path):
    with DecodingChild(ChildLimits(command=ODD, seconds=0.5)) as worker:
        found = worker.decode(dicom(tmp_path, "hang.dcm"))
        assert (found.status, found.reason) == ("failed", "decode_timeout")
        # on a busy machine half a second may be too short for this one, too: then the next time
        wait_for(lambda: worker.decode(dicom(tmp_path, "fine.dcm")).status == "read")


def test_files_asked_for_ahead_come_in_order_and_with_their_own_pixels(tmp_path):
    """More images than there are memory files, of several sizes; one is known, one is damaged."""
    images = [np.full((8 + n, 16), n, np.uint8) for n in range(6)]
    paths = [save(tmp_path / f"{n}.dcm", chest_dataset(image)) for n, image in enumerate(images)]
    known = hashlib.sha256(paths[2].read_bytes()).hexdigest()
    paths[4].write_bytes(paths[4].read_bytes()[:200])
    asked = [FileRequest(str(path), known if n == 2 else "") for n, path in enumerate(paths)]
    with DecodingChild(ChildLimits()) as worker:
        found = [
            worker.decode(*request, following)
            for request, following in zip(asked, [*asked[1:], None], strict=True)
        ]
    assert [f.status for f in found] == ["read", "read", "known", "read", "rejected", "read"]
    for n in (0, 1, 3, 5):
        np.testing.assert_array_equal(found[n].pixels, images[n])


@pytest.mark.parametrize("name", ["abort.dcm", pytest.param("hang.dcm", marks=pytest.mark.slow)])
def test_a_crash_ahead_costs_the_image_that_crashed(tmp_path, name):
    fine, bad = dicom(tmp_path, "fine.dcm"), dicom(tmp_path, name)
    reason = {"abort.dcm": "decoder_crash", "hang.dcm": "decode_timeout"}[name]
    with DecodingChild(ChildLimits(command=ODD, seconds=5)) as worker:
        first = worker.decode(fine, following=FileRequest(bad))
        np.testing.assert_array_equal(first.pixels, RAMP)
        assert worker.decode(bad, following=FileRequest(fine)).reason == reason
        np.testing.assert_array_equal(worker.decode(fine).pixels, RAMP)


def test_another_file_than_the_one_asked_for_ahead(tmp_path):
    ahead, other = dicom(tmp_path, "ahead.dcm"), tmp_path / "other.dcm"
    save(other, chest_dataset(RAMP[::-1]))
    with DecodingChild(ChildLimits()) as worker:
        worker.decode(ahead, following=FileRequest(ahead))
        np.testing.assert_array_equal(worker.decode(str(other)).pixels, RAMP[::-1])
        worker.decode(ahead, following=FileRequest(ahead))
        assert worker.look(str(other)).info["view"] == "PA"


@pytest.mark.parametrize("with_memfd", [True, False])
def test_pixels_of_a_large_image_keep_no_memory(monkeypatch, with_memfd):
    if not with_memfd:  # Python 3.6
        monkeypatch.delattr("os.memfd_create")
    for n_bytes, kept in ((100, 100), (9 << 20, 0)):
        data = bytes(range(100)) * (n_bytes // 100)
        with memory_file("test") as stream:
            put_bytes(stream.fileno(), memoryview(data))
            assert take_bytes(stream.fileno(), len(data)) == data
            assert os.fstat(stream.fileno()).st_size == kept


def test_pixels_that_find_no_space_or_are_missing():
    with open("/dev/full", "wb") as full, pytest.raises(MemoryError):
        put_bytes(full.fileno(), memoryview(b"pixels"))
    with memory_file("test") as stream, pytest.raises(ValueError, match="missing"):
        take_bytes(stream.fileno(), 1)


def test_a_decoder_that_prints_does_not_disturb(tmp_path, odd, capfd):
    found = odd.decode(dicom(tmp_path, "noisy.dcm"))
    np.testing.assert_array_equal(found.pixels, RAMP)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_refusals_come_with_the_files_hash(tmp_path, odd, content):
    (tmp_path / "x.dcm").write_bytes(content)
    found = odd.decode(str(tmp_path / "x.dcm"))
    assert (found.status, found.reason) == ("rejected", "not_dicom")
    assert len(found.sha256) == 64
    missing = odd.decode(str(tmp_path / "none.dcm"))
    assert (missing.status, missing.reason, missing.sha256) == ("failed", "unreadable", "")


def test_a_command_that_is_no_worker_is_a_crash_not_an_exception(tmp_path):
    for script in ("pass", "import sys; sys.stdout.write('x' * 9999); sys.stdout.flush(); input()"):
        with DecodingChild(ChildLimits(command=(sys.executable, "-c", script))) as worker:
            assert worker.decode(dicom(tmp_path, "a.dcm")).reason == "decoder_crash"


def test_limits_reach_the_child(tmp_path):
    with DecodingChild(ChildLimits(read=ReadLimits(max_pixels=255))) as worker:
        found = worker.decode(dicom(tmp_path, "a.dcm"))
    assert (found.status, found.reason) == ("rejected", "resource_limit")
    assert found.info == {"modality": "DX", "view": "PA", "body_part": "CHEST"}


def test_close_ends_the_child(tmp_path):
    before = child_processes()
    worker = DecodingChild(ChildLimits())
    worker.decode(dicom(tmp_path, "a.dcm"))
    assert len(child_processes() - before) == 1
    worker.close()
    assert child_processes() == before
    worker.close()


def test_the_callers_side_loads_without_pydicom():
    """pydicom loads `requests`, which the child leaves out; it can do so only before pydicom."""
    code = "import pneumonia.runtime.child, sys; print('pydicom' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=180
    )
    assert done.stdout == "False\n"
