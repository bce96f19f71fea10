"""The recipe that a run folder stores: as YAML, and compared with the one of a resumed run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pneumonia.runtime.errors import ArtefactError


def recipe_text(recipe: BaseModel) -> str:
    """A recipe as YAML, all keys included."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def refuse_other_recipe(
    stored: Mapping[str, Any],
    recipe: BaseModel,
    where: Path,
    free: frozenset[str] = frozenset(),
    fix: str | None = None,
) -> None:
    """Refuse to resume a run under a recipe that would have made another one.

    Args:
        stored: The run's recipe as it was stored; keys that did not exist then count as their
            defaults.
        recipe: The recipe now.
        where: Where the stored recipe lies.
        free: Top-level keys that may differ.
        fix: For the message.

    Raises:
        ArtefactError: A key differs; the message names the first one.
    """
    before = _flat(_completed(stored, type(recipe)))
    now = _flat(recipe.model_dump(mode="json"))
    for key in sorted(set(before) | set(now)):
        if key.partition(".")[0] not in free and before.get(key) != now.get(key):
            raise ArtefactError(
                "Recipe differs from the run's",
                expected=f"{key} = {before.get(key)!r}",
                found=repr(now.get(key)),
                where=str(where),
                fix=fix,
            )


def _completed(stored: Mapping[str, Any], model: type[BaseModel]) -> Mapping[str, Any]:
    try:
        return model.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        return stored  # another kind of recipe: the comparison names the key


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
