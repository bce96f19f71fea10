"""Reports as documents for a linker."""

from collections.abc import Sequence

import numpy as np

from data_prep.reports.assertion import ABSENT, PRIOR, UNCERTAIN
from data_prep.reports.candidates import CandidateGenerator, best_gold, pick
from data_prep.reports.documents import LinkDocument, LinkMention
from data_prep.reports.mentions import Mention
from data_prep.reports.spaces import ConceptSpace
from data_prep.reports.text import Sentence
from data_prep.reports.vectors import WordVectors

N_MENTION_KINDS = 4  # present or uncertain, in the findings or in the impression
CONTEXT_WORDS = 25  # to either side of a mention
_PRESELECT = 50  # candidates by prior whose context score is looked at
_STOP_WORDS = {
    "the", "a", "an", "is", "are", "of", "in", "to", "and", "or", "with", "there", "be", "on",
    "at", "by", "for", "this", "that", "it", "as", "has", "have", "from", "seen", "noted", "xxxx",
}  # fmt: skip


def content_words(sentences: Sequence[Sentence]) -> list[list[str]]:
    """Words of each sentence, without signs; None is kept short: stop words are dropped."""
    return [[w for w in s.words if w.isalnum() and w not in _STOP_WORDS] for s in sentences]


def asserted(mentions: Sequence[Mention]) -> list[Mention]:
    """The mentions that say something is, or may be, there: only these are coded in a report."""
    return [m for m in mentions if m.assertion not in (ABSENT, PRIOR)]


class DocumentMaker:
    """Turns the sentences and mentions of a report into a LinkDocument.

    Args:
        generator: Makes candidates.
        space: Vectors of codes.
        words: Word vectors, for the candidates' context score.
    """

    def __init__(
        self, generator: CandidateGenerator, space: ConceptSpace, words: WordVectors
    ) -> None:
        self._generator = generator
        self._space = space
        self._rows = words.rows()
        self._matrix = words.matrix

    def __call__(
        self,
        name: str,
        sentences: Sequence[Sentence],
        mentions: Sequence[Mention],
        codes: Sequence[str] | None = None,
    ) -> LinkDocument:
        """The document of a report's asserted mentions, in their order.

        Args:
            name: Id of the report.
            sentences: Of the report.
            mentions: All of them; see `asserted`.
            codes: Manual codes, from which each mention's gold is guessed; None = unknown.
        """
        words = [word for sentence in sentences for word in sentence.words]
        found = [self._mention(m, words, codes) for m in asserted(mentions)]
        return LinkDocument(name, tuple(found))

    def _mention(
        self, mention: Mention, words: Sequence[str], codes: Sequence[str] | None
    ) -> LinkMention:
        start = max(0, mention.place - CONTEXT_WORDS)
        around = words[start : mention.place + CONTEXT_WORDS + 1]
        context = tuple(w for w in around if w.isalnum() and w not in _STOP_WORDS)
        ranked = self._generator.all_codes(mention)
        rows = [self._rows[word] for word in context if word in self._rows]
        total = self._matrix[rows].sum(axis=0) if rows else np.zeros(self._space.dimensions)
        fit = {c.entity: float(self._space.vector(c.entity) @ total) for c in ranked[:_PRESELECT]}
        return LinkMention(
            mention.place,
            context,
            pick(ranked, fit),
            None if codes is None else best_gold(mention, codes),
            2 * (mention.section == "impression") + (mention.assertion == UNCERTAIN),
        )
