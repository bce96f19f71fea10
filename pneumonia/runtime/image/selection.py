"""Which images the model may judge: frontal chest films; one decision for batch and daemon."""

import re
from typing import Any, Container, Dict, NamedTuple, Optional, Sequence, Tuple

from pneumonia.runtime.image.attributes import joined_text, sequence_items

CODES = ("modality", "view", "body_part")


class Selection(NamedTuple):
    """The decision.

    Attributes:
        status: Empty when the image is scored, else `skipped` or `rejected`.
        reason: Machine-readable reason of the status.
        warnings: Codes of warnings to record with a score.
    """

    status: str
    reason: str
    warnings: Tuple[str, ...]


DESCRIPTIONS = (
    "SeriesDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "AcquisitionDeviceProcessingDescription",
)


def word_against(dataset: Any, against: Sequence[str], wanted: Container[str]) -> str:
    """The first rule word that excludes an image and occurs in its descriptions, else empty.

    The result is a word of the rules, never text of the header. Descriptions that also hold a
    wanted word ("PA and lateral") exclude nothing.

    Args:
        dataset: The header.
        against: Words that exclude an image, lower case.
        wanted: Words that keep it, lower case.
    """
    if not against:
        return ""
    texts = [joined_text(dataset, keyword) for keyword in DESCRIPTIONS]
    views = sequence_items(dataset, "ViewCodeSequence") or ()
    texts += [joined_text(item, "CodeMeaning") for item in views]
    found = set(re.findall(r"[^\W\d_]+", " ".join(texts).lower()))
    if any(word in wanted for word in found):
        return ""
    return next((word for word in against if word in found), "")


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
) -> Selection:
    """Decide by the header's codes; an image they leave undecided is scored, with a warning.

    Args:
        info: Facts of runtime.image.radiograph, and `word_against` where descriptions were read.
        warnings: Warning codes of runtime.image.radiograph.
        rules: Accepted values by the names in CODES; `children` and `pictures` are `score` or
            `skip`.
        skip_absent: Those of CODES without which an image is skipped.
    """
    if "blank_image" in warnings:
        return Selection("rejected", "blank_image", warnings)
    if info["format"] != "dicom":
        if rules.pictures == "skip":
            return Selection("skipped", "picture", warnings)
        return Selection("", "", warnings)
    if is_another_examination(info, rules):
        return Selection("skipped", "not_frontal_chest", warnings)
    words = list(warnings)
    for code in CODES:
        if info.get(code) in (None, "OTHER"):
            if code in skip_absent:
                return Selection("skipped", code + "_unknown", warnings)
            words.append(code + "_unknown")
    if info.get("is_child"):
        if rules.children == "skip":
            return Selection("skipped", "child", warnings)
        words.append("outside_indication")
    return Selection("", "", tuple(words))
