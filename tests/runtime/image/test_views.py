"""View, purpose and age of an image, whichever attribute states them."""

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from pneumonia.runtime.image.age import stated_age
from pneumonia.runtime.image.dicom_header import contradictions, is_for_processing
from pneumonia.runtime.image.selection import WORDS_AGAINST, WORDS_WANTED, word_against
from pneumonia.runtime.image.views import stated_view
from pneumonia.scoring.image.selection import load_rules
from tests.runtime.dicoms import chest_dataset

PIXELS = np.zeros((4, 4), np.uint8)


def header(**tags):
    """A header without a view and an age but those given; values need not be valid."""
    dataset = chest_dataset(PIXELS, ViewPosition=None, PatientAge=None)
    for keyword, value in tags.items():
        kind = {"PatientAge": "AS", "PatientBirthDate": "DA", "StudyDate": "DA"}.get(keyword)
        if kind:
            dataset[keyword] = DataElement(keyword, kind, value, already_converted=True)
        else:
            setattr(dataset, keyword, value)
    return dataset


def code(value, scheme="SCT", keyword="CodeValue"):
    item = Dataset()
    setattr(item, keyword, value)
    item.CodingSchemeDesignator, item.CodeMeaning = scheme, "a view"
    return [item]


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("PA", "PA"), ("pa", "PA"), (" P.A. ", "PA"), ("Postero-Anterior", "PA"),
        ("PA ERECT", "PA"), ("POSTERO ANTERIOR UPRIGHT", "PA"), ("FRONTAL PA", "PA"),
        ("AP", "AP"), ("AP SUPINE", "AP"), ("PORTABLE AP", "AP"), ("AP_BEDSIDE", "AP"),
        ("LAT", "LATERAL"), ("LATERAL", "LATERAL"), ("LAT L", "LATERAL"), ("L-LAT", "LL"),
        ("LLAT", "LL"), ("RLAT", "RL"), ("LL", "LL"), ("RL", "RL"), ("L", "LL"), ("R", "RL"),
        ("Left Lateral", "LATERAL"), ("CHEST LAT", "LATERAL"), ("seitl.", "LATERAL"),
        ("Profil", "LATERAL"), ("PERFIL", "LATERAL"), ("latero-laterale", "LATERAL"),
        ("LEFT LATERAL DECUBITUS", "DECUBITUS"), ("LLD", "LLD"), ("LORDOTIC", "LORDOTIC"),
        ("RAO", "RAO"), ("Schräg", "OBLIQUE"), ("PA LAT", "OTHER"), ("PA/AP", "OTHER"),
        ("CANARY", "OTHER"), ("A", "OTHER"), ("", None), ("FRONTAL", None), (["", ""], None),
        (["PA", "LL"], "OTHER"), (["PA", "PA"], "PA"),
    ],
)  # fmt: skip
def test_view_position(text, view):
    assert stated_view(header(ViewPosition=text)).code == view


@pytest.mark.parametrize(
    ("orientation", "view"),
    [
        (["P", "F"], "LATERAL"), (["A", "F"], "LATERAL"), (["A", "FR"], "LATERAL"),
        (["F", "A"], "LATERAL"), (["PL", "H"], "LATERAL"), (["A", "L"], "AXIAL"),
        (["L", "F"], None), (["R", "F"], None), (["F", "L"], None), (["X", "F"], None),
        (["L"], None), (["A", "P"], None), ("", None),
    ],
)  # fmt: skip
def test_patient_orientation(orientation, view):
    assert stated_view(header(PatientOrientation=orientation)).code == view


@pytest.mark.parametrize(
    ("value", "scheme", "view"),
    [
        ("399067008", "SCT", "LATERAL"), ("399173006", "SCT", "LL"), ("399198007", "SCT", "RL"),
        ("R-10236", "SRT", "LL"), ("R-10232", "SNM3", "RL"), ("R-102CD", "SRT", "LATERAL"),
        ("272479007", "SCT", "PA"), ("R-10214", "SRT", "PA"), ("R-10206", "SRT", "AP"),
        ("399348003", "SCT", "AP"), ("399033003", "SCT", None), ("399182000", "SCT", "OBLIQUE"),
        ("12345", "99X", None),
    ],
)  # fmt: skip
def test_view_codes(value, scheme, view):
    assert stated_view(header(ViewCodeSequence=code(value, scheme))).code == view
    if value.isdigit():
        long = code(value, scheme, "LongCodeValue")
        assert stated_view(header(ViewCodeSequence=long)).code == view


def test_the_table_of_codes_is_that_of_the_standard():
    concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    mapping = pytest.importorskip("pydicom.sr._snomed_dict").mapping["SRT"]
    for name, view in {
        "PosteroAnterior": "PA", "AnteroPosterior": "AP", "LeftLateral": "LL",
        "RightLateral": "RL", "LateralProjection": "LATERAL", "Sagittal": "LATERAL",
        "LeftAnteriorOblique": "LAO", "RightPosteriorOblique": "RPO", "AxialProjection": "AXIAL",
        "ObliqueProjection": "OBLIQUE", "LateralOblique": "OBLIQUE",
    }.items():  # fmt: skip
        value = next(iter(concepts[name]))
        older = [old for old, new in mapping.items() if new == value]
        for one in [value, *older]:
            assert stated_view(header(ViewCodeSequence=code(one))).code == view, (name, one)


