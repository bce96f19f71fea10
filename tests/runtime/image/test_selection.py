"""Which images the model may judge; the same rules for batch and daemon."""

import pytest

from deploy_jetson.device.daemon.settings import RulesSettings
from pneumonia.runtime.image.selection import select, word_against
from tests.runtime.dicoms import chest_dataset

DICOM = {"format": "dicom", "modality": "DX", "view": "PA", "body_part": "CHEST"}


@pytest.mark.parametrize(
    ("change", "words", "rules", "expected"),
    [
        ({}, (), {}, ("", "", ())),
        ({"view": "LL"}, (), {}, ("skipped", "not_frontal_chest", ())),
        ({"modality": "CT"}, (), {}, ("skipped", "not_frontal_chest", ())),
        ({"modality": "OTHER"}, (), {}, ("skipped", "not_frontal_chest", ())),
        ({"view": None, "body_part": "OTHER"}, (), {}, ("", "", ("view_unknown",
                                                                 "body_part_unknown"))),
        ({"for_processing": True}, (), {}, ("skipped", "for_processing", ())),
        ({"word_against": "lateral"}, (), {}, ("", "", ("view_conflict",))),
        ({"word_against": "lateral", "view": None}, (), {}, ("skipped", "not_frontal_chest", ())),
        ({"is_child": True}, (), {}, ("", "", ("outside_indication",))),
        ({"is_child": True}, (), {"children": "skip"}, ("skipped", "child", ())),
        ({"format": "png"}, (), {}, ("", "", ())),
        ({"format": "png"}, (), {"pictures": "skip"}, ("skipped", "picture", ())),
        ({}, ("blank_image",), {}, ("rejected", "blank_image", ("blank_image",))),
    ],
)  # fmt: skip
def test_rules(change, words, rules, expected):
    assert select({**DICOM, **change}, words, RulesSettings(**rules)) == expected


def test_rules_agree_with_those_of_the_batch():
    selection = pytest.importorskip("pneumonia.scoring.image.selection")
    batch, own = selection.load_rules(), RulesSettings()
    for code in ("modality", "view", "body_part"):
        assert set(getattr(own, code)) == set(getattr(batch, code))
    assert (own.children, own.pictures) == (batch.children, batch.pictures)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"SeriesDescription": "LUNGS LATERAL"}, "lateral"),
        ({"ProtocolName": "pa and lateral"}, ""),
        ({"SeriesDescription": "bilateral"}, ""),
        ({"SeriesDescription": ["chest", "lateral"]}, "lateral"),
        ({}, ""),
    ],
)
def test_words_of_descriptions(tags, expected):
    import numpy as np

    dataset = chest_dataset(np.zeros((4, 4), np.uint8), **tags)
    assert word_against(dataset, ("lateral",), ("pa", "ap")) == expected
    assert word_against(dataset, (), ()) == ""
