"""Reports as documents for a linker."""

from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.reports.findings.concepts import NIL, split_code
from data_prep.reports.findings.mentions import Mention
from data_prep.reports.findings.scope import ABSENT, PRIOR, UNCERTAIN
from data_prep.reports.findings.text import Sentence
from data_prep.reports.linker.candidates import CandidateGenerator, best_gold, pick
from data_prep.reports.linker.documents import MIN_PRIOR, Candidate, LinkDocument, LinkMention
from data_prep.reports.linker.spaces import ConceptSpace
from data_prep.reports.linker.vectors import WordVectors

N_MENTION_KINDS = 4  # present or uncertain, in the findings or in the impression
CONTEXT_WORDS = 25  # to either side of a mention
_PRESELECT = 50  # candidates by prior for which the context score is computed
_MAX_INHERITED = 4
_STOP_WORDS = {
    "the", "a", "an", "is", "are", "of", "in", "to", "and", "or", "with", "there", "be", "on",
    "at", "by", "for", "this", "that", "it", "as", "has", "have", "from", "seen", "noted", "xxxx",
}  # fmt: skip


def content_words(sentences: Sequence[Sentence]) -> list[list[str]]:
    """Words of each sentence, without signs and stop words."""
    return [[w for w in s.words if w.isalnum() and w not in _STOP_WORDS] for s in sentences]


def asserted(mentions: Sequence[Mention]) -> list[Mention]:
    """Mentions with the assertion present or uncertain: only these are coded in a report."""
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
            sentences: Sentences of the report.
            mentions: All of them; see `asserted`.
            codes: Manual codes, from which each mention's gold is guessed; None = unknown.
        """
        words = [word for sentence in sentences for word in sentence.words]
        stated = asserted(mentions)
        ranked = [self._generator.all_codes(mention) for mention in stated]
        passed_on = inherited([self._generator.best_code(codes) for codes in ranked])
        found = [
            self._mention(mention, words, own, passed_on, codes)
            for mention, own in zip(stated, ranked, strict=True)
        ]
        return LinkDocument(name, tuple(found))

    def _mention(
        self,
        mention: Mention,
        words: Sequence[str],
        ranked: Sequence[Candidate],
        passed_on: Mapping[str, Sequence[str]],
        codes: Sequence[str] | None,
    ) -> LinkMention:
        start = max(0, mention.place - CONTEXT_WORDS)
        around = words[start : mention.place + CONTEXT_WORDS + 1]
        context = tuple(w for w in around if w.isalnum() and w not in _STOP_WORDS)
        rows = [self._rows[word] for word in context if word in self._rows]
        total = self._matrix[rows].sum(axis=0) if rows else np.zeros(self._space.dimensions)
        fit = {c.entity: float(self._space.vector(c.entity) @ total) for c in ranked[:_PRESELECT]}
        headings = dict.fromkeys(split_code(target)[0] for target in mention.targets)
        same = [code for heading in headings for code in passed_on.get(heading, ())]
        return LinkMention(
            mention.place,
            context,
            pick(ranked, fit, same),
            None if codes is None else best_gold(mention, codes),
            2 * (mention.section == "impression") + (mention.assertion == UNCERTAIN),
            sum(candidate.prior >= MIN_PRIOR for candidate in ranked),
        )


def inherited(best: Sequence[str]) -> dict[str, list[str]]:
    """Heading -> the first codes of the report's mentions: a mention may repeat an earlier one.

    The counterpart of person co-reference in DCA: "opacity" of the impression inherits the
    candidate "left base opacity" of the findings. At most four a heading, the most specific first.
    """
    found: dict[str, list[str]] = {}
    for code in dict.fromkeys(best):
        if code != NIL:
            found.setdefault(split_code(code)[0], []).append(code)
    return {
        heading: sorted(codes, key=lambda code: -code.count("/"))[:_MAX_INHERITED]
        for heading, codes in found.items()
    }
