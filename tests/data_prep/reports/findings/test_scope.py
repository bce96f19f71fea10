"""Assertions and weak labels of sentences whose right answers were written by hand.

`sentences.csv`, and `paraphrases.csv` of the same kinds: `text` (with \\n for a line's end),
`findings` (heading=assertion; `not present`: any assertion but that, or no mention), `label`
(empty: any).
"""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.reports.findings.concepts import ConceptBase
from data_prep.reports.findings.linking import link_report
from data_prep.reports.findings.scope import ASSERTIONS, MentionSpan, assertions_of
from data_prep.reports.findings.scope_rules import CLASSES, RULES
from data_prep.reports.weak_labels.opacity_label import opacity_label

BASE = ConceptBase.load()


def sentences() -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name in ("sentences.csv", "paraphrases.csv"):
        path = Path(__file__).parents[1] / name
        with path.open(newline="", encoding="utf-8") as stream:
            rows += [(row["text"], row["findings"], row["label"]) for row in csv.DictReader(stream)]
    return rows


@pytest.mark.parametrize(("text", "findings", "label"), sentences())
def test_findings_and_label_of_a_sentence(text: str, findings: str, label: str) -> None:
    text = text.replace("\\n", "\n")
    found: dict[str, set[str]] = {}
    for concept in link_report(text, BASE):
        found.setdefault(concept.heading, set()).add(concept.assertion)
    for item in filter(None, findings.split(";")):
        heading, _, assertion = item.partition("=")
        if assertion == "not present":
            assert "present" not in found.get(heading, ())
        else:
            assert assertion in found.get(heading, ()), found
    if label:
        assert opacity_label(text, BASE) == label


WORDS = sorted({w for rule in RULES for p in rule.phrases for w in p.split() if w.isalpha()})
TOKENS = st.lists(
    st.sampled_from(
        [*WORDS, *sorted(frozenset().union(*CLASSES.values())), "X", "X", "X", ",", "?", "the"]
    ),
    max_size=30,
)


@given(TOKENS)
def test_every_finding_of_any_sentence_has_one_assertion(words: list[str]) -> None:
    spans = [MentionSpan(n, n + 1, frozenset({n})) for n, word in enumerate(words) if word == "X"]
    says = assertions_of(words, spans)
    assert len(says) == len(spans)
    assert set(says) <= set(ASSERTIONS)


@given(TOKENS)
def test_a_sentence_without_a_cue_states_its_findings(words: list[str]) -> None:
    plain = ["X" if word == "X" else "word" for word in words]
    spans = [MentionSpan(n, n + 1, frozenset({n})) for n, word in enumerate(plain) if word == "X"]
    assert set(assertions_of(plain, spans)) <= {"present"}


def test_every_class_that_a_phrase_names_exists() -> None:
    names = {
        part[1:-1]
        for rule in RULES
        for phrase in rule.phrases
        for part in phrase.split()
        if part.startswith("{")
    }
    assert names - {"number"} <= set(CLASSES)
    assert set(CLASSES) <= names | {"perceived"}


@pytest.mark.parametrize(
    ("text", "qualifiers"),
    [
        ("Left hilar mass.", {"lung", "hilum"}),  # the base knows it on the right only
        ("Moderate pleural effusion.", set()),
        ("Opacity.", set()),
        ("RLL consolidation.", {"right", "lower lobe", "lung"}),
    ],
)
def test_a_code_has_no_side_and_no_site_that_the_report_does_not_say(
    text: str, qualifiers: set[str]
) -> None:
    (concept,) = link_report(text, BASE)
    said = {"left", "hilum", "lung", "moderate"} | qualifiers
    assert qualifiers <= set(concept.qualifiers) <= said
    assert concept.side in ("", *qualifiers)
