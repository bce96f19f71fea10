"""Parameters of a command become one options object, of any of the three kinds of class."""

from dataclasses import FrozenInstanceError, dataclass
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ConfigDict

from pneumonia.cli.options import collected, split_list


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    unused: str = "default"


class Outer(NamedTuple):
    inner: Inner
    names: tuple[str, ...] = ()


class Checked(BaseModel):
    model_config = ConfigDict(frozen=True)
    seed: int = 0


def test_fields_are_collected_and_other_parameters_stay():
    seen = {}

    @click.command()
    @click.argument("path")
    @click.option("--rate", type=float)
    @click.option("--names", callback=split_list)
    @click.option("--seed", type=int)
    @collected(f"{__name__}:Inner", "inner")
    @collected(f"{__name__}:Outer")
    @collected(f"{__name__}:Checked", "checked")
    def command(path, options, checked):
        """Help of the command."""
        seen.update(path=path, options=options, checked=checked)

    result = CliRunner().invoke(command, ["p", "--rate", "2", "--names", "a, b,", "--seed", "7"])
    assert result.exit_code == 0, result.output
    assert seen["path"] == "p"
    assert seen["options"] == Outer(Inner(2.0), ("a", "b"))
    assert seen["options"].inner.unused == "default"
    assert seen["checked"].seed == 7
    with pytest.raises(FrozenInstanceError):
        seen["options"].inner.rate = 3.0
    assert "Help of the command." in CliRunner().invoke(command, ["--help"]).output


def test_the_class_is_imported_when_the_command_runs():
    @click.command()
    @collected("a_module_that_is_not_there:Options")
    def command(options):
        """Help."""

    assert CliRunner().invoke(command, ["--help"]).exit_code == 0
    assert isinstance(CliRunner().invoke(command, []).exception, ModuleNotFoundError)
