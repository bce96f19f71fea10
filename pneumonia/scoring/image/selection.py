"""Which images the model may judge: frontal chest radiographs, by rules a user can change."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.image.dicom_header import BODY_PARTS, MODALITIES
from pneumonia.runtime.image.selection import (
    CODES,
    SelectionDecision,
    is_another_examination,
    select,
)
from pneumonia.runtime.image.views import VIEWS

DEFAULT_FILE = Path(__file__).with_name("selection_rules.yaml")
MAX_RULES_BYTES = 1 << 20
Choice = Literal["score", "skip"]
_KNOWN = {"modality": MODALITIES, "view": VIEWS, "body_part": BODY_PARTS}


class WhenAbsent(BaseModel):
    """What to do where the header has no code or an unknown one."""

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
        # codes unknown to the header reader arrive as OTHER: such a rule would never match
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


def refusal(
    status: str, reason: str, info: dict[str, Any], has_unscored_type: bool, rules: SelectionRules
) -> tuple[str, str]:
    """Status and reason of a file that gave no pixels.

    Args:
        status: Status that the reader gave it.
        reason: Reason that the reader gave.
        info: Codes of its header as far as it could be read (`dicom_header.read_codes`).
        is_other: The file is named like something for which no score is expected.
    """
    if reason == "own_result" or info.get("own_result"):
        return "skipped", "own_result"
    if reason == "not_an_image":
        return status, reason
    if is_another_examination(info, rules):
        return "skipped", "not_frontal_chest"
    if reason == "not_dicom" and has_unscored_type:
        return "skipped", "other_file"
    return status, reason


def select_image(
    info: dict[str, Any], warnings: tuple[str, ...], rules: SelectionRules
) -> SelectionDecision:
    """Decide by the header's codes; an image they leave undecided is scored, with a warning.

    Args:
        info: Facts of runtime.image.radiograph, and `word_against`.
        warnings: Warning codes of runtime.image.radiograph.
    """
    skip_absent = [code for code in CODES if getattr(rules.when_absent, code) == "skip"]
    return select(info, warnings, rules, skip_absent)
