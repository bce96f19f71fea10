"""One image is one image in every encoding; other pixels or another patient are another.

Spans: pneumonia.runtime.image.radiograph, pneumonia.runtime.results.identity.
"""

import numpy as np
import pydicom
import pytest

from pneumonia.runtime.child import ChildLimits, DecodingChild
from pneumonia.runtime.image.radiograph import IDENTITY, read_radiograph
from tests.runtime.dicoms import BIG, IMPLICIT, LITTLE, chest_dataset, save, save_rle
from tests.support.peers import find_peer, run_peer

PIXELS = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
PATIENT = {"PatientName": "Doe^Jane", "PatientID": "7", "PatientBirthDate": "19500101"}


def digest(path):
    return read_radiograph(path).content_sha256


def image(**changes):
    return chest_dataset(PIXELS, 12, **{**PATIENT, **changes})


@pytest.fixture
def original(tmp_path):
    return digest(save(tmp_path / "original.dcm", image()))


def test_every_encoding_is_the_same_image(tmp_path, original):
    files = [save(tmp_path / f"{syntax}.dcm", image(), syntax) for syntax in (LITTLE, IMPLICIT)]
    big = image(PixelData=PIXELS.astype(">u2").tobytes())
    files.append(save(tmp_path / "big.dcm", big, BIG))
    files.append(save_rle(tmp_path / "rle.dcm", image()))
    high = chest_dataset(PIXELS << 4, 12, HighBit=15, **PATIENT)
    files.append(save(tmp_path / "high.dcm", high))
    longer = tmp_path / "longer.dcm"
    longer.write_bytes((tmp_path / "original.dcm").read_bytes() + b"\0" * 64)
    meta = pydicom.dcmread(tmp_path / "original.dcm")
    meta.file_meta.ImplementationVersionName = "OTHER_EXPORT"
    meta.save_as(tmp_path / "meta.dcm")
    files += [longer, tmp_path / "meta.dcm"]
    assert {digest(path) for path in files} == {original}


def test_a_grey_scale_that_changes_nothing_leaves_the_same_image_in_every_encoding(tmp_path):
    grey = (PIXELS // 16).astype(np.uint8)
    byte, word = (chest_dataset(grey.astype(kind), 8, **PATIENT) for kind in (np.uint8, np.uint16))
    files = [save(tmp_path / f"{name}.dcm", one) for name, one in (("byte", byte), ("word", word))]
    shown = [read_radiograph(path).pixels for path in files]
    np.testing.assert_array_equal(shown, [grey, grey])
    assert digest(files[0]) == digest(files[1])
    window = chest_dataset(grey, 8, WindowCenter=100, WindowWidth=50, **PATIENT)
    assert digest(save(tmp_path / "window.dcm", window)) != digest(files[0])


@pytest.mark.parametrize("program", [("dcmconv", "+ti"), ("dcmcjpeg", "+e1"), ("dcmcjpls",)])
def test_what_dcmtk_encodes_again_is_the_same_image(tmp_path, original, program):
    if find_peer(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed (package dcmtk)")
    if program[0] == "dcmcjpeg":
        pytest.importorskip("gdcm")
    again = tmp_path / "again.dcm"
    assert run_peer(*program, tmp_path / "original.dcm", again).returncode == 0
    assert digest(again) == original


def test_another_character_set_is_the_same_patient(tmp_path):
    names = [("ISO_IR 100", "Müller^Jörg"), ("ISO_IR 192", "Müller^Jörg^^ ")]
    files = [
        save(tmp_path / f"{number}.dcm", image(SpecificCharacterSet=charset, PatientName=name))
        for number, (charset, name) in enumerate(names)
    ]
    assert len({digest(path) for path in files}) == 1


@pytest.mark.parametrize("keyword", [name for name in IDENTITY if name != "SOPClassUID"])
def test_another_identity_is_another_image(tmp_path, original, keyword):
    value = {"PatientBirthDate": "19500102", "StudyDate": "20240101", "PatientSex": "F"}
    changed = image(**{keyword: value.get(keyword, "1.2.3")})
    assert digest(save(tmp_path / "x.dcm", changed)) != original


def test_another_pixel_or_window_is_another_image(tmp_path, original):
    pixels = PIXELS.copy()
    pixels[3, 3] += 64
    other = chest_dataset(pixels, 12, **PATIENT)
    assert digest(save(tmp_path / "x.dcm", other)) != original
    brighter = chest_dataset(PIXELS + 1, 12, **PATIENT)  # shown alike
    assert digest(save(tmp_path / "z.dcm", brighter)) != original
    windowed = image(WindowCenter=100, WindowWidth=200)
    assert digest(save(tmp_path / "y.dcm", windowed)) != original


def test_the_child_says_it(tmp_path, original):
    with DecodingChild(ChildLimits()) as child:
        assert child.decode(str(tmp_path / "original.dcm")).content_sha256 == original
