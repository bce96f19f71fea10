"""Every row of the table of pathological inputs, made here, gets the status promised for it."""

import importlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.image.read_limits import ReadLimits
from tests.runtime import dicoms
from tests.runtime.dicoms import (
    blurred,
    chest_dataset,
    jpeg_bytes,
    lut_item,
    save,
    save_compressed,
    save_image,
)

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
CANARY = "CANARY^PHI"


def refusal(path, limits=None):
    with pytest.raises(DicomError) as caught:
        read_radiograph(path, limits or ReadLimits())
    return f"{caught.value.status}: {caught.value.reason}"


# --- what is read right -------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [dicoms.LITTLE, dicoms.IMPLICIT, dicoms.BIG])
def test_native_syntaxes(tmp_path, syntax):
    stored = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    big = stored.astype(">u2") if syntax == dicoms.BIG else stored
    dataset = chest_dataset(stored, 12, PixelData=big.tobytes())
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    found = read_radiograph(save(tmp_path / "x.dcm", dataset, syntax))
    np.testing.assert_array_equal(found.pixels, np.floor(stored / 4095 * 255 + 0.5))
    assert found.info["transfer_syntax"] == syntax
    assert found.info["voi"] == "window"
    assert found.warnings == ()


def test_facts(tmp_path):
    dataset = chest_dataset(RAMP, PatientName=CANARY, PixelSpacing=[0.2, 0.25])
    info = read_radiograph(save(tmp_path / "x.dcm", dataset)).info
    assert info == {
        "format": "dicom",
        "modality": "DX",
        "view": "PA",
        "body_part": "CHEST",
        "photometric": "MONOCHROME2",
        "bits_stored": 8,
        "transfer_syntax": dicoms.LITTLE,
        "frames": 1,
        "spacing_mm": [0.2, 0.25],
        "is_child": False,
        "for_processing": False,
        "has_instance_uid": True,
        "has_malformed_uid": False,
        "decoder": "pydicom",
        "inverted": False,
        "voi": "full",
    }


@pytest.mark.parametrize("shape", [None, "INVERSE", "IDENTITY"])
def test_monochrome1_is_inverted_whatever_the_presentation_shape(tmp_path, shape):
    dataset = chest_dataset(np.minimum(RAMP, 216), photometric="MONOCHROME1")
    if shape:
        dataset.PresentationLUTShape = shape
    found = read_radiograph(save(tmp_path / "x.dcm", dataset))
    np.testing.assert_array_equal(found.pixels, 255 - np.minimum(RAMP, 216))
    assert found.info["inverted"] is True
    assert found.warnings == (("presentation_lut_conflict",) if shape == "IDENTITY" else ())


def test_eight_bit_jpeg_and_fourteen_bit_with_voi_lut_are_nearly_equal(tmp_path):
    picture = blurred()
    rsna = save_compressed(tmp_path / "rsna.dcm", chest_dataset(picture), jpeg_bytes(picture))
    # the same picture as a digital detector stores it: 14 bits, dense is low, a curve as VOI LUT
    curve = np.floor(16383 * (np.arange(256) / 255) ** 1.7).astype(int)
    stored = (16383 - curve[picture]).astype(np.uint16)
    back = np.interp(np.arange(16384), curve, np.arange(256) / 255 * 65535)
    voi = 65535 - np.rint(back[::-1]).astype(int)
    dataset = chest_dataset(stored, 14, "MONOCHROME1")
    dataset.VOILUTSequence = [lut_item(voi, 0, 16)]
    dataset.WindowCenter, dataset.WindowWidth = 1, 2  # a LUT wins over a window
    clinical = read_radiograph(save(tmp_path / "dx.dcm", dataset))
    assert clinical.info["voi"] == "lut"
    np.testing.assert_array_equal(clinical.pixels, picture)
    difference = read_radiograph(rsna).pixels.astype(int) - clinical.pixels
    assert np.abs(difference).max() <= 6
    assert np.abs(difference).mean() < 1.5


