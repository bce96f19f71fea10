"""`pneumonia train`: dataset folder and recipe to run folder."""

from pathlib import Path

import click

from pneumonia.cli.terminal import log_to_stderr, progress_bar, show_next, show_table


@click.command("train")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Dataset folder.")
@click.option("--recipe", required=True, help="Name of a shipped recipe, or a YAML file.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run folder to write.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the recipe."
)
@click.option(
    "--resume", is_flag=True, help="Go on after the last finished epoch; `epochs` may have grown."
)
def command(data: Path, recipe: str, out: Path, overrides: tuple[str, ...], resume: bool) -> None:
    """Train a detector on a dataset folder.

    Ctrl-C ends the run; the same command with --resume goes on after the last finished epoch.
    """
    from pneumonia.api.runs import RunOptions, train
    from pneumonia.runs.folder import RunFolder
    from pneumonia.training.distributed import started_as_first
    from pneumonia.training.journal import read_metrics

    first = started_as_first()
    log_to_stderr(quiet=not first)
    with progress_bar("train") as progress:
        options = RunOptions(overrides, resume, progress if first else None)
        result = train(data, recipe, out, options)
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
    show_next(f"pneumonia export {out} --out {out}-bundle")
