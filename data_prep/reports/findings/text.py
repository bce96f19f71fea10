"""Sections, sentences and tokens of a report; offsets are characters of the given text."""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

_HEADINGS = yaml.safe_load(Path(__file__).with_name("sections.yaml").read_text(encoding="utf-8"))
# A heading that opens a section, and the section's kind.
_SECTIONS = {heading: kind for kind, names in _HEADINGS.items() for heading in names}
# the sections that describe this examination
REPORTED = ("findings", "impression")
# A heading is at the start of a line or of a sentence, in any case, before a colon or a dash with
# blanks around it, or alone on its line; capitalised and before a colon it may be anywhere, since
# many exports have a whole report on one line.
_LONG_FIRST = sorted(_SECTIONS, key=len, reverse=True)
_ANY_CASE = "|".join(name.replace(" ", r"[ \t]+") for name in _LONG_FIRST)
_CAPITALS = "|".join(f"{name.upper()}|{name.capitalize()}" for name in _LONG_FIRST)
_LINE_HEADING = re.compile(
    rf"(?im)^[ \t]*(?:\d+\.[ \t]*)?({_ANY_CASE})[ \t]*(?::|$|[-\u2013\u2014]+(?=[ \t]))"
)
_SENTENCE_HEADING = re.compile(rf"(?i)(?<=[.;?!])[ \t]+({_ANY_CASE})[ \t]*:")
_INNER_HEADING = re.compile(rf"(?<![A-Za-z])({_CAPITALS})[ \t]*:")
_LINE_LABEL = re.compile(r"(?m)^[ \t]*([A-Za-z]{6,})[ \t]*:")
_TOKEN = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)?|\d+(?:\.\d+)?|[^\sA-Za-z\d]")
# A full stop ends a sentence unless a figure follows at once (3.5 cm); see also `_goes_on`.
_STOP = re.compile(
    r"[.!;](?=\s|$|[A-Z])|(?<=[\w)])\?(?=\s|$|[A-Z])|\n\s*\n"
    r"|\n(?=[ \t]*(?:\d+[.)]|[-*\u2022]))|(?<=\w)\s+(?=\(?\d{1,2}\)\s)"
)
_LONGEST = 200  # tokens; long sentences of reports have about 60
_ABBREVIATION = re.compile(r"\b(?:[a-z]|dr|mr|mrs|ms|vs|approx|cf)$", re.I)


class ReportSection(NamedTuple):
    """A part of a report: its kind and characters `[start, end)`."""

    kind: str
    start: int
    end: int


class Token(NamedTuple):
    """A word, number or punctuation mark: normalised text and character span `[start, end)`."""

    word: str
    start: int
    end: int


class Sentence(NamedTuple):
    """The tokens of a sentence and the kind of its section."""

    tokens: tuple[Token, ...]
    section: str

    @property
    def words(self) -> list[str]:
        """The tokens' normal forms."""
        return [token.word for token in self.tokens]


def find_sections(text: str) -> list[ReportSection]:
    """Cut a report at its headings; text before the first heading is `findings`.

    Other words with a colon, such as `LUNGS:`, do not begin a section.
    """
    cuts = {0: (0, "findings")}
    for pattern in (_INNER_HEADING, _SENTENCE_HEADING, _LINE_HEADING):
        for match in pattern.finditer(text):
            name = " ".join(match[1].lower().split())
            cuts[match.start(1)] = (match.end(), _SECTIONS[name])
    for match in _LINE_LABEL.finditer(text):
        name = _misspelt(match[1].lower())
        if name:
            cuts[match.start(1)] = (match.end(), _SECTIONS[name])
    starts = sorted(cuts)
    found = [
        ReportSection(cuts[start][1], cuts[start][0], end)
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True)
    ]
    return [section for section in found if text[section.start : section.end].strip()]


def _misspelt(label: str) -> str:
    """Heading that equals a label with a missing first or last letter; empty if there is none."""
    near = (name for name in _SECTIONS if label in (name[1:], name[:-1]))
    return "" if label in _SECTIONS else next(near, "")


def find_sentences(text: str, sections: list[ReportSection] | None = None) -> list[Sentence]:
    """Sentences of the given sections (default: all that `find_sections` finds), in text order."""
    found = []
    for kind, start, end in find_sections(text) if sections is None else sections:
        at = start
        for stop in _STOP.finditer(text, start, end):
            if stop[0] == "." and _goes_on(text, at, stop.start()):
                continue
            # a question mark belongs to its sentence: it is a cue of doubt
            end_of_words = stop.end() if stop[0] == "?" else stop.start()
            found += _cut(tokenize(text, at, end_of_words), kind)
            at = stop.end()
        found += _cut(tokenize(text, at, end), kind)
    return found


def _cut(tokens: tuple[Token, ...], kind: str) -> list[Sentence]:
    """Split a sentence into parts of at most `_LONGEST` tokens: rule cost is quadratic."""
    return [Sentence(tokens[at : at + _LONGEST], kind) for at in range(0, len(tokens), _LONGEST)]


def _goes_on(text: str, start: int, stop: int) -> bool:
    """Whether the full stop at `stop` belongs to an abbreviation or a list number."""
    if stop - start > 8:
        start = stop - 8
    elif text[start:stop].strip().isdigit():
        return True
    return _ABBREVIATION.search(text[start:stop]) is not None


def tokenize(text: str, start: int = 0, end: int | None = None) -> tuple[Token, ...]:
    """Tokens of `text[start:end]`; a contraction with `not` is two: `isn't` -> `is`, `not`."""
    end = len(text) if end is None else end
    found: list[Token] = []
    for match in _TOKEN.finditer(text, start, end):
        word = match[0].lower().replace("\u2019", "'")
        cut = len(word) - 3
        if word.endswith("n't") and cut > 0:
            stem = {"ca": "can", "wo": "will"}.get(word[:cut], word[:cut])
            found.append(Token(normal_form(stem), match.start(), match.start() + cut))
            found.append(Token("not", match.start() + cut, match.end()))
        elif word == "cannot":
            found.append(Token("can", match.start(), match.start() + 3))
            found.append(Token("not", match.start() + 3, match.end()))
        else:
            found.append(Token(normal_form(word), match.start(), match.end()))
    return tuple(found)


def normal_form(word: str) -> str:
    """Lower case, singular: `Opacities` -> `opacity`, `masses` -> `mass`."""
    word = word.lower()
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")):
        return word[:-1]
    return word


def word_set(words: str) -> frozenset[str]:
    """The words of a line, separated by blanks."""
    return frozenset(words.split())
