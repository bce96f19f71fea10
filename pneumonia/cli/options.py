"""Types of options, and the parameters of a click command as one options object."""

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number in a range; click's own ranges accept `nan`, and without limits `inf`."""

    @property
    def _is_limited(self) -> bool:
        return self.min is not None or self.max is not None

    def _describe_range(self) -> str:
        # click calls this for the help text, and would show a missing limit as None
        return super()._describe_range() if self._is_limited else ""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; click shows the failure as one line and exit code 2."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
PRESENT = click.Path(path_type=Path, exists=True)
PRESENT_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
PRESENT_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


def collected(source: str, name: str = "options") -> Callable[[Any], Any]:
    """Decorator: pass the parameters that are fields of a class as one instance of it.

    Stands below the `click.option` decorators. Parameters that are not fields reach the command as
    they are. A field without a parameter keeps its default. Stacked decorators run from the top, so
    a lower one takes objects that a higher one made.

    Args:
        source: `module:Class` of a frozen dataclass, a NamedTuple or a pydantic model; imported
            when the command runs, so that `--help` stays quick.
        name: Argument of the command that gets the instance.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def collect(**parameters: Any) -> Any:
            module, _, class_name = source.partition(":")
            options_class = getattr(importlib.import_module(module), class_name)
            known = field_names(options_class) & {*parameters}
            chosen = {field: parameters.pop(field) for field in known}
            return command(**parameters, **{name: options_class(**chosen)})

        return collect

    return decorate


def field_names(options_class: Any) -> set[str]:
    """Names of the fields of a dataclass, a NamedTuple or a pydantic model."""
    if dataclasses.is_dataclass(options_class):
        return {field.name for field in dataclasses.fields(options_class)}
    fields: Mapping[str, Any] | tuple[str, ...] = (
        getattr(options_class, "_fields", None) or options_class.model_fields
    )
    return {*fields}


def split_list(context: object, parameter: object, value: str | None) -> tuple[str, ...]:
    """Callback of an option such as `a,b`: its parts without spaces; () when it was not given."""
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())
