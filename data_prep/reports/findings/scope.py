"""Scope of negation, uncertainty and history cues over the findings of a sentence.

`scope_rules.yaml` lists the cues; this module finds them and determines their scope: to the end of
the clause, over the items of a list, or to the finding beside the cue.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from data_prep.reports.findings.scope_rules import (
    ABSENT,
    ADJACENT,
    ADJECTIVE,
    ASSERTIONS,
    BACKWARD,
    BESIDE,
    CLASSES,
    DOUBTED,
    EARLIER,
    FLIP,
    FLIP_BACK,
    FORWARD,
    NEUTRAL,
    NEXT,
    PRESENT,
    PRIOR,
    RULES,
    TOUCHING,
    UNCERTAIN,
    WORDS,
)
from data_prep.reports.findings.text import word_set

__all__ = ["ABSENT", "ASSERTIONS", "PRESENT", "PRIOR", "UNCERTAIN", "assertions_of"]

_FORWARD_WORDS = 40  # longest forward scope, for lists of absent findings
_BACKWARD_WORDS = 14
_SIGNS = frozenset(".,;:?()-/")
_NO_GAP = frozenset({"and", "or", "nor", "but", *_SIGNS})
_TWO_WORD_STOPS = (["other", "than"], ["positive", "for"])
_CONJUNCTIONS = frozenset({",", "and", "with"})
_LOOSE_SIGNS = frozenset("-(")  # a new statement may follow them
_LASTING = word_set("persistent persisting residual unchanged stable remaining new")
_EXCEPTIONS = (("other", "than"), ("except",), ("apart", "from"), ("aside", "from"),
               ("outside",), ("beside",), ("with", "the", "exception", "of"))  # fmt: skip
_PLACES = frozenset({"in", "at", "within", "over"})
_ALTERNATIVES = word_set("or and / , less likely mild small minimal a an the early developing some")


class MentionSpan(NamedTuple):
    """A finding's alias in a sentence."""

    start: int  # first token
    end: int  # one past the last token
    used: frozenset[int]  # the tokens of the alias; tokens between them may be part of a cue
    # whether the finding is permanent, such as a scar: it stays present after "prior"
    lasting: bool = False
    # whether it is a sign rather than an interpretation: "opacity/effusion" states both, while
    # "atelectasis/infiltrate" are alternatives
    sign: bool = False


class ScopeCue(NamedTuple):
    """A cue found in a sentence: tokens `[start, end)`."""

    category: str
    direction: str
    start: int
    end: int


def assertions_of(words: Sequence[str], mentions: Sequence[MentionSpan]) -> list[str]:
    """Assertion of each finding of a sentence.

    Args:
        words: The sentence's tokens in normal form.
        mentions: Its findings in text order.

    Returns:
        One of ASSERTIONS per finding, in their order.
    """
    if not mentions:
        return []
    clause = _Sentence(words, mentions)
    cues = clause.cues()
    found: list[set[str]] = [set() for _ in mentions]
    for cue in cues:
        for at in clause.findings_in_scope(cue, cues):
            if not (cue.category == EARLIER and mentions[at].lasting):
                found[at].add(cue.category)
    assertions = [clause.decide(kinds, cues) for kinds in found]
    return clause.restore_exceptions(clause.open_alternatives(assertions))


