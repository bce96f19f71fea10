"""Whether a file lost something to compression, whatever its header says."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image, features

from pneumonia.runtime.results import source_header
from pneumonia.runtime.results.header import lossy_method
from tests.runtime.dicoms import J2K, JPEG, LITTLE, blurred, chest_dataset, save, save_compressed

PIXELS = blurred()
ANY_J2K, LS, NEAR_LS = (f"1.2.840.10008.1.2.4.{number}" for number in (91, 80, 81))


def encoded(kind, **options):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


def stated(tmp_path, frame, syntax, **tags):
    path = save_compressed(tmp_path / "in.dcm", chest_dataset(PIXELS, **tags), frame, syntax)
    header = source_header(pydicom.dcmread(path, stop_before_pixels=True), path.read_bytes())
    return tuple(header.get(f"LossyImageCompression{part}") for part in ("", "Method", "Ratio"))


def test_jpeg_lost_something_though_the_header_denies_it(tmp_path):
    frame = encoded("JPEG", quality=50)
    for tags in ({}, {"LossyImageCompression": "00"}):
        lossy, method, ratio = stated(tmp_path, frame, JPEG, **tags)
        assert (lossy, method) == ("01", "ISO_10918_1")
        assert 1 <= float(ratio) < PIXELS.size / len(frame)


def test_what_the_header_states_is_kept(tmp_path):
    tags = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 12,
            "LossyImageCompressionMethod": "ISO_15444_1"}  # fmt: skip
    frame = encoded("JPEG")
    assert stated(tmp_path, frame, JPEG, **tags) == ("01", "ISO_15444_1", 12)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow without JPEG 2000")
@pytest.mark.parametrize(("irreversible", "lossy"), [(True, "01"), (False, None)])
def test_jpeg_2000_says_in_its_stream_whether_it_is_reversible(tmp_path, irreversible, lossy):
    frame = encoded("JPEG2000", irreversible=irreversible, no_jp2=True)
    assert stated(tmp_path, frame, ANY_J2K)[0] == lossy
    assert stated(tmp_path, frame, J2K)[0] is None  # the syntax is lossless


def test_jpeg_ls_says_how_far_samples_may_differ(tmp_path):
    jpeg_ls = pytest.importorskip("jpeg_ls")
    for near, lossy in ((0, None), (3, "01")):
        frame = bytes(jpeg_ls.encode_array(np.ascontiguousarray(PIXELS), lossy_error=near))
        assert stated(tmp_path, frame, NEAR_LS)[0] == lossy


@pytest.mark.parametrize("syntax", [LITTLE, LS, "", "1.2.3"])
def test_what_loses_nothing(syntax):
    assert lossy_method(syntax, b"") == ""


def test_an_uncompressed_image_stays_as_stated(tmp_path):
    path = save(tmp_path / "in.dcm", chest_dataset(PIXELS))
    header = source_header(pydicom.dcmread(path), path.read_bytes())
    assert "LossyImageCompression" not in header


@pytest.mark.parametrize("data", [b"", b"\xff\x4f\xff\x51", b"\xff\xd8\xff\xda\x00", b"\xff" * 50])
def test_damaged_streams_are_not_called_lossy(data):
    assert lossy_method(ANY_J2K, data) == ""
    assert lossy_method(NEAR_LS, data) == ""