def test_first_of_several_windows_and_its_function(tmp_path):
    stored = np.arange(0, 1024, 4, dtype=np.uint16).reshape(16, 16)
    dataset = chest_dataset(stored, 10)
    dataset.WindowCenter, dataset.WindowWidth = [500, 100], [1000, 10]
    dataset.VOILUTFunction = "LINEAR_EXACT"
    pixels = read_radiograph(save(tmp_path / "x.dcm", dataset)).pixels
    np.testing.assert_array_equal(pixels, np.floor(np.clip(stored / 1000, 0, 1) * 255 + 0.5))


def test_an_impossible_window_is_ignored_with_a_warning(tmp_path):
    dataset = chest_dataset(RAMP, WindowCenter=100, WindowWidth=0)
    found = read_radiograph(save(tmp_path / "x.dcm", dataset))
    np.testing.assert_array_equal(found.pixels, RAMP)
    assert found.warnings == ("window_invalid",)


def test_signed_values_and_overlay_bits_above_the_stored_ones(tmp_path):
    stored = np.array([[-2048, -1, 0, 2047]], np.int16)
    dataset = chest_dataset(stored, 12)
    path = save(tmp_path / "x.dcm", dataset)
    plain = read_radiograph(path)
    assert plain.pixels.tolist() == [[0, 127, 128, 255]]
    dirty = ((stored.view(np.uint16) & 0x0FFF) | 0x5000).view(np.int16)
    dataset = chest_dataset(dirty, 12)
    found = read_radiograph(save(tmp_path / "y.dcm", dataset))
    np.testing.assert_array_equal(found.pixels, plain.pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("interlaced", [False, True])
def test_pngs_of_sixteen_bits_and_several_channels(tmp_path, channels, bits, interlaced):
    grey = np.arange(0, 1 << bits, (1 << bits) // 256, dtype=np.uint16).reshape(16, 16)
    samples = np.repeat(grey[:, :, None], channels, axis=2)
    if channels in (2, 4):
        samples[..., -1] = 65535
    (tmp_path / "x.png").write_bytes(dicoms.png_bytes(samples, interlaced))
    found = read_radiograph(tmp_path / "x.png")
    expected = np.floor(grey / grey.max() * 255 + 0.5)
    np.testing.assert_array_equal(found.pixels, expected)
    assert (found.warnings, found.info["bits_stored"]) == ((), 16)


def test_colours_and_transparency_of_sixteen_bits(tmp_path):
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 4096, (8, 8, 4), dtype=np.uint16)
    (tmp_path / "x.png").write_bytes(dicoms.png_bytes(samples))
    found = read_radiograph(tmp_path / "x.png")
    luma = (samples[..., :3] @ np.array([299, 587, 114]) + 500) // 1000
    expected = np.floor((luma - luma.min()) / (luma.max() - luma.min()) * 255 + 0.5)
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.warnings == ("alpha_ignored", "colour_converted")


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_values_in_the_upper_bits(tmp_path, bits):
    stored = np.arange(0, 1 << bits, (1 << bits) // 256, dtype=np.uint16).reshape(16, 16)
    plain = chest_dataset(stored, bits, WindowCenter=900, WindowWidth=1800)
    expected = read_radiograph(save(tmp_path / "a.dcm", plain))
    for number, write in enumerate((save, dicoms.save_rle) if bits > 8 else (save,)):
        high = chest_dataset(stored << (16 - bits), bits, HighBit=15, WindowCenter=900,
                             WindowWidth=1800)  # fmt: skip
        found = read_radiograph(write(tmp_path / f"{number}.dcm", high))
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert found.warnings == expected.warnings == ()


def test_rle(tmp_path):
    stored = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    dataset = chest_dataset(stored, 12)
    expected = read_radiograph(save(tmp_path / "a.dcm", dataset)).pixels
    found = read_radiograph(dicoms.save_rle(tmp_path / "b.dcm", chest_dataset(stored, 12)))
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.warnings == ()


def test_jpeg_2000_lossless(tmp_path):
    picture = blurred()
    path = save_compressed(
        tmp_path / "x.dcm", chest_dataset(picture), dicoms.j2k_bytes(picture), dicoms.J2K
    )
    found = read_radiograph(path)
    np.testing.assert_array_equal(found.pixels, picture)
    assert found.info["decoder"] == "pillow"


def test_multi_frame_only_when_asked(tmp_path):
    frames = np.stack([RAMP, 255 - RAMP])
    path = save(tmp_path / "x.dcm", chest_dataset(frames))
    assert refusal(path) == "rejected: multi_frame"
    found = read_radiograph(path, ReadLimits(first_frame=True))
    np.testing.assert_array_equal(found.pixels, RAMP)
    one = save(tmp_path / "y.dcm", chest_dataset(RAMP[None]))
    np.testing.assert_array_equal(read_radiograph(one).pixels, RAMP)


def test_trailing_bytes_are_noted(tmp_path):
    dataset = chest_dataset(RAMP, PixelData=RAMP.tobytes() + b"\0" * 64)
    found = read_radiograph(save(tmp_path / "x.dcm", dataset))
    np.testing.assert_array_equal(found.pixels, RAMP)
    assert found.warnings == ("excess_pixel_bytes",)


@pytest.mark.parametrize("start", [b"MZ", b"\x7fELF"])
def test_executable_preamble_is_noted(tmp_path, start):
    path = save(tmp_path / "x.dcm", chest_dataset(RAMP), preamble=start.ljust(128, b"\0"))
    assert read_radiograph(path).warnings == ("executable_like_preamble",)


def test_burned_in_blank_and_child_are_noted(tmp_path):
    dataset = chest_dataset(np.full((4, 4), 9, np.uint8), BurnedInAnnotation="YES")
    dataset.PatientAge = "011M"
    found = read_radiograph(save(tmp_path / "x.dcm", dataset))
    assert found.warnings == ("blank_image", "burned_in_annotation")
    assert found.info["is_child"] is True


@pytest.mark.parametrize(
    ("age", "child"), [("017Y", True), ("018Y", False), ("", None), ("CANARY", None)]
)
def test_age(tmp_path, age, child):
    path = save(tmp_path / "x.dcm", chest_dataset(RAMP, PatientAge=age))
    assert read_radiograph(path).info["is_child"] is child


def test_coded_fields_hold_only_known_codes(tmp_path):
    dataset = chest_dataset(RAMP, Modality="CANARY", ViewPosition="CANARY", BodyPartExamined="")
    info = read_radiograph(save(tmp_path / "x.dcm", dataset)).info
    assert (info["modality"], info["view"], info["body_part"]) == ("OTHER", "OTHER", None)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 20, bytes(range(256)) * 4])