class _Sentence:
    """Tokens and findings of one sentence."""

    def __init__(self, words: Sequence[str], mentions: Sequence[MentionSpan]) -> None:
        self.words = list(words)
        self.mentions = mentions
        self._taken = {at for mention in mentions for at in mention.used}
        self._starts = {mention.start: number for number, mention in enumerate(mentions)}

    def cues(self) -> list[ScopeCue]:
        """Cues in text order; each word belongs to at most one cue or finding."""
        free = [at not in self._taken for at in range(len(self.words))]
        found = []
        for category, direction, first, phrase in _phrases():
            for at, word in enumerate(self.words):
                if not free[at] or (first is not None and word not in first):
                    continue
                places = self._match(phrase, at, free)
                if places:
                    found.append(ScopeCue(category, direction, places[0], places[-1] + 1))
                    for place in places:
                        free[place] = False
        return sorted(found, key=lambda cue: (cue.start, cue.end))

    def _match(self, phrase: Sequence["_Item"], at: int, free: Sequence[bool]) -> list[int]:
        """Places of a phrase that begins at `at`; [] when it does not."""
        places: list[int] = []
        for item in phrase:
            if item.at_end:
                if at < len(self.words) and self.words[at] not in _SIGNS:
                    return []
                continue
            stop = min(len(self.words), at + item.gap + 1)
            while at < stop and not (free[at] and item.accepts(self.words[at])):
                if self.words[at] in _NO_GAP or at in self._taken:
                    return []
                at += 1
            if at >= stop:
                return []
            places.append(at)
            at += 1
        return places

    def findings_in_scope(self, cue: ScopeCue, cues: Sequence[ScopeCue]) -> list[int]:
        """Indices of the findings in the scope of a cue."""
        if cue.category == NEUTRAL:
            return []
        ahead = [n for n in range(len(self.mentions)) if self._findings_ahead(cue, n, cues)]
        if cue.direction == FORWARD:
            return ahead
        if cue.direction == NEXT:  # "previous tuberculous pneumonia" is one finding
            joined = [n for n in ahead[1:2] if self.mentions[n].start == self.mentions[n - 1].end]
            return ahead[:1] + joined
        behind = [n for n in range(len(self.mentions)) if self._findings_behind(cue, n)]
        if cue.direction == TOUCHING:
            return [n for n in ahead if self.mentions[n].start <= cue.end + 1]
        if cue.direction in (FLIP, ADJECTIVE):
            return ahead or behind
        if cue.direction in (FLIP_BACK, BACKWARD):
            return behind or (ahead if cue.direction == FLIP_BACK else [])
        if cue.direction == BESIDE:
            before = [n for n, m in enumerate(self.mentions) if m.end <= cue.start]
            return before[-1:] + ahead[:1]
        assert cue.direction == ADJACENT, cue
        return behind[-1:]

    def _findings_ahead(self, cue: ScopeCue, number: int, cues: Sequence[ScopeCue]) -> bool:
        mention = self.mentions[number]
        if mention.start < cue.end:
            return mention.start < cue.start < mention.end  # within: the heart is not enlarged
        if mention.start - cue.end > _FORWARD_WORDS:
            return False
        if any(self._ends_scope(cue.end, at) for at in range(cue.end, mention.start)):
            return False
        if cue.category == PRIOR:  # resolved left and persistent right consolidation
            return not any(
                self.words[at] in _CONJUNCTIONS and self.words[at + 1] in _LASTING
                for at in range(cue.end, mention.start - 1)
            )
        if cue.category != ABSENT:
            return True
        return not self._presupposed(cue.end, mention.start) and not any(
            other.category == UNCERTAIN
            and other.direction != ADJECTIVE
            and cue.end <= other.start < mention.start
            and self._finding_in(cue.end, other.start)
            and self.words[other.start - 1] in _CONJUNCTIONS
            for other in cues
        )

    def _ends_scope(self, start: int, at: int) -> bool:
        """Whether a scope that began at `start` ends at token `at`."""
        word = self.words[at]
        if word in WORDS["stops forward"] or self.words[at : at + 2] in _TWO_WORD_STOPS:
            return True
        if word not in _CONJUNCTIONS and word not in _LOOSE_SIGNS:
            return word in ("unchanged", "stable", ":") and self._finding_in(start, at)
        if word in (",", "and") and self._starts_clause(at + 1):
            return True
        following = self.words[at + 1] if at + 1 < len(self.words) else ""
        if following == "and" and word == ",":
            following = self.words[at + 2] if at + 2 < len(self.words) else ""
        positive = following in WORDS["positive adjectives"] or (
            word == "with" and following in ("a", "an")
        )
        return positive and self._finding_in(start, at) and not {"or", "nor"} & set(self.words[at:])

    def _starts_clause(self, at: int) -> bool:
        """Whether a clause with its own verb begins at `at`, which follows a comma or `and`."""
        if at < len(self.words) and self.words[at] == "and":
            at += 1
        end = at
        while end < len(self.words) and self.words[end] not in (",", ";", "but", "or", "nor"):
            end += 1
        part = self.words[at:end]
        if not part or self.words[at] in ("or", "nor"):
            return False
        if part[0] in WORDS["subjects"]:
            return True
        verbs = [n for n, word in enumerate(part) if n and word in WORDS["finite verbs"]]
        if not verbs:
            return False
        if part[0] in WORDS["determiners"]:
            return True
        # "no effusion, pneumothorax are seen" is still a list; "no effusion, heart is large" is not
        perceived = CLASSES["perceived"]
        return not all(perceived & set(part[n + 1 : n + 3]) for n in verbs)

    def _presupposed(self, start: int, mention: int) -> bool:
        """Whether a later finding is presupposed: no cavity within *the consolidation*."""
        if not self._finding_in(start, mention):
            return any(
                self.words[at] in WORDS["placed"]
                and self.words[at - 1] not in WORDS["evidence"]
                and not WORDS["definite"].isdisjoint(self.words[at + 1 : at + 3])
                for at in range(max(start + 1, mention - 6), mention)
            )
        for at in range(mention - 1, max(start, mention - 5), -1):
            if self.words[at] in _NO_GAP or self.words[at] in WORDS["finite verbs"]:
                return False
            if self.words[at] in WORDS["definite"]:
                return self.words[at - 1] in WORDS["prepositions"]
        return False

    def _findings_behind(self, cue: ScopeCue, number: int) -> bool:
        mention = self.mentions[number]
        if mention.end > cue.start:
            return mention.start < cue.start  # within the alias
        if cue.start - mention.end > _BACKWARD_WORDS:
            return False
        before = self.words[max(0, mention.start - 4) : mention.start]
        if "of" in before and not WORDS["aspects"].isdisjoint(before):
            return False
        own_verb = True
        for at in range(cue.start - 1, mention.end - 1, -1):
            word = self.words[at]
            if word in WORDS["stops backward"]:
                return False
            own_verb = own_verb and word in WORDS["auxiliaries"]
            relative = {"which", "that"} & set(self.words[max(0, at - 2) : at])
            if word in WORDS["finite verbs"] and not own_verb and not relative:
                return False
            if word in (",", "and") and not self._joins(cue, mention, at):
                return False
        return True

    def _joins(self, cue: ScopeCue, mention: MentionSpan, at: int) -> bool:
        """Whether the comma or `and` at `at` joins findings that share the verb of the cue."""
        following = self.words[at + 1] if at + 1 < len(self.words) else ""
        relative = "which" in self.words[mention.end : at + 2]
        if relative or following in ("now", "since", "that", *CLASSES["resolved"]):
            return True
        if cue.direction == ADJACENT and self.words[at] == ",":
            return False
        before = self.words[: mention.start]
        start = 1 + max(
            (n for n, word in enumerate(before) if word in (",", ";", "but")), default=-1
        )
        has_verb = not WORDS["finite verbs"].isdisjoint(before[start:])
        return self._finding_in(at, cue.start) and not has_verb

    def _finding_in(self, start: int, stop: int) -> bool:
        return any(start <= at < stop for at in self._starts)

    def decide(self, kinds: set[str], cues: Sequence[ScopeCue]) -> str:
        """The assertion that follows from the categories of the cues that reach a finding."""
        if DOUBTED in kinds:
            return UNCERTAIN
        if {PRIOR, ABSENT} <= kinds and "that" in self.words:
            return PRESENT  # no evidence that it has resolved
        if PRIOR in kinds:
            return PRIOR
        asked = self.words[-1] == "?"
        if ABSENT in kinds:
            return UNCERTAIN if asked else ABSENT
        if EARLIER in kinds:
            kept = WORDS["persistence"] & set(self.words) or any(
                c.category == NEUTRAL for c in cues
            )
            return PRESENT if kept else PRIOR
        return UNCERTAIN if UNCERTAIN in kinds or asked else PRESENT

    def restore_exceptions(self, assertions: list[str]) -> list[str]:
        """Correct the last finding if its negation has an exception: no infiltrate except *here*.

        If the exception is a place the finding is present, otherwise uncertain.
        """
        if assertions and assertions[-1] == ABSENT:
            after = self.words[self.mentions[-1].end :]
            for exception in _EXCEPTIONS:
                if after[: len(exception)] == list(exception):
                    place = _PLACES.intersection(after[len(exception) : len(exception) + 2])
                    assertions[-1] = PRESENT if place else UNCERTAIN
        return assertions

    def open_alternatives(self, assertions: list[str]) -> list[str]:
        """Mark the findings of `A or B` as uncertain: neither is asserted."""
        for number in range(1, len(assertions)):
            first, second = self.mentions[number - 1 : number + 1]
            between = self.words[first.end : second.start]
            alternative = (
                "or" in between and len(between) <= 4 and _ALTERNATIVES.issuperset(between)
            ) or (between == ["/"] and not (first.sign or second.sign))
            if (
                alternative
                and assertions[number - 1] in (PRESENT, UNCERTAIN)
                and assertions[number] == PRESENT
            ):
                assertions[number - 1] = assertions[number] = UNCERTAIN
        for number, mention in enumerate(self.mentions):
            beside = (*self.words[: mention.start][-1:], *self.words[mention.end :][:1])
            if assertions[number] == PRESENT and "or" in beside:  # aspiration or pneumonia
                assertions[number] = UNCERTAIN
        return assertions


