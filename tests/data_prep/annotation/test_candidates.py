"""What is offered for a box, and how fast a type is found."""

import time

import pytest

from data_prep.annotation.candidates import (
    TypeIndex,
    coarse_types,
    describe,
    frequent,
    groups,
    image_side,
    offer_findings_of_report,
    refilter,
)
from data_prep.reports.findings.concepts import ConceptBase, ConceptTables
from data_prep.reports.findings.linking import link_report
from pneumonia.runtime.errors import DataError

BASE = ConceptBase.load()
TEXT = (
    "FINDINGS: There is a patchy opacity in the left lower lobe. Possible right pleural effusion. "
    "No pneumothorax. IMPRESSION: Left lower lobe opacity."
)
LINKED = link_report(TEXT, BASE)


def codes(offers):
    return [offer.code for offer in offers]


def test_the_report_offers_what_it_states():
    offers = offer_findings_of_report(BASE, LINKED)
    headings = [code.split("/")[0] for code in codes(offers)]
    assert "Opacity" in headings
    assert "Pneumothorax" not in headings  # it says that there is none
    assert headings.index("Opacity") < headings.index("Pleural Effusion")  # stated before doubtful
    assert len(set(codes(offers))) == len(offers)
    start, end = offers[0].span
    assert "opacity" in TEXT[start:end].lower()


def test_findings_of_the_other_side_go_last():
    left = offer_findings_of_report(BASE, LINKED, "left")
    right = offer_findings_of_report(BASE, LINKED, "right")
    assert left[0].code.startswith("Opacity")
    assert right[0].code.startswith("Pleural Effusion")
    assert [o.other_side for o in left] == sorted(o.other_side for o in left)


def test_findings_of_the_side_of_the_box_go_first():
    text = "FINDINGS: Cardiomegaly. Opacity in the right lung. Left pleural effusion."
    linked = link_report(text, BASE)
    headings = [
        [code.split("/")[0] for code in codes(offer_findings_of_report(BASE, linked, side))]
        for side in ("", "right", "left")
    ]
    assert headings == [
        ["Cardiomegaly", "Opacity", "Pleural Effusion"],
        ["Opacity", "Cardiomegaly", "Pleural Effusion"],
        ["Pleural Effusion", "Cardiomegaly", "Opacity"],
    ]


def test_coarse_choice_filters():
    offers = refilter(BASE, LINKED, "Pleura")
    assert offers[0].source == "report"
    assert offers[0].code.startswith("Pleural Effusion")
    assert {offer.coarse for offer in offers} == {"Pleura"}
    assert len(offers) <= 9
    without = refilter(BASE, [], "Pleura")
    assert codes(without) == codes(frequent(BASE, "Pleura"))[:9]
    with pytest.raises(DataError):
        refilter(BASE, [], "No such group")


def test_coarse_types_keep_their_place():
    with_report, without = coarse_types(BASE, LINKED), coarse_types(BASE, [])
    assert [name for name, _ in with_report] == [name for name, _ in without]
    assert dict(with_report)["Lungs"] >= 1
    assert not any(n for _, n in without)


def test_the_group_that_is_used_most_comes_first():
    counts = {"Rib": 1, "Effusion": 5, "Opacity": 3, "Opacity/left": 4, "normal": 99, "View": 0}
    names = {"Bones": ["Rib"], "Pleura": ["Effusion"], "Lungs": ["Opacity"], "Study": ["normal"]}
    base = ConceptBase(ConceptTables(codes=counts, groups=names))
    assert groups(base) == ("Lungs", "Pleura", "Bones", "Other")  # no finding is in `Study`
    assert groups(BASE)[0] == "Lungs"


@pytest.mark.parametrize(
    ("box", "side"),
    [
        ((0, 0, 40, 9), "right"),
        ((60, 0, 90, 9), "left"),
        ((40, 0, 60, 9), ""),
        ((10, 0, 52, 9), "right"),
    ],
)
def test_side_of_a_box(box, side):
    assert image_side(box, 100) == side


def test_search_by_beginning_alias_and_part_of_a_name():
    index = TypeIndex(BASE)
    assert index.search("opac")[0] == "Opacity"
    assert index.search("OPACITY/lung/lower")[0] == "Opacity/lung/lower lobe"
    assert "Cardiomegaly" in index.search("enlarged heart") + index.search("cardiomeg")
    assert "Pleural Effusion" in index.search("effusion")
    assert index.search("") == index.search("   ") == index.search("zzzz") == []
    assert len(index.search("o", limit=7)) == 7


def test_search_is_fast_at_ten_thousand_types():
    counts = {f"Heading {i // 100}/site {i % 100}": 1 for i in range(10_000)}
    index = TypeIndex(ConceptBase(ConceptTables(codes=counts)))
    start = time.process_time()
    for prefix in ("h", "heading 5", "site 7", "si", "9"):
        assert index.search(prefix)
    assert (time.process_time() - start) / 5 < 0.1


def test_description():
    about = describe(BASE, "Cardiomegaly")
    assert about["path"] == ["Heart", "Cardiomegaly"]
    assert about["reports"] > 0
    assert about["also_called"]
    assert describe(BASE, "Lungs")["often_with"] == []
