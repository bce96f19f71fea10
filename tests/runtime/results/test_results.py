"""Result objects: identity, exact numbers, deterministic UIDs, and headers as odd as they come.

Spans: pneumonia.runtime.results.
"""

import io
import uuid
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pneumonia.runtime.errors import DicomError, OutputError
from pneumonia.runtime.image.dicom_header import malformed_uids
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import (
    KINDS,
    ObjectCreation,
    ResultFacts,
    build_results,
    file_bytes,
    header_bytes,
    header_from_bytes,
    source_header,
    write_dicom,
)
from tests.runtime.dicoms import BIG, DX, SERIES, lut_item, save
from tests.runtime.results.reports import (
    BOXES,
    EMPTY,
    FACTS,
    FOUND,
    PIXELS,
    findings,
    flags,
    items,
    meaning,
    numbers,
    source,
)


def sentences(report):
    return [item.TextValue for item in items(report, "TEXT") if meaning(item) == "Comment"]


def test_report_states_boxes_scores_and_millimetres():
    report = build_results(source(PixelSpacing=[0.5, 0.25]), PIXELS, FOUND, FACTS)["SR"]
    # by descending score, clipped to the image, the one below the threshold left out
    outlines = [list(item.GraphicData) for item in items(report, "SCOORD")]
    assert outlines == [
        [50, 30, 80, 30, 80, 80, 50, 80, 50, 30],
        [10, 20, 40, 20, 40, 70.5, 10, 70.5, 10, 20],
    ]
    assert numbers(report)[4:] == [
        ("Score", 62.0),
        ("Certainty of Finding", 62.0),
        ("Width", 7.5),
        ("Height", 25.0),
        ("Certainty of Finding", 41.0),
        ("Width", 7.5),
        ("Height", 25.25),
    ]
    assert flags(report) == ["Positive", "Positive"]  # of the image, and of the report
    assert sentences(report)[0] == "2 regions suspicious of lung opacity."
    said = " ".join(sentences(report))
    for part in ("Research use only. Not a medical device.", "ab" * 32, "0.1.0", "0.4000", "tiny"):
        assert part in said
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    references = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items(report, "IMAGE")
    }
    assert references == {SERIES + ".1.1.1"}


def test_without_spacing_there_are_no_millimetres():
    report = build_results(source(), PIXELS, FOUND, FACTS)["SR"]
    assert {name for name, _ in numbers(report)} == {
        "Pixel Data Rows", "Pixel Data Columns", "Score", "Certainty of Finding",
    }  # fmt: skip
    assert "PixelSpacing" not in build_results(source(), PIXELS, FOUND, FACTS)["SC"]


@pytest.mark.parametrize(
    ("warnings", "flag", "words"),
    [((), "Negative", "does not exclude disease"), (("degraded",), "Indeterminate", "not a neg")],
)
def test_nothing_found(warnings, flag, words):
    below = EMPTY._replace(boxes=BOXES[2:], scores=np.array([0.1], np.float32))
    made = build_results(source(), PIXELS, below, FACTS, warnings=warnings)
    assert flags(made["SR"]) == [flag, flag]
    assert findings(made["SR"]) == []  # nothing was found, and nothing is stated as if
    assert words in sentences(made["SR"])[0]
    assert numbers(made["SR"])[2:] == [("Score", 10.0)]
    assert "GraphicObjectSequence" not in made["PR"].GraphicAnnotationSequence[0]
    assert words in made["SC"].ImageComments


def test_threshold_is_compared_in_single_precision():
    edge = EMPTY._replace(boxes=BOXES[:1], scores=np.array([0.4], np.float32))
    assert len(items(build_results(source(), PIXELS, edge, FACTS)["SR"], "SCOORD")) == 1


