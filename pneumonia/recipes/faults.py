"""What is wrong with a recipe, in one line: the key, what it takes, the nearest key that exists."""

import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pneumonia.runtime.errors import ConfigError

NEEDS_QUOTES = re.compile(r"""(?<!["'\w])([*&!%@`][^,\]}\s:]*)""")
# pydantic's types of error -> what was expected; {} are the error's own values
EXPECTED = {
    "missing": "a value",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
}
# prefixes of further types
KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text",
    "tuple": "a list in brackets", "list": "a list in brackets",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values", "none": "none", "finite": "a finite number",
    "union_tag": "a mapping with the key kind",
}  # fmt: skip


def fault_of(
    error: ValidationError, model: type[BaseModel], where: str, overrides: Mapping[str, str]
) -> ConfigError:
    """The first fault that a recipe's class found, as an error for people.

    Args:
        error: Of the class.
        model: The class.
        where: The recipe's file.
        overrides: Key -> whole option, of the changes that were made to the file.
    """
    details = error.errors()
    first = details[0]
    key = _key(first, model)
    # the branches of a union each report: their expectations belong together
    same = [detail for detail in details if _key(detail, model) == key]
    options = [text for name, text in overrides.items() if not key or _touches(name, key)]
    place = ", ".join(f"change {text}" for text in reversed(options)) or where
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"Recipe has no key {key!r}", nearest(key, model), where=place,
            fix="docs/reference/recipes.md lists the keys",
        )  # fmt: skip
    if first["type"] == "missing":
        return ConfigError("Recipe lacks a key", expected=repr(key), where=where)
    what = f"Recipe key {key!r} does not take this" if key else "Keys of the recipe do not agree"
    texts = list(dict.fromkeys(_expected(detail) for detail in same))
    if first["type"] == "value_error" and not texts[0].startswith("expected "):
        what, texts = f"{what}: {texts[0]}", []
    value = first.get("ctx", {}).get("tag", first.get("input"))
    return ConfigError(
        what,
        expected=" or ".join(text.removeprefix("expected ") for text in texts) or None,
        found=None if isinstance(value, dict) else repr(value)[:80],
        where=place,
    )


def unreadable_value(key: str, text: str) -> ConfigError:
    """The error of a change whose value is not YAML."""
    quoted = NEEDS_QUOTES.sub(r'"\1"', text)
    return ConfigError(
        "Value of a recipe change cannot be read",
        found=repr(text),
        where=f"change {key}={text}",
        fix=f"Quote it: '{key}={quoted}'" if quoted != text else "Write it as YAML",
    )


def nearest(key: str, model: type[BaseModel]) -> str:
    """The key that was probably meant by one that does not exist, or those there are."""
    known = sorted(set(keys_of(model)))
    parent, _, last = key.rpartition(".")
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    ends = {name.rpartition(".")[2]: name for name in siblings}
    close = [ends[end] for end in difflib.get_close_matches(last, list(ends), 1, 0.65)]
    close += [name for end, name in ends.items() if last in end.split("_")]
    close += [name for name in known if name.rpartition(".")[2] == last]
    if not close and not siblings:
        close = difflib.get_close_matches(key, known, 1, 0.7)
    return f"{close[0]!r}, perhaps" if close else "one of " + ", ".join(siblings or known)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key that a recipe of this class may have."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for part in models_in(field.annotation):
            yield from keys_of(part, f"{prefix}{name}.")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The classes of recipe parts in a type: of a field, of an optional one, of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models_in(argument)


def _key(detail: ErrorDetails, model: type[BaseModel]) -> str:
    """The dotted key of a fault, without what pydantic adds for the branches of a union."""
    parts: list[str] = []
    annotation: Any = model
    for place, part in enumerate(detail["loc"]):
        models = list(models_in(annotation))
        fields = {name: field for found in models for name, field in found.model_fields.items()}
        unknown = detail["type"] == "extra_forbidden" and place == len(detail["loc"]) - 1
        if part in fields and not unknown:
            parts.append(str(part))
            annotation = fields[str(part)].annotation
        elif isinstance(part, int) or unknown or typing.get_origin(annotation) is dict:
            parts.append(str(part))
    return ".".join(parts)


def _expected(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in EXPECTED:
        return EXPECTED[kind].format(**context)
    if kind == "value_error":
        return str(context.get("error", detail["msg"]))
    prefixes = [prefix for prefix in KINDS if kind.startswith(prefix)]
    return KINDS[max(prefixes, key=len)] if prefixes else detail["msg"]


def _touches(name: str, key: str) -> bool:
    """Whether a changed key is this one, or holds it, or lies in it."""
    return name == key or name.startswith(key + ".") or key.startswith(name + ".")


def option_texts(overrides: Sequence[str]) -> dict[str, str]:
    """Key -> the whole option, the last of a key first."""
    return {text.partition("=")[0]: text for text in reversed(overrides)}
