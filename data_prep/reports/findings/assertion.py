"""Whether a report says that a finding is there: rules on cue words, after NegEx and ConText.

Source: Chapman et al., J Biomed Inform 34 (2001) 301-310; Harkema et al., 42 (2009) 839-851.
"""

from collections.abc import Sequence
from typing import NamedTuple

PRESENT, ABSENT, UNCERTAIN, PRIOR = "present", "absent", "uncertain", "prior"
ASSERTIONS = (PRESENT, ABSENT, UNCERTAIN, PRIOR)

# Phrases in the normal form of `text.normal_form`. A cue reaches to the next word that ends it.
_NOTHING = (  # look like negations and are none
    "no change", "no significant change", "no interval change", "no significant interval change",
    "no definite change", "not significantly changed", "not changed", "no increase",
    "not only", "no further", "no appreciable change", "no substantial change",
)  # fmt: skip
_BEFORE = {
    ABSENT: (
        "no", "without", "negative for", "free of", "clear of", "absence of", "not", "nor",
        "neither", "never", "rather than", "denie", "lack of", "removal of", "no longer",
    ),
    UNCERTAIN: (
        "possible", "possibly", "may", "might", "could", "probable", "probably", "likely",
        "suspected", "suspicion", "suspiciou", "suggest", "suggesting", "suggestive", "question",
        "questionable", "questioned", "cannot exclude", "can not exclude", "cannot rule out",
        "not exclude", "concern for", "concerning for", "rule out", "evaluate for", "worrisome",
        "perhap", "differential", "presumed", "presumably", "if", "equivocal", "versus",
    ),
    PRIOR: (
        "history of", "previously seen", "previously noted", "previously identified",
        "previously described", "previous finding of", "resolution of", "clearing of",
        "interval resolution", "interval clearing",
    ),
}  # fmt: skip
_AFTER = {
    ABSENT: (
        "not seen", "not identified", "not evident", "not present", "not visualized", "not noted",
        "not appreciated", "not demonstrated", "is absent", "are absent", "ruled out",
        "is excluded", "unlikely", "not enlarged", "is normal", "are normal", "unremarkable",
        "within normal limit", "is clear", "are clear", "not apparent", "not detected",
    ),
    UNCERTAIN: (
        "cannot be excluded", "can not be excluded", "not excluded", "cannot be ruled out",
        "not entirely excluded", "is possible", "are possible", "is suspected", "is questioned",
        "is likely", "versus", "difficult to exclude",
    ),
    PRIOR: (
        "resolved", "no longer seen", "no longer identified", "no longer present",
        "no longer visualized", "no longer evident", "cleared", "disappeared", "been removed",
    ),
}  # fmt: skip
_ENDS_FORWARD = {
    "but", "however", "although", "though", "except", ";", "which", "aside", "other", "apart",
    "yet", "whereas", "while", "unchanged", "stable", "otherwise",
}  # fmt: skip
_ENDS_BACKWARD = {"but", "however", "although", "though", "except", ";", "with", "without"}
_FORWARD_WORDS = 25  # a list of things that are not there can be long
_BACKWARD_WORDS = 8


class _Cue(NamedTuple):
    """A cue phrase found in a sentence: token places `[start, end)`."""

    kind: str
    start: int
    end: int


class AssertionRules:
    """Finds the cues of a sentence once and answers for each of its mentions."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        masked = _find(words, {"nothing": _NOTHING}, set())
        hidden = {at for cue in masked for at in range(cue.start, cue.end)}
        self._after = _find(words, _AFTER, hidden)
        # "not excluded" must not also be the negation "not"
        hidden |= {at for cue in self._after for at in range(cue.start, cue.end)}
        self._before = _find(words, _BEFORE, hidden)

    def __call__(self, start: int, end: int) -> str:
        """Assertion of the mention at tokens `[start, end)`; prior before absent before uncertain.

        "No longer seen" is a finding of the past; "no possible effusion" is absent.
        """
        kinds = set()
        for cue in self._before:
            # a cue within a mention counts: the heart is not enlarged
            if cue.start < end and self._reaches(cue.end, start, _FORWARD_WORDS, _ENDS_FORWARD):
                kinds.add(cue.kind)
        for cue in self._after:
            if cue.end > start and self._reaches(end, cue.start, _BACKWARD_WORDS, _ENDS_BACKWARD):
                kinds.add(cue.kind)
        return next((kind for kind in (PRIOR, ABSENT, UNCERTAIN) if kind in kinds), PRESENT)

    def _reaches(self, start: int, stop: int, limit: int, ends: set[str]) -> bool:
        return stop - start <= limit and ends.isdisjoint(self._words[start:stop])


def _find(
    words: Sequence[str], phrases: dict[str, tuple[str, ...]], hidden: set[int]
) -> list[_Cue]:
    """Cues in the order of the text, the longest phrase at a place."""
    found = []
    for kind, forms in phrases.items():
        for form in forms:
            parts = form.split()
            first = parts[0]
            for at, word in enumerate(words):
                if word == first and list(words[at : at + len(parts)]) == parts:
                    places = range(at, at + len(parts))
                    if not hidden.intersection(places):
                        found.append(_Cue(kind, at, at + len(parts)))
    return sorted(found, key=lambda cue: (cue.start, -cue.end))
