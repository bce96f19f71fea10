"""The `pneumonia` command: one file per verb, nothing heavy imported before a verb runs."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from pneumonia import __version__
from pneumonia.runtime.errors import DISCLAIMER, PneumoniaError

INTERRUPTED = 130  # 128 + SIGINT, as in shells

# verb -> (module below this package, text of `--help`); its `command` is the click command
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("demo.demo", "Run the whole pipeline on phantoms, in minutes."),
    "data": ("datasets.data", "Import, make, fetch and audit datasets."),
    "annotate": ("datasets.annotate", "Draw boxes and name findings in a browser."),
    "train": ("training.train", "Train a detector on a dataset folder."),
    "prune": ("training.prune", "Prune a trained run with ADMM, retrain and compact it."),
    "finetune": ("training.finetune", "Train a pruned run on, usually on other images."),
    "quantize": ("training.quantize", "Quantize a run progressively, down to binary."),
    "export": ("model.export", "Write a run as a model bundle (spec, weights, ONNX)."),
    "kernels": ("model.kernels", "Generate and compile the network as C for a target."),
    "profile": ("device.profile", "Measure energy and latency per image, or predict them."),
    "score": ("scoring.score", "Score radiographs: predictions, worklist, overlays."),
    "daemon": ("device.daemon", "Score radiographs as they arrive, as a service."),
    "device-package": ("device.device_package", "Pack everything a Jetson needs."),
    "evaluate": ("evaluation.evaluate", "Measure predictions against labels."),
    "compare": ("evaluation.compare", "Compare prediction files on the same labels."),
    "inspect": ("model.inspect", "Show layers, parameters, MACs, sparsity, storage."),
}


class LazyGroup(click.Group):
    """A click group that imports a verb's module only when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs, in the order in which a project uses them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one verb."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"{__name__}.{VERBS[cmd_name][0]}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pneumonia")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def group(debug: bool) -> None:
    """Train, prune, export and score a pneumonia detector for embedded devices."""
    if debug:
        os.environ["PNEUMONIA_DEBUG"] = "1"


group.epilog = DISCLAIMER


def run(command: click.Command, arguments: Sequence[str] | None = None, **extra: Any) -> int:
    """Run a command and turn every outcome into an exit code and at most one line of error."""
    try:
        result = command.main(
            args=None if arguments is None else list(arguments), standalone_mode=False, **extra
        )
        return result if isinstance(result, int) else 0
    except PneumoniaError as error:
        if os.environ.get("PNEUMONIA_DEBUG"):
            raise
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        return 141
    except Exception as error:
        if os.environ.get("PNEUMONIA_DEBUG"):
            raise
        # The text of a foreign exception may quote a file's contents: only its type is shown.
        click.echo(
            f"error: internal error ({type(error).__name__}); "
            "run `pneumonia --debug ...` for the traceback and report it",
            err=True,
        )
        return 70


def main() -> None:
    """Entry point of `pneumonia`."""
    _end_process(run(group, prog_name="pneumonia"))


def main_score() -> None:
    """Entry point of `pneumonia-score`, the same as `pneumonia score`."""
    command = importlib.import_module(f"{__name__}.{VERBS['score'][0]}").command
    _end_process(run(command, prog_name="pneumonia-score"))


def _end_process(code: int) -> None:
    """End the process; one more Ctrl-C while Python shuts down ends it at once and silently."""
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)
