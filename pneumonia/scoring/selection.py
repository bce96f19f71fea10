"""Which images the model may judge: frontal chest radiographs, by rules a user can change."""

import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pneumonia.runtime.dicom_header import BODY_PARTS, MODALITIES, VIEWS
from pneumonia.runtime.errors import ConfigError

DEFAULT_FILE = Path(__file__).with_name("selection_rules.yaml")
MAX_RULES_BYTES = 1 << 20
Choice = Literal["score", "skip"]
CODES = ("modality", "view", "body_part")
_KNOWN = {"modality": MODALITIES, "view": VIEWS, "body_part": BODY_PARTS}


class WhenAbsent(BaseModel):
    """What to do where the header has no code, or none that is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Choice = "score"
    view: Choice = "score"
    body_part: Choice = "score"


class SelectionRules(BaseModel):
    """The rules of selection_rules.yaml, which explains each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: tuple[str, ...] = Field(min_length=1)
    view: tuple[str, ...] = Field(min_length=1)
    body_part: tuple[str, ...] = Field(min_length=1)
    when_absent: WhenAbsent = WhenAbsent()
    words_against: tuple[str, ...] = ()
    words_wanted: tuple[str, ...] = ()
    children: Choice = "score"
    pictures: Choice = "score"

    @field_validator(*CODES)
    @classmethod
    def _known_codes(cls, values: tuple[str, ...], info: Any) -> tuple[str, ...]:
        # a code the reader does not know reaches the rules as OTHER and would never match
        known = _KNOWN[info.field_name]
        unknown = [value for value in values if value not in known]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(sorted(known))}")
        return values

    @field_validator("words_against", "words_wanted")
    @classmethod
    def _single_words(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not value.isalpha() or value != value.lower():
                raise ValueError(f"{value!r} is not one word of lower-case letters")
        return values

    def allowed(self, code: str) -> tuple[str, ...]:
        """Accepted values of one of CODES."""
        values: tuple[str, ...] = getattr(self, code)
        return values

    def words(self) -> dict[str, tuple[str, ...]]:
        """What the decoding child looks for in descriptions."""
        return {"against": self.words_against, "wanted": self.words_wanted}

    def digest(self) -> str:
        """Hex digest of the rules."""
        return hashlib.sha256(self.model_dump_json().encode("utf-8")).hexdigest()


def load_rules(path: Path | None = None) -> SelectionRules:
    """Read rules from a YAML file, the shipped ones by default.

    Raises:
        ConfigError: The file cannot be read or holds a rule that is not valid.
    """
    where = path or DEFAULT_FILE
    try:
        if where.stat().st_size > MAX_RULES_BYTES:
            raise ConfigError("File of rules is too large", where=str(where))
        document = yaml.safe_load(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("Rules cannot be read", found=error.strerror, where=str(where)) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError("Rules are not YAML", where=f"{where}{line}") from None
    try:
        return SelectionRules.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(
            "Rule is not valid",
            found=first["msg"],
            where=f"{where}, {key}",
            fix="`pneumonia score --show-rules` shows the rules that ship",
        ) from None


def rules_text() -> str:
    """The shipped rules as YAML with their explanations."""
    return DEFAULT_FILE.read_text(encoding="utf-8")


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


def _is_absent(code: str, value: str | None) -> bool:
    return value is None or (value == "OTHER" and code != "modality")


def is_another_examination(info: dict[str, Any], rules: SelectionRules) -> bool:
    """Whether the codes say that this is no frontal chest radiograph; absent codes say nothing."""
    for code in CODES:
        value = info.get(code)
        if not _is_absent(code, value) and value not in rules.allowed(code):
            return True
    # the view's own code counts more than a description
    return bool(info.get("word_against")) and _is_absent("view", info.get("view"))


def select_image(
    info: dict[str, Any], warnings: tuple[str, ...], rules: SelectionRules
) -> Selection:
    """Decide by the header's codes; what a header leaves open is scored, with a word.

    Args:
        info: Facts of runtime.radiograph, and `word_against`.
        warnings: Words of runtime.radiograph.
        rules: What is accepted.
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
        if info[code] in (None, "OTHER"):
            if getattr(rules.when_absent, code) == "skip":
                return Selection("skipped", code + "_unknown", warnings)
            words.append(code + "_unknown")
    if info["is_child"]:
        if rules.children == "skip":
            return Selection("skipped", "child", warnings)
        words.append("outside_indication")
    return Selection("", "", tuple(words))
