"""Find the mentions of findings in a report: alias, position, site words and assertion."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_prep.reports.findings.concepts import ConceptBase, split_code
from data_prep.reports.findings.scope import MentionSpan, assertions_of
from data_prep.reports.findings.text import (
    REPORTED,
    Sentence,
    find_sections,
    find_sentences,
    tokenize,
)

GAP = ".."
_MAX_GAP = 5  # words that `..` stands for at most
_NO_GAP = {"normal", "but", "without", "clear", "unremarkable", ";", "stable", "unchanged"}
_JOINS = {"and", "or", "versus", "vs", "/", ",", "with", "-", "of", "possible", "mild", "a"}
_LEADS_BACK = {"in", "at", "within", "of", "involving", "overlying", "along", "to", "on", "is",
               "are", "throughout", "near", "over", "seen", "noted", "present"}  # fmt: skip
_PLACED_IN = frozenset({"of", "in", "within", "from", "involving", "due"})
_SEPARATES = frozenset(
    (",", ";", "and", "or", "with", "lung", "base", "lobe", "apex", "zone", "hilum", "over",
     "overlie", "projecting")
)  # fmt: skip
_SIGNS = frozenset({"Opacity", "Density", "Nodule", "Pleural Effusion", "Pneumothorax"})
_CUTS = {"and", "with", ",", "or", "which", ";", "but", "also", "there", "as"}


class Mention(NamedTuple):
    """One mention of a finding."""

    start: int  # first character of its alias in the report
    end: int  # one past the last
    alias: str  # the alias in normal form, the key of learnt priors
    targets: tuple[str, ...]  # candidate codes of the alias
    qualifiers: tuple[str, ...]  # qualifiers whose words are beside it, in text order
    assertion: str  # `present`, `absent`, `uncertain` or `prior`
    section: str  # `findings` or `impression`
    sentence: int  # number of its sentence among the report's sentences
    place: int  # number of its first token in the report
    elsewhere: bool = False  # whether the text locates it in an organ other than the lung


class _Match(NamedTuple):
    """An alias found at tokens `start <= i < end`, of which it uses `used`."""

    start: int
    end: int
    used: frozenset[int]
    alias: str


class AliasTable:
    """Aliases of concepts as sequences of normalised tokens; `..` matches any tokens between.

    Args:
        aliases: (surface form, code or qualifier).
    """

    def __init__(self, aliases: Iterable[tuple[str, str]]) -> None:
        self.targets: dict[str, tuple[str, ...]] = {}
        self._starts: dict[str, list[tuple[str, ...]]] = {}
        for form, target in aliases:
            parts = tuple(
                word
                for piece in form.split()
                for word in ((GAP,) if piece == GAP else (t.word for t in tokenize(piece)))
            )
            if not parts or parts[0] == GAP or parts[-1] == GAP:
                continue
            key = " ".join(parts)
            known = self.targets.get(key, ())
            if not known:
                self._starts.setdefault(parts[0], []).append(parts)
            if target not in known:
                self.targets[key] = (*known, target)
        for forms in self._starts.values():
            forms.sort(key=lambda parts: -sum(part != GAP for part in parts))

    def find(self, words: Sequence[str], overlap: bool = False) -> list[_Match]:
        """Longest matches from left to right; no word is used twice unless `overlap`."""
        used: set[int] = set()
        found = []
        for at, word in enumerate(words):
            if at in used and not overlap:
                continue
            for parts in self._starts.get(word, ()):
                places = _match(words, at, parts, frozenset() if overlap else used)
                if places:
                    used.update(places)
                    key = " ".join(parts)
                    found.append(_Match(at, places[-1] + 1, frozenset(places), key))
                    break
        return found


def _match(
    words: Sequence[str], at: int, parts: tuple[str, ...], used: set[int] | frozenset[int]
) -> list[int]:
    """Token places of a form that begins at `at`; [] when it does not."""
    places: list[int] = []
    gap = False
    for part in parts:
        if part == GAP:
            gap = True
            continue
        reach = min(len(words), at + _MAX_GAP + 1) if gap else min(len(words), at + 1)
        while at < reach and (words[at] != part or at in used):
            if words[at] in _NO_GAP:
                return []
            at += 1
        if at >= reach:
            return []
        places.append(at)
        at += 1
        gap = False
    return places


class MentionFinder:
    """Finds the mentions of findings in reports."""

    def __init__(self, base: ConceptBase) -> None:
        self.aliases = AliasTable(base.all_aliases())
        self.qualifiers = AliasTable(
            (form, name) for name, forms in base.qualifier_aliases.items() for form in forms
        )

        self._other_organs = frozenset(base.elsewhere)
        pleural = base.groups.get("Pleura", ())
        self._transient = frozenset({*base.opacity, *base.opacity_like, *pleural})

    def __call__(self, text: str) -> list[Mention]:
        """Mentions of the sections that describe this examination, in text order."""
        return self.read(text)[1]

    def read(self, text: str) -> tuple[list[Sentence], list[Mention]]:
        """The sentences of these sections, and their mentions."""
        sections = [part for part in find_sections(text) if part.kind in REPORTED]
        found: list[Mention] = []
        offset = 0
        sentences = find_sentences(text, sections)
        for number, sentence in enumerate(sentences):
            found += self._in_sentence(sentence, number, offset)
            offset += len(sentence.tokens)
        return sentences, found

    def _in_sentence(self, sentence: Sentence, number: int, offset: int) -> list[Mention]:
        words, tokens = sentence.words, sentence.tokens
        matches = self.aliases.find(words)
        if not matches:
            return []
        assertions = assertions_of(words, [self._span(match) for match in matches])
        regions = _regions(words, matches)
        sites = self.qualifiers.find(words, overlap=True)
        found = []
        for match, (left, right), assertion in zip(matches, regions, assertions, strict=True):
            names = dict.fromkeys(
                name
                for site in sites
                if left <= site.start and site.end <= right
                for name in self.qualifiers.targets[site.alias]
            )
            found.append(
                Mention(
                    tokens[match.start].start,
                    tokens[match.end - 1].end,
                    match.alias,
                    self.aliases.targets[match.alias],
                    tuple(names),
                    assertion,
                    sentence.section,
                    number,
                    offset + match.start,
                    self._elsewhere(words, match, sites),
                )
            )
        return found

    def _span(self, match: _Match) -> MentionSpan:
        headings = {split_code(target)[0] for target in self.aliases.targets[match.alias]}
        lasting = self._transient.isdisjoint(headings)
        sign = not _SIGNS.isdisjoint(headings)
        return MentionSpan(match.start, match.end, match.used, lasting, sign)

    def _elsewhere(self, words: Sequence[str], match: _Match, sites: Sequence[_Match]) -> bool:
        """Whether a site in another organ belongs to the finding: `rib lesion`, `mass in the neck`.

        "Over the third rib" gives the position of a lung opacity on the film and does not count.
        """
        for site in sites:
            if not self._other_organs.intersection(self.qualifiers.targets[site.alias]):
                continue
            if site.end <= match.start:
                between = words[site.end : match.start]
                if len(between) <= 1 and not _SEPARATES.intersection(between):
                    return True
            elif site.start >= match.end:
                between = words[match.end : site.start]
                if (
                    len(between) <= 5
                    and _PLACED_IN.intersection(between)
                    and not _SEPARATES.intersection(between)
                ):
                    return True
        return False


def _regions(words: Sequence[str], matches: Sequence[_Match]) -> list[tuple[int, int]]:
    """Tokens that describe each mention: those beside it, shared by joined mentions.

    "Atelectasis or scarring in the left base": both are in the base. Between two mentions that are
    not joined, words belong to the later one, except for a phrase such as "in the left base", which
    belongs to the earlier one.
    """
    groups: list[list[int]] = []
    for at, match in enumerate(matches):
        between = words[matches[at - 1].end : match.start] if at else ()
        if at and len(between) <= 3 and _JOINS.issuperset(between):
            groups[-1].append(at)
        else:
            groups.append([at])
    regions = [(0, 0)] * len(matches)
    left = 0
    for place, group in enumerate(groups):
        right = len(words)
        if place + 1 < len(groups):
            end, following = matches[group[-1]].end, matches[groups[place + 1][0]].start
            right = _cut(words, end, max(end, following))
        for at in group:
            regions[at] = (left, right)
        left = right
    return regions


def _cut(words: Sequence[str], start: int, stop: int) -> int:
    """Index of the first word between two mentions that belongs to the later mention."""
    if start < stop and words[start] in _LEADS_BACK:
        return next((at for at in range(start, stop) if words[at] in _CUTS), stop)
    return start
