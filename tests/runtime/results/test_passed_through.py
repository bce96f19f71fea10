"""Patient and study stand in results as in the source: byte for byte, or with a warning, or not.

Spans: pneumonia.runtime.results.header, pneumonia.runtime.results.objects.
"""

import io

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.attributes import joined_text
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import (
    KINDS,
    ResultFacts,
    build_results,
    file_bytes,
    header_bytes,
    header_from_bytes,
    header_warnings,
    source_header,
)
from tests.runtime.dicoms import chest_dataset, save

PIXELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
NOTHING = Prediction("x", np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 16, 16)
FACTS = ResultFacts("model", "1.0", "ab" * 32, "balanced", 0.5)


def read(folder, **values):
    """A file whose attributes hold these bytes, and what the reader makes of it."""
    dataset = chest_dataset(PIXELS, PatientName="A^B", PatientID="1", PatientSex="O")
    places = {}
    for number, (keyword, data) in enumerate(values.items()):
        # pydicom would encode other bytes again
        place = (b"%02d" % number + b"X" * len(data))[: len(data)]
        places[place] = data
        text = place.decode() if max(data, default=0) > 127 else data.decode()
        kind = dictionary_VR(tag_for_keyword(keyword))
        if kind == "PN":
            dataset.PatientName = text
            continue
        dataset[keyword] = DataElement(keyword, kind, text, already_converted=True)
    path = save(folder / "x.dcm", dataset)
    content = path.read_bytes()
    for place, data in places.items():
        if max(data, default=0) > 127:
            assert content.count(place) == 1
            content = content.replace(place, data)
    path.write_bytes(content)
    return read_radiograph(path)


def made_of(found):
    """The results as a reader of their files sees them, by kind."""
    header = header_from_bytes(header_bytes(source_header(found.header)))
    results = build_results(header, found.pixels, NOTHING, FACTS)
    return {kind: pydicom.dcmread(io.BytesIO(file_bytes(made))) for kind, made in results.items()}


def bytes_of(dataset, keyword):
    value = dataset.get_item(tag_for_keyword(keyword)).value
    return value.strip(b" \0")


LATIN, UTF8 = "Müller^Jörg".encode("latin-1"), "Müller^Jörg".encode()


@pytest.mark.parametrize(
    ("character_set", "name", "fits"),
    [
        (b"ISO_IR 192", LATIN, False),
        (b"ISO_IR 999", UTF8, False),
        (b"", LATIN, False),
        (b"", UTF8, False),
        (b"ISO 2022 IR 6\\ISO 2022 IR 87", b"\xff\xfe^\x80", False),
        (b"ISO_IR 192", UTF8, True),
        (b"ISO_IR 100", LATIN, True),
        (b"GB18030", b"\xcd\xf5^\xd0\xa1e", True),
        (b"ISO_IR 127", b"\xe2\xc8^\xe7\xe4\xe4", True),
        (b"ISO-IR 100", LATIN, False),
        (b"ISO_IR 203", LATIN, False),
        (b"ISO_IR 192", b"\xef\xbb\xbf" + UTF8, True),
        (b"ISO_IR 192", b"Doe^Jane", True),
    ],
)
def test_text_outside_of_its_character_set_is_kept_byte_for_byte(
    tmp_path, character_set, name, fits
):
    values = {
        "PatientName": name, "PatientID": name[:7] + b"1", "AccessionNumber": name[:6],
        "StudyDescription": name[:8] + b" 2",
    }  # fmt: skip
    declared = {"SpecificCharacterSet": character_set} if character_set else {}
    found = read(tmp_path, **declared, **values)
    assert ("character_set" not in found.warnings) is fits
    made = made_of(found)
    assert list(made) == list(KINDS)
    for result in made.values():
        for keyword, data in values.items():
            assert bytes_of(result, keyword) == data
        assert joined_text(result, "SpecificCharacterSet") == character_set.decode()


