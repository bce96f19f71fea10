"""`pneumonia train`: dataset folder and recipe to run folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.options import PATH, collected
from pneumonia.cli.terminal import log_to_stderr, progress_bar, show_next, show_table
from pneumonia.cli.training.run_options import recipes_of, run_options

if TYPE_CHECKING:
    from pneumonia.api.runs import RunOptions


@click.command("train", cls=recipes_of("train"))
@click.option("--data", required=True, type=PATH, help="Dataset folder.")
@click.option("--recipe", required=True, help="Name of a shipped recipe, or a YAML file.")
@click.option("--out", required=True, type=PATH, help="Run folder to write.")
@run_options
@collected("pneumonia.api.runs:RunOptions")
def command(data: Path, recipe: str, out: Path, options: "RunOptions") -> None:
    """Train a detector on a dataset folder.

    Ctrl-C ends the run; the same command with --resume continues after the last finished epoch,
    also with a larger `epochs`. `--set model.start_from=PATH` starts from a run, a bundle or
    Darknet weights.
    """
    from pneumonia.api.runs import train
    from pneumonia.runs.folder import RunFolder
    from pneumonia.training.distributed import started_as_first
    from pneumonia.training.journal import read_metrics

    first = started_as_first()
    log_to_stderr(quiet=not first)
    with progress_bar("train") as progress:
        result = train(data, recipe, out, options, progress if first else None)
    if not first:
        return
    rows = [
        row
        for row in read_metrics(RunFolder(out).metrics_table)
        if row["epoch"] == result.best_epoch
    ]
    show_table(
        f"best epoch {result.best_epoch} of {result.epochs}, validation",
        ("metric", "value"),
        [
            (name.removeprefix("val_"), f"{value:.4f}")
            for name, value in (rows[0] if rows else {}).items()
            if name.startswith("val_") and name not in ("val_s", "val_selection_metric")
        ],
    )
    click.echo(f"run: {out}")
    show_next("pneumonia export {} --out {}-bundle", out, out)
