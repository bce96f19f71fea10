"""The concept base: hierarchy, search, spelling, the shipped file."""

import itertools
import json
from pathlib import Path

import pytest

from data_prep.reports.findings.concepts import (
    LEXICON,
    ConceptBase,
    ConceptTables,
    build_base,
    same_code,
    split_code,
    tidy_code,
)
from pneumonia.runtime.errors import DataError

COUNTS = {"Opacity/lung/left": 3, "Opacity/lung": 1, "Odd": 2, "Nodule": 1}


def small() -> ConceptBase:
    return ConceptBase(
        ConceptTables(
            codes=COUNTS,
            groups={"Lungs": ["Opacity", "Nodule"]},
            aliases={"Opacity": ["haze"]},
        )
    )


def test_every_prefix_of_a_code_is_a_node_on_its_path() -> None:
    base = small()
    assert base.path("Opacity/lung/left") == (
        "Lungs", "Opacity", "Opacity/lung", "Opacity/lung/left",
    )  # fmt: skip
    assert base.children("Lungs") == ("Nodule", "Opacity")
    assert base.children("Opacity/lung") == ("Opacity/lung/left",)
    assert base.children("Opacity/lung/left") == ()
    assert base.path("Odd") == ("Other", "Odd")
    assert set(base.roots()) == {"Lungs", "Other"}
    assert "Opacity/left" not in base
    with pytest.raises(DataError, match="not in the base"):
        base.path("Opacity/left")


BASE = ConceptBase.load()


def test_the_hierarchy_of_the_shipped_base_is_a_tree() -> None:
    for node in BASE:
        path = BASE.path(node)
        assert path[-1] == node
        assert path[0] in BASE.roots()
        assert all(b in BASE.children(a) for a, b in itertools.pairwise(path))
    assert sum(len(BASE.children(node)) for node in BASE) + len(BASE.roots()) == len(BASE)


def test_the_shipped_base_holds_codes_and_the_lexicon_and_nothing_else() -> None:
    """No word of a report: aliases are the hand-written ones, the rest are codes and counts."""
    table = BASE.as_json()
    lexicon = json.loads(LEXICON.read_text(encoding="utf-8"))
    assert table["aliases"] == lexicon["aliases"]
    assert table["qualifiers"] == lexicon["qualifiers"]
    headings = {split_code(code)[0] for code in BASE.counts}
    assert set(table["neighbours"]) <= headings
    assert {n for names in table["neighbours"].values() for n in names} <= headings
    # the vocabulary of the codes is closed: 121 headings, 87 qualifiers in the whole collection
    assert len(headings) <= 122
    assert len({name for code in BASE.counts for name in split_code(code)[1]}) <= 88
    assert set(table) == {
        "schema", "source", "groups", "opacity", "opacity_like", "elsewhere", "aliases",
        "qualifiers", "neighbours", "codes",
    }  # fmt: skip


def test_two_spellings_of_a_code_are_the_same() -> None:
    assert same_code("Opacity/lung/left") == same_code(" opacity / Left/lung")
    assert same_code("Opacity/lung") != same_code("Opacity/left")
    assert tidy_code("Subcutaneous  Emphysema/ Left /left") == "Subcutaneous Emphysema/left"
    base = small()
    assert base.canonical("opacity/left/lung") == "Opacity/lung/left"
    assert base.canonical("New/B") == "New/b"


def test_neighbours_occur_together_more_often_than_by_chance() -> None:
    reports = [["Mass", "Nodule"]] * 5 + [["Mass"]] + [["Emphysema"]] * 6 + [["Mass", "Emphysema"]]
    base = build_base(reports, {})
    assert base.neighbours("Nodule") == ("Mass",)
    assert base.neighbours("Mass/left") == ("Nodule",)  # with Emphysema once only
    assert base.counts == {"Emphysema": 7, "Mass": 7, "Nodule": 5}
    assert base.source == {"reports": 13}


def test_round_trip(tmp_path: Path) -> None:
    BASE.save(tmp_path / "b.json")
    again = ConceptBase.load(tmp_path / "b.json")
    assert again.as_json() == BASE.as_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('{"schema": "pneumonia.concepts/2"}', "another schema"),
        (
            '{"schema": "pneumonia.concepts/1", "codes": {"a": -1}}',
            "codes.a: .* or equal to 0",
        ),
        ('{"schema": "pneumonia.concepts/1", "codes": {"NIL": 1}}', "NIL"),
        ('{"schema": "pneumonia.concepts/1", "aliases": {"a": "b"}}', "aliases.a: .* valid list"),
        ('{"schema": "pneumonia.concepts/1", "codes": 3}', "codes: .* valid dictionary"),
    ],
)
def test_a_malformed_base_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        ConceptBase.load(path)


def test_a_missing_base_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        ConceptBase.load(tmp_path / "none.json")
