"""Attributes with one value, several, none, or bytes that do not parse, read anywhere."""

import math

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image import attributes
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import ResultFacts, build_results, file_bytes, source_header
from tests.runtime.dicoms import chest_dataset, save

PIXELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
FOUND = Prediction("x", np.array([[1, 2, 9, 12]], np.float32), np.array([0.9], np.float32), 16, 16)
FACTS = ResultFacts("model", "1.0", "ab" * 32, "balanced", 0.5)
ODD = {
    "none": b"",
    "spaces": b"    ",
    "several": b"1\\2\\3 ",
    "several, first empty": b"\\2\\3",
    "text": b"ODD^VALUE ",
    "three numbers": b"\1\0\2\0\3\0",
    "nul": b"\0\0\0\0",
    "infinite": b"1e999 ",
}


def raw(dataset, keyword, data, vr=None):
    """Put bytes where an attribute has its value, as a damaged file does."""
    tag = Tag(tag_for_keyword(keyword))
    vr = vr or dictionary_VR(tag)[:2]
    dataset._dict[tag] = RawDataElement(tag, vr, len(data), data, 0, False, True)


def holding(keyword, data):
    dataset = Dataset()
    raw(dataset, keyword, data)
    return dataset


def test_a_single_value_is_read_as_it_is():
    dataset = holding("WindowCenter", b"40.5")
    assert attributes.all_values(dataset, "WindowCenter") == [40.5]
    assert attributes.first_number(dataset, "WindowCenter") == 40.5
    assert attributes.first_text(holding("Modality", b" DX "), "Modality") == "DX"
    assert attributes.only_integer(holding("Rows", b"\x10\0"), "Rows") == 16


def test_of_several_values_the_first_counts_unless_there_must_be_one():
    dataset = holding("NumberOfFrames", b"1\\2\\3 ")
    assert attributes.first_number(dataset, "NumberOfFrames") == 1
    assert attributes.only_integer(dataset, "NumberOfFrames") is None
    assert attributes.first_numbers(dataset, "NumberOfFrames", 2) == [1, 2]
    assert attributes.first_numbers(dataset, "NumberOfFrames", 4) is None
    accession = holding("AccessionNumber", b"A1\\B2 ")
    assert attributes.first_text(accession, "AccessionNumber") == "A1"
    assert attributes.joined_text(accession, "AccessionNumber") == "A1\\B2"


@pytest.mark.parametrize("data", [b"", b"  ", b"\\2"])
def test_an_empty_value_is_none(data):
    dataset = holding("AccessionNumber", data)
    assert attributes.first_text(dataset, "AccessionNumber") == ""
    assert attributes.first_value(Dataset(), "AccessionNumber") is None
    assert attributes.first_number(dataset, "AccessionNumber") is None


@pytest.mark.parametrize("data", [b"NaN ", b"1e999 ", b"-inf", b"abc ", b"1.024,5 ", b"1,2,3 "])
def test_what_is_no_finite_number_is_none(data):
    assert attributes.first_number(holding("WindowWidth", data), "WindowWidth") is None


@pytest.mark.parametrize(
    ("data", "number", "codes"),
    [
        (b"1010,5", 1010.5, ["decimal_comma"]),
        (b"-0,25 ", -0.25, ["decimal_comma"]),
        (b"1,5e2 ", 150.0, ["decimal_comma"]),
        (b"1010,5\\20", 1010.5, ["decimal_comma"]),
        (b"7\\abc ", 7.0, ["number_malformed"]),
        (b"1.024,5 ", None, ["number_malformed"]),
        (b"40 HU ", None, ["number_malformed"]),
        (b"NaN ", None, ["number_malformed"]),
        (b"40.5", 40.5, []),
        (b"", None, []),
    ],
)
def test_decimal_strings_that_are_not_written_as_they_should(data, number, codes):
    for vr in ("DS", None):  # explicit and implicit VR
        dataset = Dataset()
        raw(dataset, "WindowWidth", data, vr)
        dataset._dict[Tag(0x00281051)] = dataset._dict[Tag(0x00281051)]._replace(VR=vr)
        assert attributes.first_number(dataset, "WindowWidth") == number
        assert attributes.number_warnings(dataset, ["WindowWidth"]) == codes


def test_a_sequence_where_a_value_belongs_is_none_and_a_value_where_a_sequence_belongs():
    dataset = Dataset()
    dataset.ViewCodeSequence = [Dataset()]
    assert attributes.all_values(dataset, "ViewCodeSequence") == []
    assert len(attributes.sequence_items(dataset, "ViewCodeSequence")) == 1
    assert attributes.sequence_items(holding("Modality", b"DX"), "Modality") is None
    assert attributes.sequence_items(dataset, "VOILUTSequence") == []


def test_a_name_is_one_value():
    dataset = Dataset()
    dataset.PatientName = "Doe^Jane"
    assert attributes.joined_text(dataset, "PatientName") == "Doe^Jane"


