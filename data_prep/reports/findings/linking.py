"""Link a report to coded findings, each with assertion, site and position.

Codes are chosen by a linker: a trained one (`reports.linker.trained_linker.TrainedLinker`) or, by
default, the alias table: the first code of the alias, refined by the site words beside it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from data_prep.reports.findings.concepts import NIL, ConceptBase, split_code
from data_prep.reports.findings.mentions import Mention, MentionFinder
from pneumonia.runtime.errors import DataError

MAX_CHARACTERS = 100_000  # long reports have about 5,000
SIDES = ("right", "left", "bilateral")


class LinkedConcept(NamedTuple):
    """A finding that a report states."""

    code: str  # heading and qualifiers, `Opacity/lung/lower lobe/left`
    heading: str  # `Opacity`
    qualifiers: tuple[str, ...]  # (`lung`, `lower lobe`, `left`)
    assertion: str  # `present`, `absent`, `uncertain` or `prior`
    span: tuple[int, int]  # characters of the mention in the report, `[start, end)`
    score: float  # probability among the mention's candidates, 0 to 1
    alias: str = ""  # the matched form of the vocabulary, not text of the report
    section: str = ""  # `findings` or `impression`

    @property
    def side(self) -> str:
        """`right`, `left`, `bilateral` or empty."""
        return next((name for name in self.qualifiers if name in SIDES), "")

    @property
    def site(self) -> str:
        """Qualifiers without the side, `lung/lower lobe`."""
        return "/".join(name for name in self.qualifiers if name not in SIDES)


class LinkDecision(NamedTuple):
    """A linker's decision for one mention: code or NIL, and its probability."""

    code: str
    score: float


class MentionLinker(Protocol):
    """Interface of a linker that decides for all mentions of one report."""

    def link(self, text: str, mentions: Sequence[Mention]) -> list[LinkDecision]:
        """One decision per mention, in their order."""
        ...


class DictionaryLinker:
    """Untrained linker: the first code of the alias, refined by the site words beside it."""

    def __init__(self, base: ConceptBase) -> None:
        self.base = base

    def link(self, text: str, mentions: Sequence[Mention]) -> list[LinkDecision]:
        """The score is 1 / number of the alias's codes."""
        return [LinkDecision(self._code(m), 1 / len(m.targets)) for m in mentions]

    def _code(self, mention: Mention) -> str:
        """Refined code; NIL for a lung finding in an organ for which the base has no code."""
        code = refine(self.base, mention.targets[0], mention.qualifiers)
        heading, qualifiers = split_code(code)
        of_lung = heading in self.base.opacity or heading in self.base.opacity_like
        placed = bool(set(self.base.elsewhere).intersection(qualifiers))
        return NIL if mention.elsewhere and of_lung and not placed else code


def refine(base: ConceptBase, code: str, qualifiers: Sequence[str]) -> str:
    """The node at or below `code` that fits the qualifiers best, and has no other qualifier.

    A side counts more than two other qualifiers: "left hilar mass" is `Mass/left` where the base
    knows the hilum only on the right. Ties go to the more frequent code.

    Args:
        code: Code of the alias; its own qualifiers are kept.
        qualifiers: Qualifiers whose words are beside the mention.
    """
    heading, own = split_code(code)
    supported = {*own, *qualifiers}

    def fit(node: str) -> float:
        names = set(split_code(node)[1])
        if not set(own) <= names <= supported:
            return -1.0
        return len(names) + 1.5 * len(names.intersection(SIDES))

    best: str = max((*base.below(heading), code), key=fit)
    return best if fit(best) >= 0 else code


def drop_unsupported(base: ConceptBase, code: str, mention: Mention) -> str:
    """Remove qualifiers from a code that neither the alias nor the words beside it support."""
    heading, qualifiers = split_code(code)
    implied = next((t for t in mention.targets if split_code(t)[0] == heading), heading)
    supported = {*mention.qualifiers, *split_code(implied)[1]}
    return code if supported.issuperset(qualifiers) else refine(base, implied, mention.qualifiers)


@lru_cache(maxsize=4)
def finder_of(base: ConceptBase) -> MentionFinder:
    """The MentionFinder of a base, cached."""
    return MentionFinder(base)


def link_report(
    text: str, base: ConceptBase, linker: MentionLinker | None = None
) -> list[LinkedConcept]:
    """Find the coded findings of one report.

    Args:
        text: The report, with or without headings such as `FINDINGS:`.
        linker: Chooses between candidates; None = the alias table.

    Returns:
        In text order; mentions without a concept are left out.

    Raises:
        DataError: The text is longer than MAX_CHARACTERS.
    """
    if len(text) > MAX_CHARACTERS:
        raise DataError(
            "Text is too long for a report",
            expected=f"at most {MAX_CHARACTERS} characters",
            found=str(len(text)),
        )
    mentions = finder_of(base)(text)
    decisions = (linker or DictionaryLinker(base)).link(text, mentions)
    found = []
    for mention, decision in zip(mentions, decisions, strict=True):
        if decision.code == NIL:
            continue
        code = drop_unsupported(base, decision.code, mention)
        heading, qualifiers = split_code(code)
        found.append(
            LinkedConcept(
                code,
                heading,
                qualifiers,
                mention.assertion,
                (mention.start, mention.end),
                decision.score,
                mention.alias,
                mention.section,
            )
        )
    return found
