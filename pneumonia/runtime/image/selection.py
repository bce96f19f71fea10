"""Which images the model may judge: frontal chest films; one decision for batch and daemon."""

import re
from typing import Any, Container, Dict, NamedTuple, Optional, Sequence, Set, Tuple

from pneumonia.runtime.image.attributes import joined_text, sequence_items
from pneumonia.runtime.text import plain_letters

CODES = ("modality", "view", "body_part")


class SelectionDecision(NamedTuple):
    """Whether an image is scored, and why not."""

    status: str  # empty when the image is scored, else `skipped` or `rejected`
    reason: str  # machine-readable reason of the status
    warnings: Tuple[str, ...]  # codes of warnings to record with a score


# Words that exclude an image from the frontal ones, and words that keep it, in English, German,
# French, Italian and Spanish; the rules of a batch may name others.
_AGAINST = (
    "lateral lat llat rlat ll rl laterale laterali lateralis lateraux laterolateral "
    "laterolaterale seitlich seitl seitliche seitenaufnahme profil profile profils profilo perfil "
    "profiel zijdelings zijdelingse rao lao rpo lpo decub "
    "oblique oblik obliqua obliquo oblicua oblicuo schr\u00e4g schraeg schr\u00e4gaufnahme "
    "lordotic lordotique lordotica lordotisch decubitus decubito"
)
_WANTED = (
    "pa ap frontal frontale frontaler face posteroanterior anteroposterior posteroanteriore "
    "anteroposteriore posteroanterieur anteroposterieur"
)
WORDS_AGAINST, WORDS_WANTED = tuple(_AGAINST.split()), tuple(_WANTED.split())
# Descriptions of the image or its series; those of the examination are less specific.
DESCRIPTIONS = (
    "SeriesDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "AcquisitionDeviceProcessingDescription",
    "ImageType",
)
EXAMINATIONS = ("StudyDescription", "RequestedProcedureDescription")
# Words in the description of an examination with several views.
_SEVERAL = re.compile(
    r"[2-9+&/]|\b(and|und|et|e|y|with|mit|two|three|zwei|deux|due|dos|views?|ebenen|incidences|"
    r"proiezioni|proyecciones)\b"
)


def word_against(dataset: Any, against: Sequence[str], wanted: Container[str]) -> str:
    """The first rule word that excludes an image and occurs in its descriptions, else empty.

    The result is a word of the rules, never text of the header. Descriptions that also hold a
    wanted word ("PA and lateral") exclude nothing, and neither does the
    description of an examination with several views. Accents do not matter.

    Args:
        against: Words that exclude an image, lower case.
        wanted: Words that keep it, lower case.
    """
    if not against:
        return ""
    texts = [joined_text(dataset, keyword) for keyword in DESCRIPTIONS]
    views = sequence_items(dataset, "ViewCodeSequence") or ()
    texts += [joined_text(item, "CodeMeaning") for item in views]
    examinations = [joined_text(dataset, keyword) for keyword in EXAMINATIONS]
    texts += [text for text in examinations if not _SEVERAL.search(text.lower())]
    found = _words_of(" ".join(texts))
    if any(word in wanted for word in found):
        return ""
    return next((word for word in against if plain_letters(word) in found), "")


def _words_of(text: str) -> Set[str]:
    """Words in lower case without accents; `ChestLat`, `CHESTLAT` are two words, `p.a.` is one."""
    text = plain_letters(re.sub(r"\b([A-Za-z])\.\s?([A-Za-z])\b\.?", r"\1\2", text))
    parts = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    parts += " " + re.sub(r"(chest|thorax|torax|torace)(?=[a-z])", r"\1 ", text.lower())
    return set(re.findall(r"[^\W\d_]+", (text + " " + parts).lower()))


def is_absent(code: str, value: Optional[str]) -> bool:
    """Whether the value of one of CODES is absent or unspecific."""
    return value is None or (value == "OTHER" and code != "modality")


def is_another_examination(info: Dict[str, Any], rules: Any) -> bool:
    """Whether the codes exclude a frontal chest radiograph; absent codes exclude nothing.

    Args:
        info: Facts of runtime.image.radiograph, and `word_against` where descriptions were read.
        rules: Accepted values by the names in CODES.
    """
    for code in CODES:
        value = info.get(code)
        if not is_absent(code, value) and value not in getattr(rules, code):
            return True
    # the view's own code counts more than a description
    return bool(info.get("word_against")) and is_absent("view", info.get("view"))


def select(
    info: Dict[str, Any],
    warnings: Tuple[str, ...],
    rules: Any,
    skip_absent: Container[str] = (),
) -> SelectionDecision:
    """Decide by the header's codes; an image they leave undecided is scored, with a warning.

    Args:
        info: Facts of runtime.image.radiograph, and `word_against` where descriptions were read.
        warnings: Warning codes of runtime.image.radiograph.
        rules: Accepted values by the names in CODES; `children` and `pictures` are `score` or
            `skip`.
        skip_absent: Those of CODES without which an image is skipped.
    """
    if "blank_image" in warnings:
        return SelectionDecision("rejected", "blank_image", warnings)
    if info["format"] != "dicom":
        skipped = rules.pictures == "skip"
        return SelectionDecision(
            "skipped" if skipped else "", "picture" if skipped else "", warnings
        )
    reason = _reason_to_skip(info, rules, skip_absent)
    if reason:
        return SelectionDecision("skipped", reason, warnings)
    return SelectionDecision("", "", tuple(warnings) + _doubts(info, warnings))


def _reason_to_skip(info: Dict[str, Any], rules: Any, skip_absent: Container[str]) -> str:
    if info.get("for_processing"):
        return "for_processing"
    if is_another_examination(info, rules):
        return "not_frontal_chest"
    for code in CODES:
        if info.get(code) in (None, "OTHER") and code in skip_absent:
            return code + "_unknown"
    return "child" if info.get("is_child") and rules.children == "skip" else ""


def _doubts(info: Dict[str, Any], warnings: Tuple[str, ...]) -> Tuple[str, ...]:
    """Warnings about absent or contradictory codes."""
    found = [code + "_unknown" for code in CODES if info.get(code) in (None, "OTHER")]
    if info.get("word_against") and "view_conflict" not in warnings:
        found.insert(0, "view_conflict")  # the view's code is believed
    if info.get("is_child"):
        found.append("outside_indication")
    return tuple(found)
