"""Parameters of a command become one options object, of any of the three kinds of class."""

import os
import shlex
import signal
import time
from dataclasses import FrozenInstanceError, dataclass
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ConfigDict

from pneumonia.cli import VERBS, group, run
from pneumonia.cli.options import Number, collected, split_list
from pneumonia.cli.terminal import shell_command
from pneumonia.cli.training.run_options import recipes_of


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


def all_commands(command=group, name=""):
    """(name, command) of every verb and its sub-verbs."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for verb in command.list_commands(context):
        yield from all_commands(command.get_command(context, verb), f"{name} {verb}".strip())


def test_no_option_takes_a_number_that_is_not_finite():
    commands = dict(all_commands())
    assert {*VERBS} & {*commands}
    loose = [
        f"{name} {parameter.name}"
        for name, command in commands.items()
        for parameter in command.params
        if isinstance(parameter.type, click.types.FloatParamType)
        and not isinstance(parameter.type, Number)
    ]
    assert loose == []
    for text in ("nan", "inf", "-inf", "1e999"):
        for number in (Number(), Number(0, 1), Number(0, 1, min_open=True)):
            with pytest.raises(click.BadParameter):
                number.convert(text, None, None)
    assert Number(0, 1).convert("0.5", None, None) == 0.5


def test_no_help_shows_a_missing_limit():
    for name, command in all_commands():
        assert "None" not in command.get_help(click.Context(command, info_name=name)), name


def test_a_proposed_command_can_be_pasted_into_a_shell():
    path = "runs/a b's $HOME {0} ü;x"
    command = shell_command("pneumonia export {} --out {}-bundle", path, path)
    assert shlex.split(command) == ["pneumonia", "export", path, "--out", f"{path}-bundle"]
    assert shell_command("pneumonia inspect {}", "runs/dense") == "pneumonia inspect runs/dense"


def test_sigterm_ends_a_run_as_ctrl_c_does(capsys):
    before = signal.getsignal(signal.SIGTERM)

    @click.command(cls=recipes_of("train"))
    def command():
        """Help."""
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    assert run(command, []) == 130
    assert capsys.readouterr().err.strip() == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before
