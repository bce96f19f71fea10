"""The view of a radiograph, from several attributes of its header.

View Position is free text in practice, View Code Sequence holds SNOMED codes of three editions, and
Patient Orientation distinguishes lateral from frontal views by its directions.
"""

import re
from typing import Any, Dict, List, NamedTuple, Optional

from pneumonia.runtime.image.attributes import all_values, first_text, sequence_items
from pneumonia.runtime.text import plain_letters

FRONTAL = "FRONTAL"  # AP or PA, not stated which
OTHER = "OTHER"
# Values of View Position that may leave the file, so that no identifier typed into it can.
_NAMES = "AP PA LL RL LATERAL RLD LLD DECUBITUS LORDOTIC RLO LLO RAO LAO RPO LPO AXIAL OBLIQUE"
VIEWS = frozenset(_NAMES.split())
_FRONTAL_VIEWS = ("AP", "PA", FRONTAL)
_SPECIAL_VIEWS = VIEWS - {"AP", "PA", "LL", "RL", "LATERAL"}


def _by_word(text: str) -> Dict[str, str]:
    """`A: b c; D: e` as b -> A, c -> A, e -> D."""
    lines = [line.split(":") for line in text.split(";")]
    return {word: view.strip() for view, words in lines for word in words.split()}


# DICOM CID 4010 in SNOMED CT, and in SNOMED RT as older files have it.
_CODES = _by_word(
    "PA: 272479007 R-40888 R-10214; AP: 399348003 R-10206; FRONTAL: 399033003 R-10202;"
    "LL: 399173006 R-10236; RL: 399198007 R-10232;"
    "LATERAL: 399067008 R-102CD 30730003 G-A145 R-10222 399260004 R-10224 399352003 R-10228;"
    "RPO: 399038007 R-10210; LPO: 399006002 R-10212; RAO: 399356000 R-40985 R-10218;"
    "LAO: 399135007 R-10220; AXIAL: 399061009 R-10241 399162004 R-10242 399196006 R-10244;"
    "OBLIQUE: 399182000 R-102C1 399312000 R-10208 399059000 R-10216 399160007 R-10204"
    " 399132005 R-10252 260427002 R-40783 260426006 R-40782 399099002 R-10230 399368009 R-10226"
    " 399184004 R-10238 399236003 R-10234 399004004 R-10246 399325008 R-10254"
)
# Words of View Position in English, German, French, Italian and Spanish.
_WORDS = _by_word(
    "PA: PA POSTEROANTERIOR POSTEROANTERIEUR POSTEROANTERIORE DV DORSOVENTRAL;"
    "AP: AP ANTEROPOSTERIOR ANTEROPOSTERIEUR ANTEROPOSTERIORE VD VENTRODORSAL;"
    "FRONTAL: FRONTAL FRONTALE FRONTALER FACE FRONT;"
    "LL: LL LLAT; RL: RL RLAT;"
    "LATERAL: LAT LATL LATR LATEROLATERAL LATEROLATERALE LATEROLAT LTL PROFIL PROFILE PROFILO"
    " PERFIL PROFIEL SEITLICH SEITL SEITE SEITENAUFNAHME SIDE SAGITTAL SAG;"
    "DECUBITUS: DECUBITUS DECUB DECUBITO; AXIAL: AX;"
    "LORDOTIC: LORDOTIC LORDOTIQUE LORDOTICA LORDOTISCH LORD APICAL;"
    "OBLIQUE: OBLIQUE OBL OBLIQUA OBLIQUO OBLICUA SCHRAG SCHRAEG"
)
_ALONE = {"L": "LL", "R": "RL", "LEFT": "LL", "RIGHT": "RL", "P": OTHER, "A": OTHER}


class StatedView(NamedTuple):
    """What a header says about the view."""

    code: Optional[str]  # one of VIEWS, `OTHER` for a text that is not known, None without any
    is_contradicted: bool  # whether attributes name different views


def stated_view(dataset: Any) -> StatedView:
    """The view by View Position, else View Code Sequence, else Patient Orientation."""
    stated = [_by_position(dataset), _by_code(dataset), _by_orientation(dataset)]
    found = [view for view in stated if view not in (None, OTHER)]
    exact = [view for view in found if view in VIEWS]
    is_frontal = {view in _FRONTAL_VIEWS for view in found}
    contradicted = len(is_frontal) > 1 or {"AP", "PA"} <= set(found)
    if found and found[0] == FRONTAL:  # a less reliable attribute that contradicts it is ignored
        exact = [view for view in exact if view in _FRONTAL_VIEWS]
    if exact:
        return StatedView(exact[0], contradicted)
    return StatedView(OTHER if OTHER in stated else None, contradicted)


def _by_position(dataset: Any) -> Optional[str]:
    texts = [str(value) for value in all_values(dataset, "ViewPosition") if value is not None]
    views = {_by_text(text) for text in texts if text.strip()}
    if not views:
        return None
    return views.pop() if len(views) == 1 else OTHER


def _by_text(text: str) -> str:
    """The view that a text names; OTHER when it names none or several."""
    text = plain_letters(text).upper().replace(".", "")
    joined = re.sub(r"[^A-Z]", "", text)
    if joined in VIEWS or joined in _WORDS:
        return _WORDS.get(joined, joined)
    if joined.startswith("LATERAL") and not re.search(r"\W", text.strip()):
        return "LATERAL"  # LATERALE, LATERALIS, LATERALIZQUIERDA
    words: List[str] = re.findall(
        r"[A-Z]+", re.sub(r"(POSTERO|ANTERO|LATERO|DORSO|VENTRO)[^A-Z]+", r"\1", text)
    )
    if len(words) == 1:
        return _ALONE.get(words[0], OTHER)
    words = ["LATERAL" if word.startswith("LATERAL") else word for word in words]
    views = {_WORDS.get(word, word) for word in words if word in _WORDS or word in VIEWS}
    special = [view for view in views if view in _SPECIAL_VIEWS]
    if len(special) == 1:  # `AP lordotic`, `left lateral decubitus`
        return special[0]
    if views & {"AP", "PA"}:
        views.discard(FRONTAL)  # `frontal PA`
    elif len(views) > 1:
        views.discard("LATERAL")  # `LL lateral`
    return views.pop() if len(views) == 1 else OTHER


def _by_code(dataset: Any) -> Optional[str]:
    values = [
        first_text(item, "CodeValue") or first_text(item, "LongCodeValue")
        for item in sequence_items(dataset, "ViewCodeSequence") or ()
    ]
    views = {_CODES[value] for value in values if value in _CODES}
    if not views:
        return None
    return views.pop() if len(views) == 1 else OTHER


def _by_orientation(dataset: Any) -> Optional[str]:
    """The view by the directions in Patient Orientation: F/H and L/R in a frontal view."""
    values = [str(value).strip().upper() for value in all_values(dataset, "PatientOrientation")]
    if len(values) == 2 and values[0] in ("A", "P") and not values[1]:
        return "LATERAL"
    if len(values) != 2 or not all(re.match(r"^[APRLHF]{1,3}$", value) for value in values):
        return None
    axes = {{"H": "F", "R": "L", "P": "A"}.get(value[0], value[0]) for value in values}
    return {"FL": FRONTAL, "AF": "LATERAL", "AL": "AXIAL"}.get("".join(sorted(axes)))
