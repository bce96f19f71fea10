"""Agreement of codes, word vectors and candidates: values by hand and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.reports.findings.concepts import NIL, ConceptBase, ConceptTables
from data_prep.reports.findings.mentions import Mention
from data_prep.reports.linker.candidates import (
    AliasPriors,
    CandidateGenerator,
    best_gold,
    learn_priors,
    mean_places,
    pick,
)
from data_prep.reports.linker.documents import EntityCandidate
from data_prep.reports.linker.measure import agreement, count_codes, difference, micro_f1
from data_prep.reports.linker.report_documents import inherited_codes
from data_prep.reports.linker.vectors import train_vectors
from pneumonia.runtime.errors import DataError

CODE = st.sampled_from(["A", "A/x", "A/x/y", "A/y/x", "B", "B/x"])
SETS = st.lists(st.sets(CODE), min_size=1, max_size=6)


def test_counts_by_hand() -> None:
    predicted = [["A/x/y", "B"], ["A"]]
    gold = [["a/Y/x", "C"], ["A", "B/x"]]
    codes = count_codes(predicted, gold, "code")
    assert codes.tolist() == [[1, 2, 2], [1, 1, 2]]
    assert micro_f1(codes) == pytest.approx(2 * 2 / 7)
    headings = count_codes([["A/x", "A/y"]], [["A"]], "heading")
    assert headings.tolist() == [[1, 1, 1]]  # two codes of one heading are one heading


@given(SETS)
def test_a_collection_agrees_with_itself(codes: list[set[str]]) -> None:
    for level in ("heading", "code"):
        counts = count_codes(codes, codes, level)
        assert micro_f1(counts) == (1.0 if counts.sum() else 0.0)


@given(SETS, st.randoms())
def test_agreement_is_symmetric(codes: list[set[str]], chance) -> None:
    other = codes[:]
    chance.shuffle(other)
    for level in ("heading", "code"):
        forth, back = count_codes(codes, other, level), count_codes(other, codes, level)
        assert micro_f1(forth) == micro_f1(back)


def test_intervals_hold_the_value_and_shrink_with_more_reports() -> None:
    counts = np.array([[1, 2, 1], [0, 1, 2], [3, 3, 3], [1, 1, 2]] * 10)
    few, many = agreement([counts]), agreement([np.tile(counts, (25, 1))])
    assert few.f1_low < few.f1 < few.f1_high
    assert few.f1 == pytest.approx(2 * 5 / 15)
    assert (few.precision, few.recall) == pytest.approx((5 / 7, 5 / 8))
    # the width falls as the square root of the number of reports
    ratio = (few.f1_high - few.f1_low) / (many.f1_high - many.f1_low)
    assert ratio == pytest.approx(5, rel=0.15)
    assert difference([counts], [counts]) == (0, 0, 0)
    better = counts.copy()
    better[:, 0] = counts[:, 1:].min(axis=1)
    assert difference([better], [counts])[1] > 0


def test_words_in_like_company_have_like_vectors() -> None:
    lungs = [["left", "lung", "opacity"], ["right", "lung", "opacity"]]
    sentences = ([*lungs, ["heart", "size", "big"], ["aorta", "size", "big"]]) * 10
    together = [(["lung", "opacity"], ["code:O", "code:lung"])] * 5
    vectors = train_vectors(sentences, dimensions=6, together=together)
    rows = vectors.rows()
    near = vectors.matrix @ vectors.matrix.T
    assert near[rows["left"], rows["right"]] > 0.9
    assert near[rows["heart"], rows["aorta"]] > 0.9
    assert abs(near[rows["left"], rows["aorta"]]) < 0.2
    assert near[rows["code:O"], rows["opacity"]] > near[rows["code:O"], rows["big"]] + 0.3
    np.testing.assert_allclose(np.linalg.norm(vectors.matrix, axis=1), 1, atol=1e-5)
    again = train_vectors(sentences, dimensions=6, together=together)
    np.testing.assert_array_equal(again.matrix, vectors.matrix)
    assert train_vectors(sentences, dimensions=100).matrix.shape == (8, 100)


def test_too_little_text_is_an_error() -> None:
    with pytest.raises(DataError, match="Too little text"):
        train_vectors([["a", "b"]])


def mention(**changes: object) -> Mention:
    plain = Mention(0, 1, "opacity", ("O",), (), "present", "findings", 0, 0)
    return plain._replace(**changes)


BASE = ConceptBase(
    ConceptTables(codes={"O": 4, "O/left": 2, "O/left/big": 1, "O/right": 2, "P": 3})
)


def test_the_gold_of_a_mention_is_the_code_that_agrees_most() -> None:
    codes = ["O/left", "O/right", "P"]
    assert best_gold(mention(qualifiers=("right",)), codes) == "O/right"
    assert best_gold(mention(qualifiers=("left", "big")), codes) == "O/left"
    assert best_gold(mention(targets=("Q",)), codes) == NIL
    assert best_gold(mention(targets=("P/x", "Q")), codes) == "P"


def test_priors_by_hand() -> None:
    pairs = [([mention(qualifiers=("left",))], ["O/left"]), ([mention()], ["O/left"]),
             ([mention()], ["P"])]  # fmt: skip
    priors = learn_priors(BASE, pairs)
    assert priors.headings["opacity"] == {"O": 2, NIL: 1}
    assert priors.hits["left"] == (2, 1)
    assert priors.misses["right"] == (2, 0)
    assert AliasPriors.model_validate_json(priors.model_dump_json()) == priors
    found = CandidateGenerator(BASE, priors).heading_prior(mention())
    # alias alone: (2 + 1/2) / 4, then with the assertion: (2 + that) / 4
    assert found["O"] == pytest.approx((2 + 2.5 / 4) / 4)
    assert sum(found.values()) == pytest.approx(1)


@given(st.sets(st.sampled_from(["left", "right", "big", "other"])))
def test_candidates_are_a_distribution_over_codes_and_nil(words: set[str]) -> None:
    priors = learn_priors(BASE, [([mention(qualifiers=("left",))], ["O/left"])])
    ranked = CandidateGenerator(BASE, priors).all_codes(mention(qualifiers=tuple(sorted(words))))
    assert sum(c.prior for c in ranked) == pytest.approx(1)
    assert [c.prior for c in ranked] == sorted((c.prior for c in ranked), reverse=True)
    names = [c.entity for c in ranked]
    assert len(set(names)) == len(names)
    assert NIL in names
    assert {"O", "O/left", "O/left/big", "O/right"} <= set(names)
    if words >= {"left", "right"}:  # the words spell a code that no report had
        assert any({"left", "right"} <= set(n.split("/")) for n in names)


def test_words_beside_a_mention_move_its_prior() -> None:
    many = [([mention(qualifiers=("left",))], ["O/left"]), ([mention()], ["O"])] * 20
    generate = CandidateGenerator(BASE, learn_priors(BASE, many))
    assert generate.all_codes(mention(qualifiers=("left",)))[0].entity == "O/left"
    assert generate.all_codes(mention())[0].entity == "O"
    assert generate.best_code([EntityCandidate(NIL, 0.9), EntityCandidate("O", 0.1)]) == "O"


def test_pick_takes_half_by_prior_then_heirs_then_context() -> None:
    ranked = [EntityCandidate(n, p) for n, p in zip("abcdefg", (7, 6, 5, 4, 3, 2, 1), strict=True)]
    ranked.insert(3, EntityCandidate(NIL, 0.0))
    found = pick(ranked, {"g": 1.0, "e": 0.5}, inherited=["f", "zz"], keep=4)
    assert [c.entity for c in found] == ["a", "b", "f", "g", NIL]
    assert found[-1].prior == 1e-3
    assert found[0].prior == 1.0


def test_heirs_are_the_most_specific_codes_of_a_heading() -> None:
    assert inherited_codes(["O", NIL, "O/left/big", "P", "O/left", "O"]) == {
        "O": ["O/left/big", "O/left", "O"],
        "P": ["P"],
    }


def test_qualifiers_are_written_in_the_order_codes_use() -> None:
    places = mean_places(
        ConceptBase(ConceptTables(codes={"O/lung/left": 3, "O/lung/left/mild": 1}))
    )
    assert places["lung"] < places["left"] < places["mild"]
