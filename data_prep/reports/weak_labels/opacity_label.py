"""Weak label of lung opacity from a report: yes, no or uncertain, for its radiographs."""

from collections.abc import Sequence

from data_prep.reports.findings.concepts import ConceptBase, split_code
from data_prep.reports.findings.linking import finder_of
from data_prep.reports.findings.mentions import Mention
from data_prep.reports.findings.scope import ABSENT, PRESENT, UNCERTAIN
from data_prep.reports.findings.text import Sentence, word_set

YES, NO, UNSURE = "yes", "no", "uncertain"

_LUNGS = frozenset({"lung", "chest", "cxr"})
_CLEAR = frozenset({"clear", "normal", "negative", "unremarkable"})
_WINDOW = 8  # words between `lungs` and `clear`
# Words that restrict the statement at any position in its sentence.
_EXCEPTIONS = word_set(
    "except exception but other otherwise elsewhere remaining remainder rest apart aside "
    "although however though beside"
)
_QUALIFIES = word_set(
    "not no nor without never may might could mostly largely relatively nearly predominantly "
    "fairly partially partly almost heart mediastinum bone , ; show showing demonstrate reveal "
    "have has with"
)
_NEGATIONS = frozenset({"not", "never", "neither", "nor", "longer", "hardly", "barely"})
# Words of lung volume: "hyperexpanded but clear" calls the lungs clear.
_VOLUMES = word_set(
    "hyperexpanded hyperinflated hyperaerated overexpanded overinflated hyperlucent emphysematous "
    "hypoinflated hypoexpanded hypoaerated underinflated underexpanded hyperinflation "
    "hyperexpansion emphysema hypoinflation small low"
)
# "Normal lung volumes" does not exclude opacities.
_NOT_LUNG = word_set("volume inflation expansion vascularity vasculature vessel marking")
_PLACES = frozenset({"in", "at", "within", "on", "over"})
_PARTS = word_set("upper lower middle base basilar apex apical apice lobe zone mid")
# "No other opacity" does not exclude an opacity that was known before.
_ADDITIONAL = word_set("other additional further second elsewhere remaining remainder rest")
_PART_QUALIFIERS = frozenset(
    ("right", "left", "base", "apex", "retrocardiac", "lingula", "hilum",
     "upper lobe", "middle lobe", "lower lobe")
)  # fmt: skip
_BESIDE_LUNG = frozenset({"pleura", "mediastinum", "paratracheal"})
# "Opacity that represents overlying breast tissue" is not necessarily in the lung.
_EXPLAINS = word_set(
    "represent secondary due related attributed attributable consistent compatible reflect from "
    "explained accounted caused correspond corresponding"
)
_OVERLAYS = word_set(
    "breast fat overlap overlapping superimposed superimposition summation fold artifact nipple "
    "clothing skin attenuation tissue overlay wall"
)
_MARKINGS, _PROMINENT = "Markings", "prominent"


def opacity_label(text: str, base: ConceptBase) -> str:
    """The weak label of a report, from the assertions of its sentences alone.

    * yes: an opacity of the lung (opacity, consolidation, infiltrate, pneumonia, airspace disease)
      is present;
    * uncertain: an opacity is possible, or a finding is present or possible that can hide or
      resemble one (atelectasis, effusion, oedema, mass, nodule, fibrosis, prominent interstitial
      markings ...), or the report does not describe both lungs;
    * no: none of these, and the report negates an opacity or calls both lungs clear or normal.

    A wrong `no` would train a detector to miss pneumonia: neither a missing statement nor the
    negation of an opacity in one part of the lungs is a `no`. No linker is used, since it could
    drop a mention.

    Args:
        base: Concept base; its `opacity` and `opacity_like` headings and codes are used.
    """
    sentences, mentions = finder_of(base).read(text)
    mentions = [mention for mention in mentions if not mention.elsewhere]
    words = [sentence.words for sentence in sentences]
    opacities = [m for m in mentions if _denotes(m, base.opacity)]
    for mention in opacities:
        of_lung = _BESIDE_LUNG.isdisjoint(mention.qualifiers)
        overlay = _is_overlay(sentences[mention.sentence], mention)
        if mention.assertion == PRESENT and of_lung and not overlay:
            return YES
    alike = [m for m in mentions if _resembles_opacity(m, base)]
    if any(m.assertion in (PRESENT, UNCERTAIN) for m in (*opacities, *alike)):
        return UNSURE
    if any(map(calls_lungs_unclear, words)):
        return UNSURE
    negated = any(
        m.assertion == ABSENT
        and _PART_QUALIFIERS.isdisjoint(m.qualifiers)
        and _ADDITIONAL.isdisjoint(words[m.sentence])
        for m in opacities
    )
    sides = {side for sentence in words for side in clear_sides(sentence)}
    return NO if negated or sides == {"right", "left"} else UNSURE