class _Item(NamedTuple):
    """One item of a phrase: the words it accepts after at most `gap` others, or the end."""

    words: frozenset[str] | None  # None = any number
    gap: int = 0
    at_end: bool = False

    def accepts(self, word: str) -> bool:
        return word.isdigit() if self.words is None else word in self.words


@lru_cache(maxsize=1)
def _phrases() -> tuple[tuple[str, str, frozenset[str] | None, tuple[_Item, ...]], ...]:
    """(category, direction, first words, items) of every phrase, in the order of the rules.

    Within a rule the phrase with most items comes first.
    """
    made = []
    for rule in RULES:
        phrases = [tuple(_items(phrase)) for phrase in rule.phrases]
        phrases.sort(key=lambda items: -len(items))
        made += [(rule.category, rule.direction, items[0].words, items) for items in phrases]
    return tuple(made)


def _items(phrase: str) -> Iterator[_Item]:
    gap = 0
    for part in phrase.split():
        if part.startswith(".."):
            gap = int(part[2:])
            continue
        if part == "$":
            yield _Item(frozenset(), 0, True)
        elif part == "{number}":
            yield _Item(None, gap)
        elif part.startswith("{"):
            yield _Item(CLASSES[part[1:-1]], gap)
        else:
            yield _Item(frozenset({part}), gap)
        gap = 0
