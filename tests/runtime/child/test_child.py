"""A child process that crashes, hangs or eats memory costs one image."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pneumonia.runtime.child import ChildLimits, DecodingChild, Wanted
from pneumonia.runtime.image.read_limits import ReadLimits
from pneumonia.runtime.results import header_from_bytes
from tests.processes import child_processes
from tests.runtime.dicoms import chest_dataset, save
from tests.waiting import wait_for
from tests.warm_child import ODD

BUNDLE = Path(__file__).parents[3] / "pneumonia" / "models" / "default"
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture(scope="module")
def odd():
    with DecodingChild(ChildLimits(command=ODD, seconds=120)) as worker:
        yield worker


def dicom(folder, name):
    return str(save(folder / name, chest_dataset(RAMP, AccessionNumber="A1", StudyDate="20200102")))


def test_pixels_facts_and_identity(tmp_path):
    import hashlib

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
