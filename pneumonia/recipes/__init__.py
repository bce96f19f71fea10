"""Recipes: one YAML file is one whole run. Named ones lie beside this file, by kind."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pneumonia.recipes.faults import fault_of, option_texts, unreadable_value
from pneumonia.runtime.errors import ConfigError

HERE = Path(__file__).parent  # one folder a kind
MAX_RECIPE_BYTES = 1_000_000

log = logging.getLogger(__name__)


class RecipePart(BaseModel):
    """Base of what a recipe holds: refuses unknown keys and numbers that are not finite.

    `former_keys`, former -> present name (`a.b` for a key of a part), are still read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    former_keys: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _present_keys(cls, values: Any) -> Any:
        return renamed(values, cls) if isinstance(values, dict) else values


Model = TypeVar("Model", bound=RecipePart)


def recipe_names(kind: str) -> list[str]:
    """Names of the recipes that ship for a kind (`train`, `prune`)."""
    return sorted(path.stem for path in (HERE / kind).glob("*.yaml"))


def recipe_path(name_or_file: str, kind: str) -> Path:
    """The file of a named recipe, or the file itself.

    Raises:
        ConfigError: Neither a shipped name nor a file.
    """
    shipped = HERE / kind / f"{name_or_file}.yaml"
    if name_or_file in recipe_names(kind):
        return shipped
    path = Path(name_or_file)
    if path.is_file():
        return path
    raise ConfigError(
        "No such recipe",
        expected="a file or one of " + ", ".join(recipe_names(kind)),
        found=repr(name_or_file),
    )


def load_recipe(
    name_or_file: str, kind: str, model: type[Model], overrides: Sequence[str] = ()
) -> Model:
    """Read a recipe, apply `a.b=value` overrides (values are YAML) and validate it.

    Raises:
        ConfigError: Not readable, not YAML, or a key or value the model refuses.
    """
    path = recipe_path(name_or_file, kind)
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise ConfigError("Recipe is too large", expected="< 1 MB", where=str(path))
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            "Recipe cannot be read as YAML", found=str(error), where=str(path)
        ) from None
    if not isinstance(values, dict):
        raise ConfigError("Recipe is not a mapping", found=type(values).__name__, where=str(path))
    # before the overrides, which may name the same keys as they are now
    values = renamed(values, model, str(path))
    keys = [override.partition("=")[0] for override in overrides]
    _warn_of_former([key for key in keys if key in model.former_keys], model)
    overrides = [
        model.former_keys.get(key, key) + override.removeprefix(key)
        for key, override in zip(keys, overrides, strict=True)
    ]
    for override in overrides:
        _apply(values, override)
    return validate(values, model, str(path), option_texts(overrides))


def renamed(
    values: Mapping[str, Any], model: type[RecipePart], where: str | None = None
) -> dict[str, Any]:
    """Values of a recipe with present instead of former keys; one warning names them.

    Args:
        values: Of the recipe, by their keys.
        model: The recipe's class.
        where: Its file, for the message.

    Raises:
        ConfigError: A former key beside the present one, or beside the part that has it now.
    """
    former = [key for key in model.former_keys if key in values]
    changed = {key: value for key, value in values.items() if key not in former}
    for key in former:
        present = model.former_keys[key]
        part, _, name = present.rpartition(".")
        if (part or name) in values:
            raise ConfigError(
                "Recipe has a key under its former name beside the present one",
                expected=f"{present!r} alone",
                found=repr(key),
                where=where,
            )
        (changed.setdefault(part, {}) if part else changed)[name] = values[key]
    _warn_of_former(former, model)
    return changed


def _warn_of_former(keys: Iterable[str], model: type[RecipePart]) -> None:
    if names := ", ".join(f"{key} is now {model.former_keys[key]}" for key in keys):
        log.warning("Recipe keys have new names: %s", names)


def validate(
    values: dict[str, Any],
    model: type[Model],
    where: str,
    overrides: Mapping[str, str] | None = None,
) -> Model:
    """Check values against a recipe model; the first fault becomes a one-line ConfigError.

    Args:
        values: Of the recipe, changes included.
        model: The recipe's class.
        where: Its file, for the message.
        overrides: Key -> option of the changes: a fault of theirs is said to be in the option.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise fault_of(error, model, where, overrides or {}) from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError("Recipe change is malformed", expected="key=value", found=repr(override))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise unreadable_value(key, text) from None
    node = values
    *parents, last = key.split(".")
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(
                "Key of a recipe change goes through a value",
                expected="a mapping",
                found=repr(parent),
                where=key,
            )
        node = child
    node[last] = value