def test_presentation_state_draws_the_boxes():
    state = build_results(source(PixelSpacing=[0.5, 0.25]), PIXELS, FOUND, FACTS)["PR"]
    annotation = state.GraphicAnnotationSequence[0]
    drawn = [(g.GraphicType, list(g.GraphicData)) for g in annotation.GraphicObjectSequence]
    assert drawn[0] == ("POLYLINE", [50, 30, 80, 30, 80, 80, 50, 80, 50, 30])
    assert len(drawn) == 2
    words = [t.UnformattedTextValue for t in annotation.TextObjectSequence]
    assert words[0] == "RESEARCH USE ONLY - NOT FOR CLINICAL USE"
    assert words[-2:] == ["0.62", "0.41"]
    area = state.DisplayedAreaSelectionSequence[0]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [80, 120]
    assert [float(side) for side in area.PresentationPixelSpacing] == [0.5, 0.25]
    assert state.PresentationLUTShape == "IDENTITY"


def test_presentation_state_keeps_the_grey_of_the_source():
    tags = {"RescaleSlope": 2, "RescaleIntercept": -5, "RescaleType": "US"}
    ramp = lut_item(range(0, 512, 2), 0, 9)
    inverse = source(photometric="MONOCHROME1", VOILUTSequence=Sequence([ramp]), **tags)
    state = build_results(inverse, PIXELS, FOUND, FACTS)["PR"]
    assert state.PresentationLUTShape == "INVERSE"
    assert (float(state.RescaleSlope), float(state.RescaleIntercept)) == (2.0, -5.0)
    table = state.SoftcopyVOILUTSequence[0].VOILUTSequence[0]
    assert np.frombuffer(table.LUTData, "<u2").tolist() == list(range(0, 512, 2))
    windowed = source(WindowCenter=[100, 5], WindowWidth=[50, 6], VOILUTFunction="SIGMOID")
    shown = build_results(windowed, PIXELS, FOUND, FACTS)["PR"].SoftcopyVOILUTSequence[0]
    assert (float(shown.WindowCenter), float(shown.WindowWidth)) == (100.0, 50.0)
    assert shown.VOILUTFunction == "SIGMOID"
    bare = build_results(source(), PIXELS, FOUND, FACTS)["PR"]
    assert "SoftcopyVOILUTSequence" not in bare
    assert "RescaleSlope" not in bare


def test_big_endian_tables_are_turned(tmp_path):
    ramp = lut_item(range(0, 512, 2), 0, 9)
    path = save(tmp_path / "big.dcm", source(VOILUTSequence=Sequence([ramp])), BIG)
    state = build_results(pydicom.dcmread(path), PIXELS, FOUND, FACTS)["PR"]
    again = pydicom.dcmread(_written(tmp_path, state))
    table = again.SoftcopyVOILUTSequence[0].VOILUTSequence[0]
    assert np.frombuffer(table.LUTData, "<u2").tolist() == list(range(0, 512, 2))


def _written(folder, dataset):
    write_dicom(str(folder / "made.dcm"), dataset)
    return folder / "made.dcm"


def test_capture_shows_the_image_and_the_boxes_over_it():
    wide = np.full((700, 900), 100, np.uint8)
    found = Prediction(
        "x", np.array([[100, 200, 300, 400]], np.float32), FOUND.scores[:1], 900, 700
    )
    made = build_results(source(), wide, found, FACTS)["SC"]
    shown = np.frombuffer(made.PixelData, np.uint8)[: made.Rows * made.Columns]
    shown = shown.reshape(made.Rows, made.Columns)
    top = int(np.flatnonzero(shown[:, 890] == 100)[0])  # the strip of words above the image
    image = shown[top : top + 700]
    assert image.shape == (700, 900)
    # black, white, white, black from the box's edge inwards; inside and outside untouched
    assert image[300, 98:106].tolist() == [100, 100, 0, 255, 255, 0, 100, 100]
    assert image[300, 296:303].tolist() == [100, 0, 255, 255, 0, 100, 100]
    assert (image[500:, :] == 100).all()
    assert (shown[:top] > 200).any()
    assert made.ImageType[0] == "DERIVED"
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == SERIES + ".1.1.1"


def test_capture_remembers_lossy_compression():
    assert build_results(source(), PIXELS, FOUND, FACTS)["SC"].LossyImageCompression == "00"
    lossy = source(LossyImageCompression="01", LossyImageCompressionRatio="12")
    made = build_results(lossy, PIXELS, FOUND, FACTS)["SC"]
    assert (made.LossyImageCompression, float(made.LossyImageCompressionRatio)) == ("01", 12.0)