def test_not_dicom(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert refusal(tmp_path / "x") == "rejected: not_dicom"
    assert refusal(tmp_path / "x", ReadLimits(force_read=True)).startswith(("rejected", "failed"))


@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma"])
def test_a_compressed_file_is_named_as_such(tmp_path, module):
    data = save(tmp_path / "x.dcm", chest_dataset(RAMP)).read_bytes()
    (tmp_path / "x").write_bytes(importlib.import_module(module).compress(data))
    assert refusal(tmp_path / "x") == "rejected: compressed_file"


@pytest.mark.parametrize("syntax", [dicoms.IMPLICIT, dicoms.LITTLE])
@pytest.mark.parametrize("keep_meta", [True, False])
def test_every_data_set_without_preamble_is_named_as_such(tmp_path, syntax, keep_meta):
    data = save(tmp_path / "x.dcm", chest_dataset(RAMP), syntax).read_bytes()
    start = 132 if keep_meta else 144 + struct.unpack("<I", data[140:144])[0]
    (tmp_path / "x").write_bytes(data[start:])
    assert refusal(tmp_path / "x") == "rejected: no_preamble"


def test_preamble_alone(tmp_path):
    (tmp_path / "x").write_bytes(b"\0" * 128 + b"DICM")
    assert refusal(tmp_path / "x") == "rejected: no_sop_instance"


def test_without_preamble_only_when_asked(tmp_path):
    path = save(tmp_path / "x.dcm", chest_dataset(RAMP), dicoms.IMPLICIT)
    data = path.read_bytes()
    size = struct.unpack("<I", data[140:144])[0]
    path.write_bytes(data[144 + size :])
    assert refusal(path) == "rejected: no_preamble"
    np.testing.assert_array_equal(read_radiograph(path, ReadLimits(force_read=True)).pixels, RAMP)


@pytest.mark.parametrize("kept", [0.5, 0.97])
@pytest.mark.parametrize("coding", ["native", "rle", "jpeg", "j2k"])
def test_pixel_data_cut_off(tmp_path, coding, kept):
    picture = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    path = tmp_path / "x.dcm"
    if coding == "native":
        save(path, chest_dataset(picture))
    elif coding == "rle":
        dicoms.save_rle(path, chest_dataset(picture))
    elif coding == "jpeg":
        save_compressed(path, chest_dataset(picture), jpeg_bytes(picture))
    else:
        save_compressed(path, chest_dataset(picture), dicoms.j2k_bytes(picture), dicoms.J2K)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert refusal(path) == "failed: pixel_data_truncated"


def test_jpeg_cut_off_inside_a_whole_file(tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    frame = jpeg_bytes(picture)
    path = save_compressed(tmp_path / "x.dcm", chest_dataset(picture), frame[: len(frame) // 2])
    assert refusal(path) == "failed: pixel_data_truncated"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Rows": None}, "rows"),
        ({"Rows": 0}, "rows"),
        ({"Columns": 65535}, "columns"),
        ({"BitsAllocated": 12}, "bits_allocated"),
        ({"BitsAllocated": 32}, "bits_allocated"),
        ({"BitsAllocated": None}, "bits_allocated"),
        ({"BitsStored": 12}, "bits_stored"),
        ({"BitsStored": 0}, "bits_stored"),
        ({"HighBit": 5}, "high_bit"),
        ({"PixelRepresentation": 2}, "pixel_representation"),
        ({"PixelRepresentation": None}, "pixel_representation"),
        ({"PhotometricInterpretation": "CANARY"}, "photometric_interpretation"),
        ({"PhotometricInterpretation": None}, "photometric_interpretation"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"PixelData": None}, "pixel_data"),
        ({"PixelData": b""}, "pixel_data"),
        ({"NumberOfFrames": 0}, None),
        ({"NumberOfFrames": -1}, "number_of_frames"),
        ({"NumberOfFrames": 2**31 - 1}, "resource_limit"),
    ],
)
def test_broken_tags(tmp_path, tags, reason):
    path = save(tmp_path / "x.dcm", chest_dataset(RAMP, PatientName=CANARY, **tags))
    if reason is None:  # "0" means one frame in files of some devices
        assert read_radiograph(path).pixels.shape == (16, 16)
        return
    with pytest.raises(DicomError) as caught:
        read_radiograph(path)
    assert (caught.value.status, caught.value.reason) == ("rejected", reason)
    assert "CANARY" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_compressed_size_differs_from_the_data_set(tmp_path):
    path = save_compressed(tmp_path / "x.dcm", chest_dataset(RAMP), jpeg_bytes(blurred((32, 32))))
    assert refusal(path) == "failed: dimension_mismatch"


def test_colour_jpeg_in_a_grey_data_set(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.repeat(RAMP[..., None], 3, 2)).save(stream, "JPEG")
    path = save_compressed(tmp_path / "x.dcm", chest_dataset(RAMP), stream.getvalue())
    assert refusal(path) == "failed: dimension_mismatch"


def test_jpeg_bomb_is_refused_by_its_header(tmp_path):
    bomb = bytearray(jpeg_bytes(RAMP))
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = struct.pack(">HH", 20000, 20000)
    path = save_compressed(tmp_path / "x.dcm", chest_dataset(RAMP), bytes(bomb))
    assert refusal(path) == "failed: dimension_mismatch"
    dataset = chest_dataset(RAMP, Rows=16000, Columns=16000)
    assert refusal(save_compressed(path, dataset, bytes(bomb))) == "rejected: resource_limit"
    (tmp_path / "x.jpg").write_bytes(bytes(bomb))
    assert refusal(tmp_path / "x.jpg") == "rejected: resource_limit"


def test_garbage_instead_of_a_jpeg(tmp_path):
    path = save_compressed(tmp_path / "x.dcm", chest_dataset(RAMP), b"\xff\xd8" + b"garbage!" * 20)
    assert refusal(path) == "failed: decode_error"


def test_deflated_is_refused_by_default_and_bounded_when_allowed(tmp_path):
    path = save(tmp_path / "x.dcm", chest_dataset(RAMP), dicoms.DEFLATED)
    assert refusal(path) == "rejected: deflated"
    allowed = ReadLimits(allow_deflated=True)
    np.testing.assert_array_equal(read_radiograph(path, allowed).pixels, RAMP)

    data = path.read_bytes()
    start = 144 + struct.unpack("<I", data[140:144])[0]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(b"\0" * (32 << 20)) + deflater.flush()
    path.write_bytes(data[:start] + bomb)
    assert path.stat().st_size < 64 << 10
    small = ReadLimits(allow_deflated=True, max_file_bytes=16 << 20)
    assert refusal(path, small) == "rejected: resource_limit"


@pytest.mark.parametrize(
    ("syntax", "word"),
    [
        ("1.2.840.10008.1.2.4.102", "4.102"),  # MPEG-4
        ("1.2.840.10008.1.2.4.94", "4.94"),  # JPIP
    ],
)
def test_unknown_transfer_syntax_is_named(tmp_path, syntax, word):
    path = save_compressed(tmp_path / "x.dcm", chest_dataset(RAMP), b"\0\0\0\0", syntax)
    with pytest.raises(DicomError, match=word) as caught:
        read_radiograph(path)
    assert caught.value.reason == "transfer_syntax"


def test_syntax_without_a_decoder_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pneumonia.runtime.image.dicom_pixels.available_decoders", lambda syntax: []
    )
    lossless = bytearray(jpeg_bytes(RAMP))
    lossless[lossless.index(b"\xff\xc0") + 1] = 0xC3
    path = save_compressed(
        tmp_path / "x.dcm", chest_dataset(RAMP), bytes(lossless), "1.2.840.10008.1.2.4.70"
    )
    with pytest.raises(DicomError, match="gdcm") as caught:
        read_radiograph(path)
    assert (caught.value.status, caught.value.reason) == ("rejected", "transfer_syntax")


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.1.3.10",  # DICOMDIR
        "1.2.840.10008.5.1.4.1.1.88.33",  # comprehensive SR
        "1.2.840.10008.5.1.4.1.1.11.1",  # presentation state
        "1.2.840.10008.5.1.4.1.1.104.1",  # encapsulated PDF
    ],
)
def test_objects_without_an_image_are_skipped(tmp_path, sop_class):
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = CANARY
    assert refusal(save(tmp_path / "x.dcm", dataset)) == "skipped: not_an_image"


