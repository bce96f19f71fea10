"""Which images the model may judge: frontal chest films; one decision for batch and daemon."""

from typing import Any, Container, Dict, NamedTuple, Optional, Tuple

CODES = ("modality", "view", "body_part")


class Selection(NamedTuple):
    """The decision.

    Attributes:
        status: Empty when the image is scored, else `skipped` or `rejected`.
        reason: Machine-readable reason of it.
        warnings: Words to keep beside a score.
    """

    status: str
    reason: str
    warnings: Tuple[str, ...]


def is_absent(code: str, value: Optional[str]) -> bool:
    """Whether a header's value of one of CODES tells nothing."""
    return value is None or (value == "OTHER" and code != "modality")


def is_another_examination(info: Dict[str, Any], rules: Any) -> bool:
    """Whether the codes say that this is no frontal chest radiograph; absent codes say nothing.

    Args:
        info: Facts of runtime.radiograph, and `word_against` where descriptions were read.
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
    """Decide by the header's codes; what a header leaves open is scored, with a word.

    Args:
        info: Facts of runtime.radiograph, and `word_against` where descriptions were read.
        warnings: Words of runtime.radiograph.
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