@pytest.mark.parametrize(
    ("tags", "view", "codes"),
    [
        ({"ViewPosition": "PA", "PatientOrientation": ["L", "F"]}, "PA", []),
        ({"ViewPosition": "LL", "ViewCodeSequence": code("399067008")}, "LL", []),
        ({"ViewPosition": "CANARY", "PatientOrientation": ["A", "F"]}, "LATERAL", []),
        ({"ViewPosition": "PA", "PatientOrientation": ["A", "F"]}, "PA", ["view_conflict"]),
        ({"ViewPosition": "LL", "PatientOrientation": ["L", "F"]}, "LL", ["view_conflict"]),
        ({"ViewPosition": "AP", "ViewCodeSequence": code("272479007")}, "AP", ["view_conflict"]),
        ({"ViewPosition": "FRONTAL", "PatientOrientation": ["A", "F"]}, None, ["view_conflict"]),
        ({"ViewPosition": "FRONTAL", "ViewCodeSequence": code("272479007")}, "PA", []),
    ],
)
def test_attributes_together(tags, view, codes):
    dataset = header(**tags)
    assert stated_view(dataset).code == view
    assert contradictions(dataset) == codes


@pytest.mark.parametrize(
    ("tags", "excluded"),
    [
        ({"SeriesDescription": "W033 Thorax, seitl."}, True),
        ({"SeriesDescription": "THORAX LATERALE"}, True),
        ({"SeriesDescription": "Torace LL"}, True),
        ({"SeriesDescription": "Thorax de profil"}, True),
        ({"SeriesDescription": "Tórax perfil izquierdo"}, True),
        ({"SeriesDescription": "Thorax SCHRÄG"}, True),
        ({"SeriesDescription": "ChestLat"}, True),
        ({"ProtocolName": "CHEST_LAT_1"}, True),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LATERAL"]}, True),
        ({"StudyDescription": "Chest lateral"}, True),
        ({"StudyDescription": "Chest 2 views, lateral"}, False),
        ({"StudyDescription": "Thorax frontal et profil"}, False),
        ({"StudyDescription": "Thorax face"}, False),
        ({"StudyDescription": "XR CHEST AND LATERAL"}, False),
        ({"StudyDescription": "Thorax lateral", "SeriesDescription": "Thorax p.a."}, False),
        ({"SeriesDescription": "bilateral infiltrates"}, False),
        ({"SeriesDescription": "PA and lateral"}, False),
        ({"SeriesDescription": "Thorax"}, False),
    ],
)
def test_words_in_five_languages(tags, excluded):
    assert bool(word_against(header(**tags), WORDS_AGAINST, WORDS_WANTED)) is excluded


def test_batch_and_daemon_know_the_same_view_names():
    rules = load_rules()
    assert (rules.words_against, rules.words_wanted) == (WORDS_AGAINST, WORDS_WANTED)


@pytest.mark.parametrize(
    ("age", "child"),
    [
        ("002Y", True), ("2Y", True), ("02Y", True), ("002y", True), ("24M", True), ("730D", True),
        ("3W", True), ("2 years", True), ("4 ans", True), ("2 Jahre", True), ("5", True),
        ("018Y", False), ("216M", False), ("240M", False), ("9999D", False), ("45Y", False),
        ("45 yo", False), ("045Y ", False), ("45", None), ("999Y", None), ("Y", None),
        ("CANARY", None), ("", None), ("-2Y", None),
    ],
)  # fmt: skip
def test_ages(age, child):
    assert stated_age(header(PatientAge=age)) == (child, False)


@pytest.mark.parametrize(
    ("born", "studied", "child"),
    [
        ("20220101", "20240102", True), ("20060103", "20240102", True),
        ("20060102", "20240102", False), ("2022.01.01", "2024.01.02", True),
        ("2022-01-01", "20240102", True), ("2022", "20240102", True), ("202201", "2024", True),
        ("1950", "2024", False), ("2006", "2024", None), ("20250101", "20240102", None),
        ("18000101", "20240102", None), ("20220230", "20240102", None), ("", "20240102", None),
        ("20220101", "", None), ("CANARY", "20240102", None),
    ],
)  # fmt: skip
def test_ages_by_dates(born, studied, child):
    found = stated_age(header(PatientBirthDate=born, StudyDate=studied))
    assert found == (child, False)


def test_another_date_stands_in_for_the_studys():
    dataset = header(PatientBirthDate="20220101", AcquisitionDate="20240102")
    assert stated_age(dataset).is_child is True


@pytest.mark.parametrize(
    ("age", "born", "child"),
    [("045Y", "20220101", True), ("002Y", "19500101", True), ("000Y", "19500101", False)],
)
def test_age_and_dates_that_disagree(age, born, child):
    dataset = header(PatientAge=age, PatientBirthDate=born, StudyDate="20240102")
    assert stated_age(dataset) == (child, True)
    assert contradictions(dataset) == ["age_conflict"]


ROOT = "1.2.840.10008.5.1.4.1.1."


@pytest.mark.parametrize(
    ("sop_class", "intent", "raw", "codes"),
    [
        (ROOT + "1.1.1", None, True, []),
        (ROOT + "1.1.1", "FOR PROCESSING", True, []),
        (ROOT + "1.1", "FOR PROCESSING", True, ["presentation_intent_conflict"]),
        (ROOT + "1.1.1", "FOR PRESENTATION", True, ["presentation_intent_conflict"]),
        (ROOT + "1", "for_processing", True, []),
        (ROOT + "1.1", "FOR PRESENTATION", False, []),
        (ROOT + "1", None, False, []),
    ],
)
def test_images_for_processing(sop_class, intent, raw, codes):
    tags = {"PresentationIntentType": intent} if intent else {}
    dataset = header(SOPClassUID=sop_class, **tags)
    assert is_for_processing(dataset) is raw
    assert contradictions(dataset) == codes
