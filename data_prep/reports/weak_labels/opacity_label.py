"""Weak label of lung opacity from a report: yes, no or uncertain, for its radiographs."""

from collections.abc import Sequence

from data_prep.reports.findings.concepts import ConceptBase, split_code
from data_prep.reports.findings.linking import finder_of
from data_prep.reports.findings.mentions import Mention
from data_prep.reports.findings.scope import ABSENT, PRESENT, UNCERTAIN
from data_prep.reports.findings.text import word_set

YES, NO, UNSURE = "yes", "no", "uncertain"

_LUNGS = frozenset({"lung", "chest", "cxr"})
_CLEAR = frozenset({"clear", "normal", "negative", "unremarkable"})
_WINDOW = 8  # words between `lungs` and `clear`
# Words that qualify the statement wherever they stand in its sentence.
_EXCEPTIONS = word_set(
    "except exception but other otherwise elsewhere remaining remainder rest apart aside "
    "although however though besides"
)
_QUALIFIES = word_set(
    "not no nor without never may might could mostly largely relatively nearly predominantly "
    "fairly partially partly almost heart mediastinum bone , ;"
)
_PARTS = word_set("upper lower middle base basilar apex apical apice lobe zone mid")
# A denial of these does not exclude an opacity that was known before.
_ADDITIONAL = frozenset({"other", "additional", "further", "second"})
_PART_QUALIFIERS = frozenset(
    ("right", "left", "base", "apex", "retrocardiac", "lingula", "hilum",
     "upper lobe", "middle lobe", "lower lobe")
)  # fmt: skip
_BESIDE_LUNG = frozenset({"pleura", "mediastinum"})


def opacity_label(text: str, base: ConceptBase) -> str:
    """The weak label of a report, from the assertions of its sentences alone.

    * yes: an opacity of the lung (opacity, consolidation, infiltrate, pneumonia, airspace disease)
      is present;
    * uncertain: one may be there, or something that may hide one or be taken for one is there
      (atelectasis, effusion, oedema, mass, nodule ...), or the report says nothing of both lungs;
    * no: none of these, and the report denies an opacity or calls the lungs clear or normal.

    A wrong `no` would train a detector to miss pneumonia, so neither a missing statement nor the
    denial of an opacity in one part of the lungs is a `no`. No linker is used: it could drop
    a mention.

    Args:
        text: The report.
        base: Its `opacity` and `opacity_like` headings decide.
    """
    sentences, mentions = finder_of(base).read(text)
    mentions = [mention for mention in mentions if not mention.elsewhere]
    opacities = [m for m in mentions if _stands_for(m, base.opacity)]
    for mention in opacities:
        if mention.assertion == PRESENT and _BESIDE_LUNG.isdisjoint(mention.qualifiers):
            return YES
    alike = [m for m in mentions if _stands_for(m, base.opacity_like)]
    if any(m.assertion in (PRESENT, UNCERTAIN) for m in (*opacities, *alike)):
        return UNSURE
    words = [sentence.words for sentence in sentences]
    if any(map(calls_lungs_unclear, words)):
        return UNSURE
    denied = any(
        m.assertion == ABSENT
        and _PART_QUALIFIERS.isdisjoint(m.qualifiers)
        and _ADDITIONAL.isdisjoint(words[m.sentence])
        for m in opacities
    )
    return NO if denied or any(map(calls_lungs_clear, words)) else UNSURE


def _stands_for(mention: Mention, headings: Sequence[str]) -> bool:
    return any(split_code(target)[0] in headings for target in mention.targets)


def calls_lungs_clear(words: Sequence[str]) -> bool:
    """Whether a sentence calls both lungs, or the chest, clear or normal without restriction.

    Args:
        words: The sentence's tokens in normal form.
    """
    if not _EXCEPTIONS.isdisjoint(words):
        return False
    lungs = [at for at, word in enumerate(words) if word in _LUNGS]
    clear = [
        at
        for at, word in enumerate(words)
        if word in _CLEAR and list(words[at + 1 : at + 2]) not in (["of"], ["from"], ["for"])
    ]
    return any(_is_said_of(words, lung, at) for lung in lungs for at in clear)


def calls_lungs_unclear(words: Sequence[str]) -> bool:
    """Whether a sentence says that the lungs are not clear."""
    return any(
        word in _LUNGS and "not" in words[at : at + 6] and "clear" in words[at : at + 8]
        for at, word in enumerate(words)
    )


def _is_said_of(words: Sequence[str], lung: int, clear: int) -> bool:
    """Whether `clear` at one token describes the lungs at another."""
    if clear < lung:  # clear lungs
        start, between = clear, words[clear + 1 : lung]
        if len(between) > 2:
            return False
    else:  # the lungs are clear
        start, between = lung, words[lung + 1 : clear]
        if len(between) > _WINDOW:
            return False
    before = words[max(0, start - 2) : start]
    around = {*before, *between}
    one_side = len({"right", "left"} & around) == 1
    return not (one_side or _PARTS & around or _QUALIFIES & set(between) or "not" in before)
