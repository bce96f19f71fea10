"""Options that `train`, `prune` and `quantize` share, and help that names the recipes."""

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pneumonia.recipes import HERE, recipe_names

Command = TypeVar("Command", bound=Callable[..., Any])

REFERENCE = "docs/reference/recipes.md"


def _interrupt(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise KeyboardInterrupt


class RecipeCommand(click.Command):
    """A command that makes a run; its help ends with the recipes that ship, by kind."""

    kinds: tuple[str, ...] = ()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; SIGTERM ends it as Ctrl-C does, with the run's status recorded."""
        if threading.current_thread() is not threading.main_thread():
            return super().invoke(ctx)  # signals belong to the main thread
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            return super().invoke(ctx)
        finally:
            signal.signal(signal.SIGTERM, before)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the recipes; read only when help is shown."""
        with formatter.section("Recipes"):
            formatter.write_dl([(kind, ", ".join(recipe_names(kind))) for kind in self.kinds])
        with formatter.indentation():
            folders = ", ".join(str(HERE / kind) for kind in self.kinds)
            formatter.write_text(f"Files with comments: {folders}. All keys: {REFERENCE}.")


def recipes_of(*kinds: str) -> type[RecipeCommand]:
    """The class of a command that takes recipes of these kinds."""
    return type("RecipeCommand", (RecipeCommand,), {"kinds": kinds})


def run_options(command: Command) -> Command:
    """Add --set, --resume and --threads: fields of `RunOptions`."""
    for option in (
        click.option(
            "--threads", type=click.IntRange(1, 256),
            help="Threads on the CPU; default one per core. Beside other work 1 may be faster."
        ),
        click.option("--resume", is_flag=True, help="Continue after the last finished epoch."),
        click.option(
            "--set", "changes", multiple=True, metavar="KEY=VALUE",
            help="Change one key of the recipe; quote values with [ ] or *:"
            " --set 'rates.limits={\"conv_0*\": 2}'."
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def accept_seen(command: Command) -> Command:
    """Add --accept-seen."""
    return click.option(
        "--accept-seen", is_flag=True,
        help="Accept --data whose validation images RUN was trained on.",
    )(command)  # fmt: skip