def test_size_limits(tmp_path):
    path = save(tmp_path / "x.dcm", chest_dataset(RAMP))
    assert refusal(path, ReadLimits(max_file_bytes=100)) == "rejected: resource_limit"
    assert refusal(path, ReadLimits(max_pixels=255)) == "rejected: resource_limit"
    assert refusal(path, ReadLimits(max_side=15)) == "rejected: rows"


def test_folder_missing_file_and_fifo(tmp_path):
    import os

    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path / "fifo") == "skipped: not_a_file"
    assert refusal(tmp_path) == "skipped: not_a_file"
    assert refusal(tmp_path / "none") == "failed: unreadable"


@pytest.mark.parametrize("name", ["ISO_IR\x00100 ", "ISO_IR 100\\S\x00A "])
def test_a_null_inside_the_name_of_a_character_set_is_refused(tmp_path, name):
    path = save(tmp_path / "x.dcm", chest_dataset(RAMP, SpecificCharacterSet="ISO_IR 192"))
    data, old = path.read_bytes(), b"\x08\0\x05\0CS\x0a\0ISO_IR 192"
    assert old in data
    new = b"\x08\0\x05\0CS" + struct.pack("<H", len(name)) + name.encode()
    path.write_bytes(data.replace(old, new))
    assert refusal(path) == "failed: unreadable"


