"""Which images the model may judge: frontal chest radiographs. Reading does not decide that."""

from typing import Any, NamedTuple

CHEST_MODALITIES = ("CR", "DX", "RG", "XR")
FRONTAL_VIEWS = ("AP", "PA")
CHEST_PARTS = ("CHEST", "THORAX", "LUNG")


_ALLOWED = {
    "modality": CHEST_MODALITIES,
    "view": FRONTAL_VIEWS,
    "body_part": CHEST_PARTS,
}  # fmt: skip


class Selection(NamedTuple):
    """The decision.

    Attributes:
        status: Empty when the image is scored, else `skipped` or `rejected`.
        reason: Machine-readable reason of it.
        warnings: Words to keep beside a score.
    """

    status: str
    reason: str
    warnings: tuple[str, ...]


def is_another_examination(info: dict[str, Any]) -> bool:
    """Whether the codes say that this is no frontal chest radiograph; absent codes say nothing."""
    for key, allowed in _ALLOWED.items():
        value = info.get(key)
        unknown = value is None or (value == "OTHER" and key != "modality")
        if not unknown and value not in allowed:
            return True
    return False


def select_image(info: dict[str, Any], warnings: tuple[str, ...]) -> Selection:
    """Decide by the header's codes; what a header leaves open is scored, with a word.

    Args:
        info: Facts of runtime.radiograph.
        warnings: Words of runtime.radiograph.
    """
    if "blank_image" in warnings:
        return Selection("rejected", "blank_image", warnings)
    if info["format"] != "dicom":
        return Selection("", "", warnings)
    if is_another_examination(info):
        return Selection("skipped", "not_frontal_chest", warnings)
    words = list(warnings)
    words += [key + "_unknown" for key in _ALLOWED if info[key] in (None, "OTHER")]
    if info["is_child"]:
        words.append("outside_indication")
    return Selection("", "", tuple(words))
