"""Sections, sentences and tokens of a report; every offset counts characters of the given text."""

import re
from typing import NamedTuple

# A heading that opens a section, and the section's kind.
_SECTIONS = {
    "findings": "findings", "finding": "findings", "report": "findings",
    "impression": "impression", "impressions": "impression", "conclusion": "impression",
    "conclusions": "impression", "opinion": "impression", "summary": "impression",
    "assessment": "impression", "diagnosis": "impression",
    "indication": "indication", "indications": "indication", "history": "indication",
    "clinical history": "indication", "clinical indication": "indication",
    "clinical information": "indication", "reason for exam": "indication",
    "reason for examination": "indication", "reason for study": "indication",
    "comparison": "comparison", "comparisons": "comparison", "technique": "technique",
    "procedure": "technique", "exam": "technique", "examination": "technique",
    "findings and impression": "findings", "recommendation": "other", "recommendations": "other",
    "addendum": "findings",
}  # fmt: skip
# The sections that say what this examination shows; the others say why it was made.
REPORTED = ("findings", "impression")
# At a line's start in any case, with a colon or alone on the line; in capitals also within a line,
# since many exports put a whole report on one.
_LONG_FIRST = sorted(_SECTIONS, key=len, reverse=True)
_ANY_CASE = "|".join(name.replace(" ", r"[ \t]+") for name in _LONG_FIRST)
_CAPITALS = "|".join(name.upper() for name in _LONG_FIRST)
_LINE_HEADING = re.compile(rf"(?im)^[ \t]*(?:\d+\.[ \t]*)?({_ANY_CASE})[ \t]*(?::|$)")
_INNER_HEADING = re.compile(rf"(?<![A-Za-z])({_CAPITALS})[ \t]*:")
_TOKEN = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?|[^\sA-Za-z\d]")
# A full stop ends a sentence unless a figure follows at once (3.5 cm); see also `_goes_on`.
_STOP = re.compile(r"[.!?;](?=\s|$|[A-Z])|\n\s*\n|\n(?=[ \t]*(?:\d+[.)]|[-*\u2022]))")
_LONGEST = 200  # tokens; a long sentence of a report has 60
_ABBREVIATION = re.compile(r"\b(?:[a-z]|dr|mr|mrs|ms|vs|approx|cf)$", re.I)


class Section(NamedTuple):
    """A part of a report: its kind and where it lies, `[start, end)`."""

    kind: str
    start: int
    end: int


class Token(NamedTuple):
    """A word, number or sign: normal form and place `[start, end)`."""

    word: str
    start: int
    end: int


class Sentence(NamedTuple):
    """A sentence with its tokens and the section it stands in."""

    tokens: tuple[Token, ...]
    section: str

    @property
    def words(self) -> list[str]:
        """The tokens' normal forms."""
        return [token.word for token in self.tokens]


def find_sections(text: str) -> list[Section]:
    """Cut a report at its headings; what stands before the first one is `findings`.

    Other words with a colon, such as `LUNGS:`, open no section: they are part of the one they
    stand in.
    """
    cuts = {0: (0, "findings")}
    for pattern in (_INNER_HEADING, _LINE_HEADING):
        for match in pattern.finditer(text):
            name = " ".join(match[1].lower().split())
            cuts[match.start(1)] = (match.end(), _SECTIONS[name])
    starts = sorted(cuts)
    found = [
        Section(cuts[start][1], cuts[start][0], end)
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True)
    ]
    return [section for section in found if text[section.start : section.end].strip()]


def find_sentences(text: str, sections: list[Section] | None = None) -> list[Sentence]:
    """Sentences of the given sections (default: all that `find_sections` finds), in text order."""
    found = []
    for kind, start, end in find_sections(text) if sections is None else sections:
        at = start
        for stop in _STOP.finditer(text, start, end):
            if stop[0] == "." and _goes_on(text, at, stop.start()):
                continue
            found += _cut(tokenize(text, at, stop.start()), kind)
            at = stop.end()
        found += _cut(tokenize(text, at, end), kind)
    return found


def _cut(tokens: tuple[Token, ...], kind: str) -> list[Sentence]:
    """One sentence, or several where nobody ended it: rules within one cost its length squared."""
    return [Sentence(tokens[at : at + _LONGEST], kind) for at in range(0, len(tokens), _LONGEST)]


def _goes_on(text: str, start: int, stop: int) -> bool:
    """Whether the full stop at `stop` belongs to an abbreviation or to a list's number."""
    if stop - start > 8:
        start = stop - 8
    elif text[start:stop].strip().isdigit():
        return True
    return _ABBREVIATION.search(text[start:stop]) is not None


def tokenize(text: str, start: int = 0, end: int | None = None) -> tuple[Token, ...]:
    """Tokens of `text[start:end]`."""
    end = len(text) if end is None else end
    return tuple(
        Token(normal_form(match[0]), match.start(), match.end())
        for match in _TOKEN.finditer(text, start, end)
    )


def normal_form(word: str) -> str:
    """Lower case, singular: `Opacities` -> `opacity`. What it does to odd words, it always does."""
    word = word.lower()
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")):
        return word[:-1]
    return word
