"""Which images are scored: frontal chest radiographs, by the codes of their headers."""

from typing import Any, Dict, Tuple

from deploy_jetson.device.daemon.settings import RulesSettings

CODES = ("modality", "view", "body_part")


def select(
    info: Dict[str, Any], warnings: Tuple[str, ...], rules: RulesSettings
) -> Tuple[str, str, Tuple[str, ...]]:
    """Decide as `pneumonia score` does; what a header leaves open is scored, with a word.

    Args:
        info: Facts of runtime.radiograph.
        warnings: Words of runtime.radiograph.
        rules: What is accepted.

    Returns:
        Status (empty when the image is scored), reason, and the words to keep.
    """
    if "blank_image" in warnings:
        return "rejected", "blank_image", warnings
    if info["format"] != "dicom":
        return ("skipped", "picture", warnings) if rules.pictures == "skip" else ("", "", warnings)
    words = list(warnings)
    for code in CODES:
        value = info.get(code)
        if value is None or (value == "OTHER" and code != "modality"):
            words.append(code + "_unknown")
        elif value not in getattr(rules, code):
            return "skipped", "not_frontal_chest", warnings
    if info.get("is_child"):
        if rules.children == "skip":
            return "skipped", "child", warnings
        words.append("outside_indication")
    return "", "", tuple(words)
