"""Reports in shorthand: words, gold, candidates and priors by hand."""

from benchmarks.reports.shorthand import SHORT_FORMS, Shorthand, ambiguous
from data_prep.reports.findings.concepts import ConceptBase, ConceptTables
from data_prep.reports.findings.mentions import MentionFinder
from data_prep.reports.linker.documents import LinkDocument

BASE = ConceptBase(
    ConceptTables(
        codes={
            "Pleural Effusion/left": 2,
            "Pleural Effusion/right": 2,
            "Pericardial Effusion": 1,
            "Cyst": 1,
        },
        aliases={
            "Pleural Effusion": ["pleural effusion"],
            "Cyst": ["cyst"],
            "Pericardial Effusion": ["pericardial effusion"],
        },
        qualifiers={"left": ["left"], "right": ["right"], "small": ["small"]},
    )
)
FINDER = MentionFinder(BASE)
LEFT = "FINDINGS: There is a left pleural effusion. No cyst.\nIMPRESSION: {}"
TRAIN = [
    LEFT.format("Small left pleural effusion."),
    "FINDINGS: Right pleural effusion.",
    "FINDINGS: Pericardial effusion. Cyst.",
]


def make(text: str, counted: bool = False) -> LinkDocument:
    shorthand = Shorthand(BASE, [FINDER.read(report) for report in TRAIN])
    return shorthand.document("r", *FINDER.read(text), counted=counted)


def test_the_impression_loses_the_name_and_the_side_and_keeps_the_gold() -> None:
    document = make(TRAIN[0])
    spelt, short = document.mentions  # absent findings are no mentions of the document
    assert [c.entity for c in spelt.candidates] == ["Pleural Effusion/left"]
    assert spelt.gold == short.gold == "Pleural Effusion/left"
    assert short.surface in {("effusion",), ("pe",)}
    assert document.words == ("left", "pleural", "effusion", "no", "cyst", "small", *short.surface)
    assert (ambiguous(spelt), ambiguous(short)) == (False, True)
    assert short.context == document.words  # places count words of the shortened text


def test_candidates_are_the_concepts_that_share_the_form() -> None:
    short = make(TRAIN[0]).mentions[1]
    found = {c.entity: c.prior for c in short.candidates}
    assert found == {
        "Pleural Effusion/left": 0.5, "Pleural Effusion/right": 0.25, "Pericardial Effusion": 0.25,
    }  # fmt: skip


def test_a_training_report_does_not_count_for_its_own_priors() -> None:
    short = make(TRAIN[0], counted=True).mentions[1]
    found = {c.entity: c.prior for c in short.candidates}
    assert found == {"Pleural Effusion/right": 0.5, "Pericardial Effusion": 0.5}


def test_an_impression_alone_is_not_shortened() -> None:
    document = make("IMPRESSION: Left pleural effusion.")
    assert document.words == ("left", "pleural", "effusion")
    assert not any(map(ambiguous, document.mentions))


def test_denied_findings_keep_their_text() -> None:
    document = make(LEFT.format("Left pleural effusion. No right pleural effusion."))
    assert document.words[-4:] == ("no", "right", "pleural", "effusion")
    assert len(document.mentions) == 2


def test_every_form_stands_for_several_headings_of_the_shipped_lexicon() -> None:
    known = set(ConceptBase.load().headings)
    for headings in SHORT_FORMS.values():
        assert len(known.intersection(headings)) > 1
        assert known.issuperset(headings)
