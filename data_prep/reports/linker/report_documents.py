"""Reports as documents for a linker."""

from collections.abc import Iterable, Mapping, Sequence

from data_prep.reports.findings.concepts import NIL, split_code
from data_prep.reports.findings.mentions import Mention
from data_prep.reports.findings.scope import ABSENT, PRIOR, UNCERTAIN
from data_prep.reports.findings.text import Sentence
from data_prep.reports.linker.candidates import CandidateGenerator, best_gold, pick
from data_prep.reports.linker.documents import MIN_PRIOR, EntityCandidate, LinkDocument, LinkMention
from data_prep.reports.linker.spaces import ConceptSpace, ContextScore
from data_prep.reports.linker.vectors import WordVectors

N_MENTION_KINDS = 4  # present or uncertain, in the findings or in the impression
CONTEXT_WORDS = 25  # to either side of a mention
_PRESELECT = 50  # candidates by prior for which the context score is computed
_MAX_INHERITED = 4
_STOP_WORDS = {
    "the", "a", "an", "is", "are", "of", "in", "to", "and", "or", "with", "there", "be", "on",
    "at", "by", "for", "this", "that", "it", "as", "has", "have", "from", "seen", "noted", "xxxx",
}  # fmt: skip


def content(words: Iterable[str]) -> tuple[str, ...]:
    """The words that are neither signs nor stop words."""
    return tuple(word for word in words if word.isalnum() and word not in _STOP_WORDS)


def content_words(sentences: Sequence[Sentence]) -> list[tuple[str, ...]]:
    """Words of each sentence, without signs and stop words."""
    return [content(sentence.words) for sentence in sentences]


def context_words(words: Sequence[str], place: int) -> tuple[str, ...]:
    """Content words up to CONTEXT_WORDS places before and after a place."""
    return content(words[max(0, place - CONTEXT_WORDS) : place + CONTEXT_WORDS + 1])


def kind_of(mention: Mention) -> int:
    """Kind of a mention, below N_MENTION_KINDS: its section and whether it is uncertain."""
    return 2 * (mention.section == "impression") + (mention.assertion == UNCERTAIN)


def asserted_mentions(mentions: Sequence[Mention]) -> list[Mention]:
    """Mentions with the assertion present or uncertain: only these are coded in a report."""
    return [m for m in mentions if m.assertion not in (ABSENT, PRIOR)]


class DocumentMaker:
    """Turns the sentences and mentions of a report into a LinkDocument.

    Args:
        words: Word vectors for the context score of the candidates.
    """

    def __init__(
        self, generator: CandidateGenerator, space: ConceptSpace, words: WordVectors
    ) -> None:
        self._generator = generator
        self._context_score = ContextScore(space, words)

    def __call__(
        self,
        name: str,
        sentences: Sequence[Sentence],
        mentions: Sequence[Mention],
        codes: Sequence[str] | None = None,
    ) -> LinkDocument:
        """The document of a report's asserted mentions, in their order.

        Args:
            mentions: All of them; see `asserted_mentions`.
            codes: Manual codes, from which each mention's gold is guessed; None = unknown.
        """
        words = [word for sentence in sentences for word in sentence.words]
        stated = asserted_mentions(mentions)
        ranked = [self._generator.all_codes(mention) for mention in stated]
        passed_on = inherited_codes([self._generator.best_code(codes) for codes in ranked])
        found = [
            self._mention(mention, words, own, passed_on, codes)
            for mention, own in zip(stated, ranked, strict=True)
        ]
        return LinkDocument(name, tuple(found), content(words))

    def _mention(
        self,
        mention: Mention,
        words: Sequence[str],
        ranked: Sequence[EntityCandidate],
        passed_on: Mapping[str, Sequence[str]],
        codes: Sequence[str] | None,
    ) -> LinkMention:
        context = context_words(words, mention.place)
        fit = self._context_score((c.entity for c in ranked[:_PRESELECT]), context)
        headings = dict.fromkeys(split_code(target)[0] for target in mention.targets)
        same = [code for heading in headings for code in passed_on.get(heading, ())]
        return LinkMention(
            mention.place,
            context,
            pick(ranked, fit, same),
            None if codes is None else best_gold(mention, codes),
            kind_of(mention),
            sum(candidate.prior >= MIN_PRIOR for candidate in ranked),
            content(mention.alias.split()),
        )


def inherited_codes(best: Sequence[str]) -> dict[str, list[str]]:
    """Heading -> codes of the report's mentions, as candidates for mentions that may repeat them.

    The counterpart of person coreference in DCA: "opacity" in the impression inherits the candidate
    "left base opacity" from the findings. At most four per heading, the most specific first.
    """
    found: dict[str, list[str]] = {}
    for code in dict.fromkeys(best):
        if code != NIL:
            found.setdefault(split_code(code)[0], []).append(code)
    return {
        heading: sorted(codes, key=lambda code: -code.count("/"))[:_MAX_INHERITED]
        for heading, codes in found.items()
    }
