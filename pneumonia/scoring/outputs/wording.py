"""Text for reason and warning codes, each with what the user can do: those of wording.yaml."""

from pathlib import Path

import yaml

_OTHER = "The reason is named in manifest.jsonl."
_TEXTS: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("wording.yaml").read_text(encoding="utf-8")
)
REASONS, WARNINGS = _TEXTS["reasons"], _TEXTS["warnings"]


def reason_text(code: str) -> str:
    """A reason as a sentence; an unknown code unchanged."""
    return REASONS.get(code) or f"{code.replace('_', ' ').capitalize()}. {_OTHER}"


def warning_text(code: str) -> str:
    """A warning as a sentence; an unknown code unchanged."""
    return WARNINGS.get(code, code.replace("_", " "))