def test_same_study_new_series_and_reproducible_bytes():
    given = source(StudyDate="20200102", StudyTime="101112", AccessionNumber="A1")
    at = ObjectCreation(datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))
    first, second = (build_results(given, PIXELS, FOUND, FACTS, creation=at) for _ in range(2))
    assert {d.StudyInstanceUID for d in first.values()} == {SERIES + ".1"}
    assert [d.Modality for d in first.values()] == ["SR", "PR", "OT"]
    series = {d.SeriesInstanceUID for d in first.values()}
    assert len(series) == 3
    assert SERIES + ".1.1" not in series
    for kind in KINDS:
        made = first[kind]
        assert file_bytes(made) == file_bytes(second[kind])
        assert (made.PatientName, made.PatientID) == ("Doe^Jane", "P1")
        assert (made.StudyDate, made.AccessionNumber) == ("20200102", "A1")
        number = int(made.SOPInstanceUID.removeprefix("2.25."))
        assert uuid.UUID(int=number).version == 5


def test_uids_tell_images_models_thresholds_and_kinds_apart():
    other_image = source(SOPInstanceUID=SERIES + ".2")
    cases = [
        (source(), FACTS),
        (other_image, FACTS),
        (source(), FACTS._replace(model_hash="cd" * 32)),
        (source(), FACTS._replace(threshold=0.41)),
        (source(), FACTS._replace(threshold_name="sensitive")),
    ]
    uids = [
        made.SOPInstanceUID
        for given, facts in cases
        for made in build_results(given, PIXELS, FOUND, facts).values()
    ]
    assert len(set(uids)) == 15
    # the software of the same model is named in every object
    renamed = build_results(source(), PIXELS, FOUND, FACTS._replace(model_name="x"))
    assert renamed["SR"].SOPInstanceUID not in uids


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 6", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_character_sets_are_kept(tmp_path, charset, name):
    path = save(tmp_path / "in.dcm", source(SpecificCharacterSet=charset, PatientName=name))
    before = pydicom.dcmread(path)
    for made in build_results(before, PIXELS, FOUND, FACTS).values():
        after = pydicom.dcmread(_written(tmp_path, made))
        assert after.SpecificCharacterSet == before.SpecificCharacterSet
        assert after.PatientName == before.PatientName == name
        raw_before = pydicom.dcmread(path).get_item("PatientName").value
        assert after.get_item("PatientName") is not None
        assert pydicom.dcmread(tmp_path / "made.dcm").get_item("PatientName").value == raw_before


def test_undeclared_bytes_come_back_as_they_were(tmp_path):
    path = save(tmp_path / "in.dcm", source(PatientName="DOEXJANE"))
    path.write_bytes(path.read_bytes().replace(b"DOEXJANE", b"DOE\xfcJANE"))
    made = build_results(pydicom.dcmread(path), PIXELS, FOUND, FACTS)["SR"]
    assert b"DOE\xfcJANE" in _written(tmp_path, made).read_bytes()


def test_the_source_is_neither_changed_nor_its_preamble_copied(tmp_path):
    path = save(tmp_path / "in.dcm", source(), preamble=b"MZ" + b"x" * 126)
    given = pydicom.dcmread(path)
    before = given.to_json()
    made = build_results(given, PIXELS, FOUND, FACTS)
    assert given.to_json() == before
    for dataset in made.values():
        assert _written(tmp_path, dataset).read_bytes()[:132] == b"\0" * 128 + b"DICM"


def test_header_survives_the_way_through_bytes(tmp_path):
    given = source(SpecificCharacterSet="ISO_IR 100", PatientName="Müller", StudyDate="20200102")
    given.add_new(0x00091010, "LO", "PRIVATE")
    given.InstitutionName = "CANARY"
    header = source_header(given)
    assert "InstitutionName" not in header
    assert 0x00091010 not in header
    at = ObjectCreation(datetime(2026, 3, 4, tzinfo=UTC))
    direct = build_results(given, PIXELS, FOUND, FACTS, creation=at)
    again = header_from_bytes(header_bytes(header))
    through = build_results(again, PIXELS, FOUND, FACTS, creation=at)
    for kind in KINDS:
        assert file_bytes(direct[kind]) == file_bytes(through[kind])


