"""A transfer syntax is offered only where this installation decodes it."""

import io

import numpy as np
import pydicom
import pytest

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image import decodable
from pneumonia.runtime.image.decodable import decodable_syntaxes, decodes
from pneumonia.runtime.image.dicom_header import (
    DEFLATED,
    HTJ2K,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    KNOWN_SYNTAXES,
    NATIVE,
    read_header,
)
from pneumonia.runtime.image.dicom_pixels import decode_pixels
from pneumonia.runtime.image.read_limits import DEFAULT_LIMITS
from tests.support.peers import find_peer, run_peer

NEEDS = {
    JPEG_EXTENDED: "gdcm",
    JPEG_LOSSLESS[0]: "gdcm",
    JPEG_LOSSLESS[1]: "gdcm",
    **dict.fromkeys(HTJ2K, "pylibjpeg"),
}


def sample(syntax):
    return decodable.sample_file(syntax, 8 if syntax == decodable.JPEG_BASELINE else 12)


def test_what_is_offered_is_what_decodes():
    offered = decodable_syntaxes()
    assert len(set(offered)) == len(offered)
    assert set(NATIVE) - set(offered) == {DEFLATED}
    for syntax in KNOWN_SYNTAXES:
        if syntax in NATIVE:
            continue
        stream = io.BytesIO(sample(syntax))
        header = read_header(stream, DEFAULT_LIMITS, True)
        if syntax in offered:
            assert decode_pixels(stream, header).values.shape == (8, 8)
            continue
        with pytest.raises(DicomError) as caught:
            decode_pixels(stream, header)
        assert caught.value.reason == "transfer_syntax"
        assert "pip install" in caught.value.fix


@pytest.mark.parametrize("syntax", sorted(NEEDS))
def test_optional_decoders(syntax):
    pytest.importorskip(NEEDS[syntax])
    assert decodes(syntax)


def test_a_decoder_that_answers_wrongly_is_not_used(monkeypatch):
    monkeypatch.setattr(decodable, "_decodes", {})
    right = decodable.decode_pixels

    def wrong(stream, header):
        stored = right(stream, header)
        return stored._replace(values=stored.values + 200)

    monkeypatch.setattr(decodable, "decode_pixels", wrong)
    assert set(decodable_syntaxes()) == set(NATIVE) - {DEFLATED}


@pytest.mark.interop
@pytest.mark.parametrize("syntax", [s for s in decodable.SAMPLES if s not in HTJ2K])
def test_samples_are_what_dcmtk_decodes(tmp_path, syntax):
    if ".4.9" in syntax:
        pytest.skip("dcmtk has no JPEG 2000")
    program = "dcmdrle" if syntax.endswith(".5") else "dcmdjpls" if ".4.8" in syntax else "dcmdjpeg"
    if find_peer(program) is None:
        pytest.skip(f"{program} is not installed (package dcmtk)")
    (tmp_path / "x.dcm").write_bytes(sample(syntax))
    done = run_peer(program, tmp_path / "x.dcm", tmp_path / "y.dcm")
    assert done.returncode == 0, done.stderr
    values = pydicom.dcmread(tmp_path / "y.dcm").pixel_array.astype(int)
    ramp = np.arange(64).reshape(8, 8) * (65 if values.max() > 255 else 65 / 16)
    assert np.abs(values - ramp).max() <= 0.03 * (values.max() + 1)