def file_holding(folder, keyword, data):
    """A radiograph's file with these bytes as the value of an attribute."""
    path = str(save(folder / "x.dcm", chest_dataset(PIXELS)))
    dataset = pydicom.dcmread(path, force=True)
    raw(dataset, keyword, data)
    dataset.save_as(path)
    return path


def read_everything(path):
    """Read the image and make its results; returns the image, None when it is refused."""
    reason = ""
    try:
        found = read_radiograph(path)
    except DicomError as error:
        reason = error.reason
    assert reason != "unreadable"
    if reason:
        return None
    assert found.pixels.shape == (16, 16)
    header = source_header(pydicom.dcmread(path, stop_before_pixels=True))
    if not (header.get("SOPClassUID") and header.get("SOPInstanceUID")):
        return found  # a result must name its image
    if found.info["has_malformed_uid"]:
        with pytest.raises(DicomError, match=r"filed with its image|No result can be made"):
            build_results(header, found.pixels, FOUND, FACTS)
        return found
    for made in build_results(header, found.pixels, FOUND, FACTS).values():
        assert file_bytes(made)
    return found


def keywords_read(tmp_path, monkeypatch):
    """Every attribute that reading an image and making its results asks a header for."""
    asked = set()
    get, contains = Dataset.get, Dataset.__contains__
    monkeypatch.setattr(
        Dataset, "get", lambda self, key, default=None: asked.add(key) or get(self, key, default)
    )
    monkeypatch.setattr(
        Dataset,
        "__contains__",
        lambda self, key: (
            asked.add(key if isinstance(key, str) else keyword_for_tag(key)) or contains(self, key)
        ),
    )
    read_everything(str(save(tmp_path / "x.dcm", chest_dataset(PIXELS))))
    monkeypatch.undo()
    return {key for key in asked if isinstance(key, str) and key and not key.startswith("Transfer")}


# An image is refused when one of these is odd; other attributes cost no image.
NEEDED = {
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames", "SOPClassUID",
    "ModalityLUTSequence", "VOILUTSequence",
}  # fmt: skip


QUICK = {"several"}  # the others take as long: five seconds each


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in QUICK else pytest.mark.slow) for k in ODD]
)
def test_any_attribute_may_hold_any_value(kind, tmp_path, monkeypatch):
    keywords = keywords_read(tmp_path, monkeypatch)
    assert {"WindowCenter", "NumberOfFrames", "PatientAge", "InstanceNumber"} <= keywords
    for keyword in sorted(keywords - {"PixelData"}):
        if (
            tag_for_keyword(keyword) is None
            or tag_for_keyword(keyword) >> 16 == 2
            or (
                keyword == "SpecificCharacterSet" and b"\0" in ODD[kind]  # pydicom cannot write it
            )
        ):
            continue
        found = read_everything(file_holding(tmp_path, keyword, ODD[kind]))
        assert found is not None or keyword in NEEDED, keyword
        if found is not None:
            assert all(math.isfinite(side) for side in found.info["spacing_mm"] or ())


@pytest.mark.parametrize(
    ("keyword", "data", "reason"),
    [
        ("NumberOfFrames", b"1\\2\\3 ", "number_of_frames"),
        ("Rows", b"\x10\0\x10\0", "rows"),
        ("BitsAllocated", b"\x08\0\x10\0", "bits_allocated"),
        ("PhotometricInterpretation", b"MONOCHROME2\\RGB ", "photometric_interpretation"),
        ("SamplesPerPixel", b"\x01\0\x03\0", "colour"),
        ("HighBit", b"\x07\0\x0f\0", "high_bit"),
    ],
)
def test_several_values_of_what_describes_the_pixels_are_refused(keyword, data, reason, tmp_path):
    with pytest.raises(DicomError) as refused:
        read_radiograph(file_holding(tmp_path, keyword, data))
    assert (refused.value.status, refused.value.reason) == ("rejected", reason)


def test_codes_that_contradict_each_other_are_unknown(tmp_path):
    dataset = chest_dataset(PIXELS, ViewPosition=["PA", "LL"], Modality=["DX", "DX"])
    info = read_radiograph(str(save(tmp_path / "x.dcm", dataset))).info
    assert (info["view"], info["modality"]) == ("OTHER", "DX")


def test_an_age_or_a_burned_in_name_counts_wherever_it_stands(tmp_path):
    dataset = chest_dataset(PIXELS, PatientAge=["007Y", "045Y"], BurnedInAnnotation=["NO", "YES"])
    found = read_radiograph(str(save(tmp_path / "x.dcm", dataset)))
    assert found.info["is_child"] is True
    assert "burned_in_annotation" in found.warnings


@pytest.mark.parametrize("frames", [[1, 2, 3], ""])
def test_results_of_an_odd_frame_count_name_no_frame(frames):
    header = source_header(chest_dataset(PIXELS, NumberOfFrames=frames))
    for made in build_results(header, PIXELS, FOUND, FACTS).values():
        assert "ReferencedFrameNumber" not in str(made)