def test_results_need_an_instance_to_refer_to():
    for missing in ("SOPInstanceUID", "SOPClassUID"):
        with pytest.raises(DicomError) as error:
            build_results(source(**{missing: ""}), PIXELS, FOUND, FACTS)
        assert error.value.reason == "no_sop_instance"
        assert missing in str(error.value)


def test_a_header_with_nothing_but_the_instance():
    bare = Dataset()
    bare.SOPClassUID, bare.SOPInstanceUID = DX, "1.2.3"
    at = ObjectCreation(datetime(2026, 3, 4, tzinfo=UTC))
    first, second = (build_results(bare, PIXELS, FOUND, FACTS, creation=at) for _ in range(2))
    for kind in KINDS:
        assert file_bytes(first[kind]) == file_bytes(second[kind])
        assert first[kind].StudyInstanceUID.startswith("2.25.")
        assert first[kind].PatientID == ""
    assert len({d.StudyInstanceUID for d in first.values()}) == 1


def test_multi_frame_references_name_the_frame():
    capture_class = "1.2.840.10008.5.1.4.1.1.7.2"
    frames = source(NumberOfFrames=3, SOPClassUID=capture_class)
    made = build_results(frames, PIXELS, FOUND, FACTS)
    reference = made["PR"].ReferencedSeriesSequence[0].ReferencedImageSequence[0]
    assert reference.ReferencedFrameNumber == 1
    evidence = made["SR"].CurrentRequestedProcedureEvidenceSequence[0]
    named = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert "ReferencedFrameNumber" not in named


def test_odd_model_names_fit_their_attributes():
    odd = ResultFacts("größe\\\n" + "x" * 200, "v\u4e00", "ab" * 32, "p\\q", 0.4)
    for made in build_results(source(), PIXELS, FOUND, odd).values():
        again = pydicom.dcmread(io.BytesIO(file_bytes(made)))
        assert len(again.ManufacturerModelName) == 64
        assert again.ManufacturerModelName.startswith("gr??e/ x")


def test_files_are_whole_or_not_there(tmp_path):
    made = build_results(source(), PIXELS, FOUND, FACTS, kinds=("SR",))
    assert list(made) == ["SR"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_dicom(str(tmp_path / "file" / "sr.dcm"), made["SR"])


NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # it would take minutes
GARBAGE = st.one_of(
    st.just(b""),
    st.binary(max_size=80),
    st.text(max_size=70).map(lambda text: text.encode("utf-8")),
    st.sampled_from([b"2010.01.01", b"1\\2\\3", b"NaN", b"1e999", b"\\\\", b"\x1b$B;3", b"-1"]),
)
NAMES = sorted(
    set(source_header.__globals__["KEYWORDS"])
    - {"SOPClassUID", "SOPInstanceUID", "ModalityLUTSequence", "VOILUTSequence"}
)


@settings(max_examples=20, phases=NO_SHRINKING)
@given(st.dictionaries(st.sampled_from(NAMES), GARBAGE, max_size=12))
def test_any_garbage_in_the_header_still_gives_results(garbage):
    """Raw bytes of any kind in any attribute: results are made, written and read again."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    # with a null inside this attribute no file can be read (test_radiograph.py)
    assume(b"\0" not in garbage.get("SpecificCharacterSet", b"").rstrip(b"\0 "))
    given = source()
    for keyword, value in garbage.items():
        tag = Tag(tag_for_keyword(keyword))
        vr = dictionary_VR(tag)[:2]
        raw = RawDataElement(tag, vr, len(value), value, 0, False, True)
        given._dict[tag] = raw
    if malformed_uids(given):
        with pytest.raises(DicomError, match="filed with its image"):
            build_results(given, PIXELS, FOUND, FACTS)
        return
    for made in build_results(given, PIXELS, FOUND, FACTS).values():
        again = pydicom.dcmread(io.BytesIO(file_bytes(made)))
        assert again.SOPInstanceUID == made.SOPInstanceUID
        assert again.StudyInstanceUID
        for element in again.iterall():  # every value can be read back
            assert element.value is not None or element.VR