def _denotes(mention: Mention, names: Sequence[str]) -> bool:
    """Whether a heading or a code of a mention is among `names`."""
    return any(split_code(t)[0] in names or t in names for t in mention.targets)


def _is_overlay(sentence: Sentence, mention: Mention) -> bool:
    """Whether the sentence explains the opacity by something that overlies the lung."""
    after = [token.word for token in sentence.tokens if token.start >= mention.end]
    return any(
        word in _EXPLAINS and not _OVERLAYS.isdisjoint(after[at + 1 : at + 10])
        for at, word in enumerate(after)
    )


def _resembles_opacity(mention: Mention, base: ConceptBase) -> bool:
    prominent = _PROMINENT in mention.qualifiers and _denotes(mention, (_MARKINGS,))
    return prominent or _denotes(mention, base.opacity_like)


def clear_sides(words: Sequence[str]) -> frozenset[str]:
    """The lungs, `right` and `left`, that a sentence calls clear or normal without restriction."""
    if _is_restricted(words):
        return frozenset()
    lungs = [at for at, word in enumerate(words) if word in _LUNGS]
    clear = [
        at
        for at, word in enumerate(words)
        if word in _CLEAR and list(words[at + 1 : at + 2]) not in (["of"], ["from"], ["for"])
    ]
    return frozenset(
        side for lung in lungs for at in clear for side in _clear_sides(words, lung, at)
    )


def calls_lungs_unclear(words: Sequence[str]) -> bool:
    """Whether a sentence states that the lungs are not clear."""
    return any(
        word in _LUNGS
        and not _NEGATIONS.isdisjoint(words[max(0, at - 1) : at + 6])
        and "clear" in words[at : at + 8]
        for at, word in enumerate(words)
    )


def _is_restricted(words: Sequence[str]) -> bool:
    """Whether the sentence has an exception other than that of volume: hyperexpanded but clear."""
    for at, word in enumerate(words):
        if word == "but" and _CLEAR.intersection(words[at + 1 : at + 4]):
            if _VOLUMES.isdisjoint(words[:at]):
                return True
        elif word in _EXCEPTIONS:
            return True
    return False


def _clear_sides(words: Sequence[str], lung: int, clear: int) -> Sequence[str]:
    """The sides that the word `clear` at one token states of `lung` at another; () for none."""
    if clear < lung:  # clear lungs
        start, between = clear, words[clear + 1 : lung]
        if len(between) > 2:
            return ()
    else:  # the lungs are clear
        start, between = lung, words[lung + 1 : clear]
        if len(between) > _WINDOW:
            return ()
    if _NOT_LUNG.intersection(words[lung + 1 : lung + 2]):
        return ()
    between = [word for word in between if word != "but"]
    before = words[max(0, start - 2) : start]
    after = words[clear + 1 : clear + 6]
    around = {*before, *between, *(after if _PLACES.intersection(after[:1]) else ())}
    if _PARTS & around or _QUALIFIES & set(between) or _NEGATIONS & set(before):
        return ()
    named = {"right", "left"} & around
    return tuple(named) if len(named) == 1 else ("right", "left")