YAMADA = b"\x1b$B;3ED"


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        # back to ASCII where the character set wants ISO-IR 14, which pydicom would write
        (b"ISO 2022 IR 13\\ISO 2022 IR 87", b"\xd4\xcf\xc0\xde=" + YAMADA + b"\x1b(B"),
        (b"ISO 2022 IR 13\\ISO 2022 IR 87", b"\xd4\xcf\xc0\xde=" + YAMADA + b"\x1b(J"),
        (b"\\ISO 2022 IR 87", b"Yamada=" + YAMADA + b"\x1b(B"),
        # a second escape sequence that is not needed, which pydicom would leave out
        (b"\\ISO 2022 IR 149", b"Hong=\x1b$)C\xfb\xf3 \x1b$)C\xd1\xce"),
        (b"ISO 2022 IR 6\\ISO 2022 IR 100", b"M\x1b-A\xfcller^J"),
    ],
)
def test_escape_sequences_are_kept(tmp_path, character_set, name):
    values = {"PatientName": name, "StudyDescription": name.replace(b"=", b" ")}
    found = read(tmp_path, SpecificCharacterSet=character_set, **values)
    assert "character_set" not in found.warnings
    for result in made_of(found).values():
        assert {keyword: bytes_of(result, keyword) for keyword in values} == values


@pytest.mark.parametrize(
    ("keyword", "data", "kept", "codes"),
    [
        ("PatientBirthDate", b"1950.01.02", "19500102", ["identity_rewritten"]),
        ("StudyDate", b"2024-01-02", "20240102", ["identity_rewritten"]),
        ("StudyTime", b"10:11:12", "101112", ["identity_rewritten"]),
        ("StudyTime", b"10:11:12.5", "101112.5", ["identity_rewritten"]),
        ("StudyTime", b"10:11", "1011", ["identity_rewritten"]),
        ("PatientAge", b"2Y", "002Y", ["identity_rewritten"]),
        ("PatientAge", b"002y", "002Y", ["identity_rewritten"]),
        ("PatientBirthDate", b"1950", "", ["identity_left_out"]),
        ("PatientBirthDate", b"1950.13.02", "", ["identity_left_out"]),
        ("StudyDate", b"02/01/2024", "", ["identity_left_out"]),
        ("StudyTime", b"25", "", ["identity_left_out"]),
        ("StudyDate", b"20240102120000", "", ["identity_left_out"]),
        ("StudyDate", b"2024.1.2", "", ["identity_left_out"]),
        ("StudyTime", b"101112+0100", "", ["identity_left_out"]),
        ("PatientAge", b"2Y 3M", "", ["identity_left_out"]),
        ("PatientSex", b"male", "", ["identity_left_out"]),
        ("PatientSex", b"X", "", ["identity_left_out"]),
        ("StudyDate", b"20240102", "20240102", []),
        ("PatientID", b"P" * 80, "P" * 80, []),
        ("PatientID", b"1\\2", "1\\2", []),
    ],
)
def test_nothing_is_left_out_or_rewritten_without_a_warning(tmp_path, keyword, data, kept, codes):
    found = read(tmp_path, **{keyword: data})
    assert header_warnings(found.header, source_header(found.header)) == codes
    for made in made_of(found).values():
        element = made.get_item(tag_for_keyword(keyword))
        value = b"" if element is None or element.value is None else element.value
        assert value.strip(b" \0").decode() == kept


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [b"1.2." + b"3" * 70, b"1.2.3\\1.2.4", b"1.2 .3"])
def test_no_result_is_filed_under_a_uid_that_is_none(tmp_path, keyword, value):
    found = read(tmp_path, **{keyword: value})
    assert found.info["has_malformed_uid"]
    with pytest.raises(DicomError) as caught:
        made_of(found)
    assert (caught.value.status, caught.value.reason) == ("rejected", "uid_malformed")
    assert "1.2" not in str(caught.value)
