"""The linking of a report as a reader revises it."""

import pytest

from data_prep.annotation.mention_links import (
    candidate_codes,
    check_links,
    link_agreement,
    proposed_links,
    revise,
    vote_links,
)
from data_prep.annotation.workspace.records import MentionLink, Reading
from data_prep.reports.findings.concepts import NIL, ConceptBase
from data_prep.reports.findings.linking import link_report
from pneumonia.runtime.errors import DataError
from tests.data_prep.annotation.conftest import REPORT

BASE = ConceptBase.load()
LINKED = link_report(REPORT, BASE)
PROPOSED = proposed_links(BASE, REPORT, LINKED)
EFFUSION = next(link for link in PROPOSED if "ffusion" in link.code)
PNEUMOTHORAX = next(link for link in PROPOSED if link.code == "Pneumothorax")


def test_every_mention_is_proposed_with_what_the_report_says_of_it():
    said = {REPORT[link.start : link.end].lower(): link.assertion for link in PROPOSED}
    assert said["pleural effusion"] == "uncertain"
    assert said["pneumothorax"] == "absent"


def codes(links):
    return {concept.code: concept.assertion for concept in links}


def test_a_decision_replaces_the_proposal_for_its_characters():
    assert revise(LINKED, ()) == tuple(LINKED)
    changed = revise(LINKED, [EFFUSION._replace(code="Pneumonia", assertion="present")])
    assert codes(changed)["Pneumonia"] == "present"
    assert EFFUSION.code not in codes(changed)
    denied = revise(LINKED, [EFFUSION._replace(assertion="absent")])
    assert codes(denied)[EFFUSION.code] == "absent"
    restored = revise(LINKED, [PNEUMOTHORAX._replace(assertion="present")])
    assert codes(restored)["Pneumothorax"] == "present"
    assert EFFUSION.code not in codes(revise(LINKED, [EFFUSION._replace(code=NIL)]))
    added = revise(LINKED, [MentionLink(0, 8, "Cardiomegaly")])  # words the linker passed over
    assert codes(added)["Cardiomegaly"] == "present"
    assert [c.span for c in added] == sorted(c.span for c in added)


@pytest.mark.parametrize(
    "bad",
    [
        [MentionLink(0, len(REPORT) + 1, "Opacity")],
        [MentionLink(5, 5, "Opacity")],
        [MentionLink(0, 5, "No such")],
        [MentionLink(0, 5, "Opacity", "perhaps")],
        [MentionLink(0, 5, "Opacity"), MentionLink(0, 5, NIL)],
    ],
)
def test_impossible_decisions_are_refused(bad):
    with pytest.raises(DataError):
        check_links(bad, REPORT, BASE)


def test_candidates_are_what_the_words_may_stand_for():
    found = candidate_codes(BASE, REPORT, EFFUSION.span)
    assert found[0].startswith(EFFUSION.code.split("/")[0])
    assert candidate_codes(BASE, REPORT, (0, 3)) == []


def read(name, *links):
    return Reading("one", name, verdict="normal", mentions=links)


def test_agreement_counts_code_and_assertion_of_every_mention():
    denied = EFFUSION._replace(assertion="absent")
    studies = {"one": [read("ann", denied), read("bob")], "two": [read("ann"), read("bob")]}
    (pair,) = link_agreement(studies, {"one": PROPOSED, "two": PROPOSED})
    assert pair.annotators == ("ann", "bob")
    assert pair.n_mentions == len(PROPOSED)  # nobody revised the second report
    assert pair.percent == pytest.approx(1 - 1 / len(PROPOSED))


def test_majority_of_links_and_ties_at_the_common_ancestor():
    left = EFFUSION._replace(code="Opacity/lung/lower lobe/left")
    right = EFFUSION._replace(code="Opacity/lung/lower lobe/right", assertion="present")

    def vote(*links):
        made = vote_links(BASE, PROPOSED, [read(str(n), link) for n, link in enumerate(links)])
        return {link.span: link for link in made}[EFFUSION.span]

    assert vote(left, left, right).code == left.code
    assert vote(left, right).code == "Opacity/lung/lower lobe"
    assert vote(left, EFFUSION._replace(code=NIL)).code == NIL
    assert vote(left, right).assertion == "uncertain"
    alone = vote_links(
        BASE, PROPOSED, [read("a", MentionLink(0, 8, "Opacity")), read("b"), read("c")]
    )
    assert {link.span: link.code for link in alone}[0, 8] == NIL  # only one of three marked it
