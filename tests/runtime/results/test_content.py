"""What a report states and how: codes, times, identity, and the rules of those that read it."""

import io
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pneumonia.runtime.results import ObjectCreation, build_results, file_bytes
from pneumonia.runtime.results.report import COMPREHENSIVE_SR
from tests.runtime.dicoms import SERIES, lut_item
from tests.runtime.results.reports import (
    EMPTY,
    FACTS,
    FOUND,
    PIXELS,
    findings,
    items,
    meaning,
    source,
)

NOON = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
AT = ObjectCreation(NOON)
OWN = "99PNEUMONIA"


def made(given=None, found=FOUND, creation=AT, facts=FACTS, pixels=PIXELS, **named):
    return build_results(given or source(), pixels, found, facts, creation=creation, **named)


def uids(results):
    return {kind: result.SOPInstanceUID for kind, result in results.items()}


# --- identity: a UID for each content ---

CHANGES = {
    "name": {"PatientName": "Right^Name"},
    "patient": {"PatientID": "P2"},
    "birth date": {"PatientBirthDate": "19500101"},
    "sex": {"PatientSex": "F"},
    "study": {"StudyInstanceUID": SERIES + ".9"},
    "accession": {"AccessionNumber": "A9"},
    "study date": {"StudyDate": "20200103"},
    "character set": {"SpecificCharacterSet": "ISO_IR 192"},
    "instance": {"SOPInstanceUID": SERIES + ".8"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_identity_is_another_object(change):
    before, after = uids(made()), uids(made(source(**CHANGES[change])))
    assert not set(before.values()) & set(after.values())


@pytest.mark.parametrize(
    "other",
    [
        {"found": EMPTY},
        {"found": FOUND._replace(scores=FOUND.scores + np.float32(0.01))},
        {"facts": FACTS._replace(model_hash="cd" * 32)},
        {"facts": FACTS._replace(threshold=0.39)},
        {"facts": FACTS._replace(model_version="9")},
        {"warnings": ("degraded",)},
        {"creation": ObjectCreation(NOON, content_digest="ab")},
    ],
)
def test_another_result_is_another_object(other):
    before, after = uids(made()), uids(made(**other))
    kinds = ("SR",) if "warnings" in other else ("SR", "PR", "SC")
    assert all(before[kind] != after[kind] for kind in kinds)


def test_other_pixels_are_another_picture():
    assert uids(made())["SC"] != uids(made(pixels=PIXELS[::-1]))["SC"]


def test_the_same_result_later_is_the_same_object():
    later = ObjectCreation(NOON + timedelta(days=3))
    first, second = made(), made(creation=later)
    assert uids(first) == uids(second)
    assert {r.SeriesInstanceUID for r in first.values()} == {
        r.SeriesInstanceUID for r in second.values()
    }
    # and with the first at hand, byte for byte
    third = made(creation=ObjectCreation(NOON + timedelta(days=3), earlier=first))
    for kind, result in first.items():
        assert file_bytes(result) == file_bytes(third[kind])


def test_each_result_is_a_series_of_its_own():
    """OHIF shows the newest report of a series only; the series date is then the object's."""
    two = [made(), made(source(SOPInstanceUID=SERIES + ".8", InstanceNumber=2))]
    series = [result.SeriesInstanceUID for results in two for result in results.values()]
    assert len(set(series)) == 6


def predecessors(report):
    return [
        (series.SeriesInstanceUID, item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", ())
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]


def test_a_corrected_report_names_its_predecessors():
    wrong = made(source(PatientName="Wrong^Name"))
    right = made(source(), creation=ObjectCreation(NOON, earlier=wrong))
    first = wrong["SR"]
    assert predecessors(first) == []
    assert predecessors(right["SR"]) == [
        (first.SeriesInstanceUID, COMPREHENSIVE_SR, first.SOPInstanceUID)
    ]
    assert right["SR"].PredecessorDocumentsSequence[0].StudyInstanceUID == SERIES + ".1"
    # read from a file, and made again: the same object
    kept = {"SR": pydicom.dcmread(io.BytesIO(file_bytes(right["SR"])))}
    again = made(source(), creation=ObjectCreation(NOON + timedelta(1), earlier=kept))
    assert file_bytes(again["SR"]) == file_bytes(right["SR"])
    # corrected back: a third object that names both, since the archive has the first already
    back = made(source(PatientName="Wrong^Name"), creation=ObjectCreation(NOON, earlier=right))
    assert back["SR"].SOPInstanceUID not in (first.SOPInstanceUID, right["SR"].SOPInstanceUID)
    assert [uid for _, _, uid in predecessors(back["SR"])] == [
        first.SOPInstanceUID, right["SR"].SOPInstanceUID,
    ]  # fmt: skip
    once_more = made(source(PatientName="Wrong^Name"), creation=ObjectCreation(NOON, earlier=back))
    assert file_bytes(once_more["SR"]) == file_bytes(back["SR"])


@pytest.mark.parametrize(
    "tags", [{"SOPInstanceUID": SERIES + ".8"}, {"StudyInstanceUID": SERIES + ".9"}]
)
def test_the_report_of_another_image_is_no_predecessor(tags):
    other = made(source(**tags))
    assert predecessors(made(creation=ObjectCreation(NOON, earlier=other))["SR"]) == []


# --- times ---


@pytest.mark.parametrize(
    ("offset", "moment", "day", "time"),
    [
        ("+0000", NOON, "20260304", "120000"),
        ("+0530", NOON, "20260304", "173000"),
        ("-1200", NOON - timedelta(hours=1), "20260303", "230000"),
        ("+0000", NOON.replace(tzinfo=timezone(timedelta(hours=2))), "20260304", "100000"),
        ("", datetime(2026, 3, 4, 9, 8, 7), "20260304", "090807"),  # local time, as it is
    ],
)  # fmt: skip
def test_objects_are_dated_when_they_are_made(offset, moment, day, time):
    given = source(StudyDate="20200102", AcquisitionDate="20200103", TimezoneOffsetFromUTC=offset)
    results = made(given, creation=ObjectCreation(moment))
    pairs = {
        "SR": ("ContentDate", "ContentTime"),
        "PR": ("PresentationCreationDate", "PresentationCreationTime"),
        "SC": ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
    }
    for kind, names in pairs.items():
        result = results[kind]
        for date, clock in (
            names, ("InstanceCreationDate", "InstanceCreationTime"), ("SeriesDate", "SeriesTime"),
        ):  # fmt: skip
            assert (result[date].value, result[clock].value) == (day, time)
        assert result.StudyDate == "20200102"
    assert results["SC"].AcquisitionDate == "20200103"  # of the image that it shows
    assert "AcquisitionDate" not in results["SR"]


def test_the_default_is_now():
    before = datetime.now().strftime("%Y%m%d%H%M%S")
    report = build_results(source(), PIXELS, FOUND, FACTS)["SR"]
    after = datetime.now().strftime("%Y%m%d%H%M%S")
    assert before <= report.ContentDate + report.ContentTime <= after


def test_a_de_identified_result_has_no_day():
    given = source(LongitudinalTemporalInformationModified="REMOVED")
    for result in made(given).values():
        assert "20260304" not in result.to_json()


# --- codes and content ---


def test_codes_are_standard_ones():
    report = made(source(PixelSpacing=[0.5, 0.25]))["SR"]
    assert OWN not in report.to_json()
    assert findings(report) == ["Opacity"] * 3
    assert OWN not in made(found=EMPTY)["SR"].to_json()


def test_the_algorithm_is_identified_at_every_statement():
    report = made()["SR"]
    groups = [item for item in items(report, "CONTAINER") if meaning(item) == "Measurement Group"]
    scores = [item for item in items(report, "NUM") if meaning(item) == "Score"]
    for stated in [*groups, *scores]:
        texts = [(meaning(item), item.TextValue) for item in items(stated, "TEXT")]
        assert ("Algorithm Name", "tiny") in texts
        assert ("Algorithm Version", "0.1.0") in texts
        parameters = [value for name, value in texts if name == "Algorithm Parameters"]
        assert parameters == [
            "model hash " + "ab" * 32, "operating point balanced", "score >= 0.400000",
        ]  # fmt: skip


def test_the_image_library_dates_the_image():
    given = source(StudyDate="20200102", AcquisitionDate="20200103", AcquisitionTime="101010.5")
    report = made(given)["SR"]
    (group,) = [i for i in items(report, "CONTAINER") if meaning(i) == "Image Library Group"]
    (entry,) = group.ContentSequence
    assert entry.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == SERIES + ".1.1.1"
    dates = {meaning(item): item.Date for item in items(entry, "DATE")}
    assert dates == {"Study Date": "20200102", "Acquisition Date": "20200103"}
    assert [item.Time for item in items(entry, "TIME")] == ["101010.5"]


def test_the_request_is_taken_over():
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = "RP1", "S1"
    given = source(AccessionNumber="A1", RequestAttributesSequence=Sequence([item]))
    (request,) = made(given)["SR"].ReferencedRequestSequence
    assert (request.RequestedProcedureID, request.AccessionNumber) == ("RP1", "A1")
    assert request.StudyInstanceUID == SERIES + ".1"
    assert request.FillerOrderNumberImagingServiceRequest == ""
    ordered = source(PlacerOrderNumberImagingServiceRequest="PO1")
    (request,) = made(ordered)["SR"].ReferencedRequestSequence
    assert request.PlacerOrderNumberImagingServiceRequest == "PO1"
    assert "ReferencedRequestSequence" not in made(source(AccessionNumber="A1"))["SR"]


def test_the_capture_has_the_spacing_of_its_own_pixels():
    wide = np.full((2048, 1536), 100, np.uint8)
    found = EMPTY._replace(width=1536, height=2048)
    picture = made(source(PixelSpacing=[0.2, 0.1]), found, pixels=wide)["SC"]
    assert [float(side) for side in picture.PixelSpacing] == [0.4, 0.2]
    assert "ImagerPixelSpacing" not in picture
    detector = made(source(ImagerPixelSpacing=[0.2, 0.1]), found, pixels=wide)["SC"]
    assert detector.PixelSpacing == detector.ImagerPixelSpacing
    assert [float(side) for side in detector.PixelSpacing] == [0.4, 0.2]
    small = made(source(PixelSpacing=[0.2, 0.1]))["SC"]
    assert [float(side) for side in small.PixelSpacing] == [0.2, 0.1]


# --- readers ---


def ohif(report):
    """How OHIF's cornerstone-dicom-sr handler reads a report: measurements, referenced images.

    An absent attribute is a TypeError there, as it is an AttributeError here.
    """

    def named(content, value):
        return next(i for i in content if i.ConceptNameCodeSequence[0].CodeValue == value)

    content = list(report.ContentSequence)
    library = named(content, "111028")
    group = named(library.ContentSequence, "126200")
    images = [item.ReferencedSOPSequence[0] for item in group.ContentSequence]
    measurements = []
    for item in named(content, "126010").ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue != "125007":
            continue
        inside = item.ContentSequence
        graphics = [part for part in inside if part.ValueType == "SCOORD"]
        numbers = [part for part in inside if part.ValueType == "NUM"]
        if not graphics:
            for number in numbers:  # reads where the number was measured
                assert number.ContentSequence[0].ValueType == "SCOORD"
            continue
        tracking = next(part for part in inside if part.ValueType == "UIDREF").UID
        name = named(inside, "112039").TextValue
        place = graphics[0].ContentSequence[0].ReferencedSOPSequence[0]
        labels = [
            f"{meaning(number)}: {float(number.MeasuredValueSequence[0].NumericValue):.2f} "
            + number.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue
            for number in numbers
        ]
        site = next(
            part.ConceptCodeSequence[0].CodeMeaning
            for part in inside
            if part.ConceptNameCodeSequence[0].CodeValue == "363698007"
        )
        measurements.append((name, tracking, place.ReferencedSOPInstanceUID, labels, site))
    return measurements, images


def test_ohif_finds_every_box_and_opens_a_negative_report():
    measurements, images = ohif(made(source(PixelSpacing=[0.5, 0.25]))["SR"])
    assert [(m[0], m[2], m[3], m[4]) for m in measurements] == [
        ("Region 1", SERIES + ".1.1.1",
         ["Certainty of Finding: 62.00 %", "Width: 7.50 mm", "Height: 25.00 mm"], "Lung"),
        ("Region 2", SERIES + ".1.1.1",
         ["Certainty of Finding: 41.00 %", "Width: 7.50 mm", "Height: 25.25 mm"], "Lung"),
    ]  # fmt: skip
    assert len({m[1] for m in measurements}) == 2
    assert [image.ReferencedSOPInstanceUID for image in images] == [SERIES + ".1.1.1"]
    assert ohif(made(found=EMPTY)["SR"])[0] == []


def test_highdicom_reads_the_report_back():
    highdicom = pytest.importorskip("highdicom")
    report = made(source(PixelSpacing=[0.5, 0.25]))["SR"]
    read = highdicom.sr.srread(io.BytesIO(file_bytes(report))).content
    regions = read.get_planar_roi_measurement_groups()
    assert [region.tracking_identifier for region in regions] == ["Region 1", "Region 2"]
    assert [region.finding_type.meaning for region in regions] == ["Opacity", "Opacity"]
    np.testing.assert_array_equal(
        regions[0].roi.value, [[50, 30], [80, 30], [80, 80], [50, 80], [50, 30]]
    )
    values = {m.name.meaning: float(m.value) for m in regions[0].get_measurements()}
    assert values == {"Certainty of Finding": 62.0, "Width": 7.5, "Height": 25.0}
    (whole,) = read.get_image_measurement_groups()
    (flag,) = whole.get_qualitative_evaluations()
    assert (flag.name.meaning, flag.value.meaning) == ("Has interpretation", "Positive")
    negative = highdicom.sr.srread(io.BytesIO(file_bytes(made(found=EMPTY)["SR"]))).content
    assert negative.get_planar_roi_measurement_groups() == []
    (whole,) = negative.get_image_measurement_groups()
    assert whole.finding_type is None


def test_tables_are_part_of_the_identity():
    """A presentation state with another look-up table is another object."""
    states = [
        made(source(VOILUTSequence=Sequence([lut_item(values, 0, 9)])))["PR"].SOPInstanceUID
        for values in (range(0, 512, 2), range(256))
    ]
    assert len(set(states)) == 2
