"""Sections, sentences, mentions, sites and assertions of reports, against answers by hand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.reports.findings.concepts import ConceptBase, ConceptTables
from data_prep.reports.findings.linking import MAX_CHARACTERS, link_report, refine
from data_prep.reports.findings.mentions import AliasTable, MentionFinder
from data_prep.reports.findings.text import find_sections, find_sentences, normal_form
from pneumonia.runtime.errors import DataError

BASE = ConceptBase.load()
FIND = MentionFinder(BASE)


def assertions(text: str) -> list[tuple[str, str]]:
    return [(c.heading, c.assertion) for c in link_report(text, BASE)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is consolidation.", [("Consolidation", "present")]),
        ("No focal consolidation, pneumothorax, or pleural effusion.",
         [("Consolidation", "absent"), ("Pneumothorax", "absent"), ("Pleural Effusion", "absent")]),
        ("The heart is not enlarged.", [("Cardiomegaly", "absent")]),
        ("Small effusion without pneumothorax.",
         [("Pleural Effusion", "present"), ("Pneumothorax", "absent")]),
        ("No effusion but there is atelectasis.",
         [("Pleural Effusion", "absent"), ("Pulmonary Atelectasis", "present")]),
        ("Possible pneumonia.", [("Pneumonia", "uncertain")]),
        ("This may represent scarring.", [("Cicatrix", "uncertain")]),
        ("Pneumonia cannot be excluded.", [("Pneumonia", "uncertain")]),
        ("Pneumonia is not excluded.", [("Pneumonia", "uncertain")]),
        ("Pleural effusion is not seen.", [("Pleural Effusion", "absent")]),
        ("The infiltrate has resolved.", [("Infiltrate", "prior")]),
        ("Interval resolution of pulmonary edema.", [("Pulmonary Edema", "prior")]),
        ("No change in the nodule.", [("Nodule", "present")]),
        ("No significant interval change of the infiltrate.", [("Infiltrate", "present")]),
        ("Negative for pneumothorax.", [("Pneumothorax", "absent")]),
        ("Prior granulomatous disease.", [("Granulomatous Disease", "present")]),
        ("Normal heart. Lungs are clear.", []),
    ],
)  # fmt: skip
def test_assertion(text: str, expected: list[tuple[str, str]]) -> None:
    assert assertions(text) == expected


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("Streaky opacity in the left base.", ["Opacity/lung/base/left/streaky"]),
        ("Atelectasis or scarring in the right upper lobe.",
         ["Pulmonary Atelectasis/upper lobe/right", "Cicatrix/lung/upper lobe/right"]),
        ("Left base infiltrate and right upper lobe consolidation.",
         ["Infiltrate/lung/base/left", "Consolidation/lung/upper lobe/right"]),
        ("The heart is mildly enlarged.", ["Cardiomegaly/mild"]),
        ("Heart size is normal and the aorta is tortuous.", ["Aorta/tortuous"]),
        ("Elevation of the right hemidiaphragm.", ["Diaphragm/right/elevated"]),
        ("Low lung volumes.", ["Lung/hypoinflation"]),
    ],
)  # fmt: skip
def test_sites_and_sides_go_to_their_mention(text: str, codes: list[str]) -> None:
    assert [c.code for c in link_report(text, BASE)] == codes


def test_side_and_site_of_a_linked_concept() -> None:
    (concept,) = link_report("Streaky opacity in the left base.", BASE)
    assert (concept.side, concept.site) == ("left", "lung/base/streaky")
    assert concept.span == (8, 15)


def test_only_what_this_examination_shows_is_linked() -> None:
    text = "INDICATION: Pneumonia?\nCOMPARISON: Effusion.\nFINDINGS: Nodule.\nIMPRESSION: Mass."
    assert [s.kind for s in find_sections(text)] == [
        "indication", "comparison", "findings", "impression",
    ]  # fmt: skip
    assert [(c.heading, c.section) for c in link_report(text, BASE)] == [
        ("Nodule", "findings"),
        ("Mass", "impression"),
    ]


def test_a_report_without_headings_is_all_findings() -> None:
    assert [s.kind for s in find_sections("Clear lungs.\nNote: see below.")] == ["findings"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("LUNGS: Clear.\nHEART: Large.", ["findings"]),
        ("INDICATION: cough. FINDINGS: Lungs: clear. IMPRESSION: normal.",
         ["indication", "findings", "impression"]),
        ("Reason for exam: cough\nFindings\nClear.\nConclusion\nNormal.",
         ["indication", "findings", "impression"]),
        ("Our impression: stable.", ["findings"]),
        ("PRIOR FINDINGS AND IMPRESSION: Clear.", ["findings", "findings"]),
        ("FINDINGS:\nIMPRESSION: Clear.", ["impression"]),
        ("", []),
    ],
)  # fmt: skip
def test_sections_of_reports_as_hospitals_write_them(text: str, kinds: list[str]) -> None:
    found = find_sections(text)
    assert [section.kind for section in found] == kinds
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_sentences_end_where_they_should() -> None:
    text = "1. A 3.5 cm mass. Seen by Dr. Who. No effusion.Clear\n\nHeart normal"
    words = [" ".join(s.words) for s in find_sentences(text)]
    assert words == [
        "1 . a 3.5 cm mass", "seen by dr . who", "no effusion", "clear", "heart normal",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "form"),
    [("Opacities", "opacity"), ("nodules", "nodule"), ("mass", "mass"), ("sinus", "sinus"),
     ("atelectasis", "atelectasis"), ("is", "is")],
)  # fmt: skip
def test_normal_form(word: str, form: str) -> None:
    assert normal_form(word) == form


def test_the_longest_alias_wins_and_gaps_are_short() -> None:
    table = AliasTable([("mass", "M"), ("lung mass", "L"), ("heart .. large", "H"), ("..", "?")])
    assert [m.alias for m in table.find(["a", "lung", "mass"])] == ["lung mass"]
    assert [m.alias for m in table.find(["heart", "is", "rather", "very", "large"])] == [
        "heart .. large"
    ]
    assert table.find(["heart", "a", "b", "c", "d", "e", "f", "large"]) == []
    assert table.find(["heart", "normal", ",", "large"]) == []
    # the words of the gap stay free for other aliases
    assert [m.alias for m in table.find(["heart", "mass", "large"])] == ["heart .. large", "mass"]


def test_refine_picks_the_code_that_fits_best() -> None:
    base = ConceptBase(
        ConceptTables(codes={"Mass": 5, "Mass/left": 2, "Mass/left/large": 1, "Mass/right": 9})
    )
    assert refine(base, "Mass", ()) == "Mass"
    assert refine(base, "Mass", ("left",)) == "Mass/left"
    assert refine(base, "Mass", ("large", "left", "spine")) == "Mass/left/large"
    assert refine(base, "Mass/left", ()) == "Mass/left"
    assert refine(base, "Nodule", ("left",)) == "Nodule"


WORDS = st.sampled_from(
    ["no", "opacity", "left", "base", ".", "lungs", "FINDINGS:", "\n", "may", "heart", "enlarged",
     "\u00e4\u00f6", "<b>", "effusion", ",", "3.5", "-", "IMPRESSION:", "\x00", "is", "not", "seen"]
)  # fmt: skip


@given(st.one_of(st.lists(WORDS, max_size=60).map(" ".join), st.text(max_size=300)))
def test_any_text_gives_ordered_spans_inside_it(text: str) -> None:
    found = link_report(text, BASE)
    spans = [c.span for c in found]
    assert spans == sorted(spans)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(0 < c.score <= 1 and c.heading == c.code.split("/")[0] for c in found)
    for concept in found:  # the span begins with the alias's first word
        first = text[concept.span[0] : concept.span[1]].split(maxsplit=1)[0]
        assert normal_form(first.strip(".,-")).startswith(concept.alias.split()[0][:3])


def test_a_text_longer_than_a_report_is_refused() -> None:
    with pytest.raises(DataError, match="too long"):
        link_report("x" * (MAX_CHARACTERS + 1), BASE)


def test_work_grows_with_the_length_of_a_text_that_never_ends_a_sentence() -> None:
    """The longest text of one endless sentence: counted in calls, since clocks lie under load."""
    import sys

    def calls(text: str) -> int:
        count = 0

        def watch(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(watch)
        try:
            FIND(text)
        finally:
            sys.setprofile(None)
        return count

    phrase = "no opacity in the left base "
    assert calls(phrase * 800) < 8.5 * calls(phrase * 100)
