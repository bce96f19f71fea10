"""Files of entity-linking benchmarks: mentions with candidates, and word vectors."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.reports.conll import NameSpace, preselect, read_candidate_file, read_vectors
from data_prep.reports.linker.vectors import WordVectors
from pneumonia.runtime.errors import DataError

LINE = (
    "1\tEU\tGermany\tin left\tright words\tCANDIDATES\t3,0.2,German Empire\t4,0.7,Germany\t5,0,A,b"
)


def test_a_line_of_a_benchmark_file(tmp_path: Path) -> None:
    path = tmp_path / "aida.csv"
    path.write_text(
        f"{LINE}\tGT:\t1,4,0.7,Germany\n"
        f"{LINE}\tGT:\t-1\n"
        "2\tX\tFoo\t\t\tCANDIDATES\tEMPTYCAND\tGT:\t-1\n"
    )
    first, second = read_candidate_file(path)
    assert (first.name, second.name) == ("1 EU", "2 X")
    one, two = first.mentions
    assert [c.entity for c in one.candidates] == ["Germany", "German_Empire", "A,b"]
    assert [c.prior for c in one.candidates] == [0.7, 0.2, 1e-3]
    assert (one.gold, two.gold) == ("Germany", "NIL")
    assert one.context == ("in", "left", "germany", "right", "word")
    assert second.mentions[0].candidates == ()
    assert len(read_candidate_file(path, keep=1)[0].mentions[0].candidates) == 1


def test_eight_candidates_are_selected_by_prior_and_context(tmp_path: Path) -> None:
    path = tmp_path / "aida.csv"
    listed = "\t".join(f"{i},0.{9 - i},{name}" for i, name in enumerate("abcdefghi"))
    path.write_text(f"1\tX\tm\ti\th\tCANDIDATES\t{listed}\tGT:\t-1\n")
    words = WordVectors(tuple("hi"), np.eye(2, dtype=np.float32))
    (document,) = read_candidate_file(path)
    (kept,) = preselect([document], NameSpace(words), words)
    names = [c.entity for c in kept.mentions[0].candidates]
    assert names == ["a", "b", "c", "d", "h", "i", "e", "f"]
    assert (document.words, kept.mentions[0].surface) == (("i", "m", "h"), ("m",))


@pytest.mark.parametrize(
    "line",
    ["a", LINE, f"{LINE}\tGT:", LINE.replace("CANDIDATES", "X") + "\tGT:\t-1",
     LINE.replace("0.7", "7") + "\tGT:\t-1", LINE.replace("0.7", "nan") + "\tGT:\t-1"],
)  # fmt: skip
def test_a_malformed_benchmark_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        read_candidate_file(path)


def vector_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("header", ["", "3 2\n"])
def test_a_text_file_of_vectors(tmp_path: Path, header: str) -> None:
    path = vector_file(
        tmp_path / "v.txt", f"{header}heart 3 4\nENTITY/New_York -1 0 \nheart 0 1\n\nzero 0 0\n"
    )
    found = read_vectors(path)
    assert found.words == ("heart", "ENTITY/New_York", "zero")
    np.testing.assert_allclose(found.matrix, [[0.6, 0.8], [-1, 0], [0, 0]], rtol=1e-6)
    assert read_vectors(path, {"zero"}).words == ("zero",)
    with pytest.raises(DataError, match="wanted word"):
        read_vectors(path, {"lung"})


@pytest.mark.parametrize("line", ["heart 1", "heart 1 2 3x", "heart 1 nan", "heart", "\x00 x y"])
def test_a_malformed_line_of_a_vector_file_is_named(tmp_path: Path, line: str) -> None:
    path = vector_file(tmp_path / "v.txt", f"lung 1 2\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        read_vectors(path)
    with pytest.raises(DataError, match="Cannot read"):
        read_vectors(tmp_path / "none.txt")