def test_malformed_lut_is_refused(tmp_path):
    dataset = chest_dataset(RAMP)
    dataset.VOILUTSequence = [lut_item([1, 2], 0, 8)]
    dataset.VOILUTSequence[0].LUTDescriptor = [200, 0, 8]
    assert refusal(save(tmp_path / "x.dcm", dataset)) == "rejected: lut"


def test_nothing_is_printed_about_odd_values(tmp_path, capfd, recwarn):
    dataset = chest_dataset(RAMP, PatientName=CANARY)
    dataset.add_new("PatientBirthDate", "DA", "CANARYPHI")
    dataset.add_new("PatientAge", "AS", "CANARYPHI")
    path = save(tmp_path / "x.dcm", dataset)
    capfd.readouterr()
    recwarn.clear()
    read_radiograph(path)
    captured = capfd.readouterr()
    assert "CANARY" not in captured.out + captured.err
    assert not list(recwarn)


# --- PNG and JPEG -------------------------------------------------------------------------------


def test_grey_png_and_its_facts(tmp_path):
    found = read_radiograph(save_image(tmp_path / "x.png", RAMP))
    np.testing.assert_array_equal(found.pixels, RAMP)
    assert found.info["format"] == "png"
    assert found.warnings == ()
    assert set(found.info) == set(
        read_radiograph(save(tmp_path / "x.dcm", chest_dataset(RAMP))).info
    )


