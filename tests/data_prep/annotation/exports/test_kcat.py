"""KCAT's file format: a file written by hand, round trips, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.annotation.exports.kcat import (
    MARKER,
    KcatDocument,
    KcatMention,
    read_kcat,
    write_kcat,
)
from pneumonia.runtime.errors import DataError

FILE = f"Opacity in the left lung.\n{MARKER}\n0\t6\tOpacity/lung/left\tLungs/Opacity\n15\t23\tNIL\n"


def test_a_file_written_by_hand():
    document = read_kcat(FILE.encode())
    assert document.text == "Opacity in the left lung."
    first, second = document.mentions
    assert document.text[first.start : first.end] == "Opacity"
    assert (first.entity, first.type_path) == ("Opacity/lung/left", "Lungs/Opacity")
    assert (document.text[second.start : second.end], second[2:]) == ("left lung", ("NIL", ""))
    assert write_kcat(document) == FILE
    assert read_kcat(FILE.replace("\n", "\r\n").encode()).mentions == document.mentions


PLAIN = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=80)


@given(PLAIN, st.data())
def test_round_trip(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    name = data.draw(st.text("ab/_,é", min_size=1, max_size=8))
    document = KcatDocument(
        text, (KcatMention(start, end, name, data.draw(st.sampled_from(["", "t"]))),)
    )
    assert read_kcat(write_kcat(document).encode()) == document


@pytest.mark.parametrize(
    "data",
    [
        b"", b"no marker", b"\xff\xfe", f"a\n{MARKER}\n0\t5\tx".encode(),
        f"a\n{MARKER}\n0\tx\tx".encode(), f"a\n{MARKER}\n0\t0".encode(),
        f"a\n{MARKER}\n-1\t0\tx".encode(), f"a\n{MARKER}\n0\t0\tx\ty\tz".encode(),
        f"a\n{MARKER}\n0\t0\t\ty".encode(),
    ],
)  # fmt: skip
def test_malformed_files_are_refused(data):
    with pytest.raises(DataError):
        read_kcat(data, "some.txt")


def test_a_text_with_the_marker_is_refused():
    with pytest.raises(DataError):
        write_kcat(KcatDocument(f"a\n{MARKER}\nb", ()))
