import pytest

from pneumonia.scoring.image.selection import is_another_examination, load_rules, select_image

RULES = load_rules()
CHEST = {"format": "dicom", "modality": "DX", "view": "PA", "body_part": "CHEST", "is_child": False}


@pytest.mark.parametrize(
    ("changes", "status", "reason", "words"),
    [
        ({}, "", "", ()),
        ({"modality": "CR", "view": "AP", "body_part": "THORAX"}, "", "", ()),
        ({"view": None}, "", "", ("view_unknown",)),
        ({"view": "OTHER", "body_part": None}, "", "", ("view_unknown", "body_part_unknown")),
        ({"is_child": True}, "", "", ("outside_indication",)),
        ({"is_child": None}, "", "", ()),
        ({"modality": "CT"}, "skipped", "not_frontal_chest", ()),
        ({"modality": "OTHER"}, "skipped", "not_frontal_chest", ()),
        ({"view": "LL"}, "skipped", "not_frontal_chest", ()),
        ({"view": "LATERAL"}, "skipped", "not_frontal_chest", ()),
        ({"body_part": "ABDOMEN"}, "skipped", "not_frontal_chest", ()),
    ],
)
def test_rules(changes, status, reason, words):
    selection = select_image({**CHEST, **changes}, (), RULES)
    assert selection == (status, reason, words)


def test_pictures_without_a_header_are_scored():
    info = {"format": "png", "modality": None, "view": None, "body_part": None, "is_child": None}
    assert select_image(info, ("colour_converted",), RULES) == ("", "", ("colour_converted",))


def test_a_blank_image_is_never_a_negative():
    assert select_image(CHEST, ("blank_image",), RULES)[:2] == ("rejected", "blank_image")


def test_a_file_without_descriptions_is_not_another_examination():
    assert not is_another_examination({}, RULES)
    assert is_another_examination({"modality": "MR"}, RULES)