def test_the_name_of_a_file_does_not_matter(tmp_path):
    found = read_radiograph(save_image(tmp_path / "x.dcm", RAMP, format="PNG"))
    assert found.info["format"] == "png"


def test_sixteen_bit_png(tmp_path):
    wide = np.array([[1000, 1500], [2000, 3000]], np.uint16)
    found = read_radiograph(save_image(tmp_path / "x.png", wide))
    assert found.pixels.tolist() == [[0, 64], [128, 255]]
    assert (found.info["bits_stored"], found.info["voi"]) == (16, "minmax")


def test_colour_png(tmp_path):
    equal = np.repeat(RAMP[..., None], 3, axis=2)
    found = read_radiograph(save_image(tmp_path / "a.png", equal))
    np.testing.assert_array_equal(found.pixels, RAMP)
    assert found.warnings == ()
    coloured = np.zeros((2, 2, 3), np.uint8)
    coloured[0, 0] = [200, 100, 50]
    found = read_radiograph(save_image(tmp_path / "b.png", coloured))
    assert found.pixels[0, 0] == 124  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert found.warnings == ("colour_converted",)


def test_alpha_palette_and_bilevel_png(tmp_path):
    rgba = np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, 255)])
    assert read_radiograph(save_image(tmp_path / "a.png", rgba)).warnings == ()
    rgba[0, 0, 3] = 7
    found = read_radiograph(save_image(tmp_path / "b.png", rgba))
    np.testing.assert_array_equal(found.pixels, RAMP)
    assert found.warnings == ("alpha_ignored",)
    np.testing.assert_array_equal(
        read_radiograph(save_image(tmp_path / "c.png", RAMP, "P")).pixels, RAMP
    )
    bits = read_radiograph(save_image(tmp_path / "d.png", (RAMP > 99).astype(np.uint8) * 255, "1"))
    np.testing.assert_array_equal(bits.pixels, (RAMP > 99) * 255)


def test_four_colour_print_is_refused(tmp_path):
    path = save_image(tmp_path / "x.jpg", np.repeat(RAMP[..., None], 3, axis=2), "CMYK")
    assert refusal(path) == "rejected: colour"


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_cut_off_picture(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = save_image(tmp_path / name, noise)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert refusal(path) == "failed: pixel_data_truncated"


def test_png_bomb_is_refused_by_its_header(tmp_path):
    data = bytearray(save_image(tmp_path / "x.png", RAMP).read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "x.png").write_bytes(bytes(data))
    assert refusal(tmp_path / "x.png") == "rejected: resource_limit"
    assert refusal(
        save_image(tmp_path / "y.png", RAMP), ReadLimits(max_pixels=255)
    ) == "rejected: resource_limit"  # fmt: skip
