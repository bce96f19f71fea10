"""What a report says of a lung opacity: yes, no or uncertain, for each of its radiographs."""

from collections.abc import Sequence

from data_prep.reports.findings.assertion import ABSENT, PRESENT, UNCERTAIN
from data_prep.reports.findings.concepts import ConceptBase
from data_prep.reports.findings.linking import LinkedConcept
from data_prep.reports.findings.text import REPORTED, find_sections, find_sentences

YES, NO, UNSURE = "yes", "no", "uncertain"
_CLEAR = (("lung", "clear"), ("chest", "normal"), ("lung", "normal"), ("chest", "negative"))
_NEGATION = {"not", "no", "otherwise", "except", "but", "without"}
_ELSEWHERE = {"adipose tissue", "heart", "breast", "abdomen", "pleura"}  # opacities of no lung


def opacity_label(text: str, concepts: Sequence[LinkedConcept], base: ConceptBase) -> str:
    """The weak label of a report.

    * yes: an opacity (opacity, consolidation, infiltrate, pneumonia, airspace disease) is present;
    * uncertain: one may be there, or something that may hide one or be taken for one is there
      (atelectasis, effusion, oedema, mass ...), or the report says nothing of the lungs;
    * no: none of these, and the report denies an opacity or calls the lungs clear or normal.

    A wrong `no` would teach a detector to overlook pneumonia, so silence is not a `no`.
    """
    found = [c for c in concepts if not _ELSEWHERE.intersection(c.qualifiers)]
    opacity = {c.assertion for c in found if c.heading in base.opacity}
    if PRESENT in opacity:
        return YES
    alike = {c.assertion for c in concepts if c.heading in base.opacity_like}
    if UNCERTAIN in opacity or alike & {PRESENT, UNCERTAIN}:
        return UNSURE
    return NO if ABSENT in opacity or calls_lungs_clear(text) else UNSURE


def calls_lungs_clear(text: str) -> bool:
    """Whether a sentence such as "The lungs are clear" stands in the report, unqualified."""
    sections = [part for part in find_sections(text) if part.kind in REPORTED]
    for sentence in find_sentences(text, sections):
        words = set(sentence.words)
        if not words & _NEGATION and any(words.issuperset(pair) for pair in _CLEAR):
            return True
    return False
