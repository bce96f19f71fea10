"""`pneumonia finetune`: train a pruned run on, without losing what pruning gained."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.options import PATH, collected
from pneumonia.cli.terminal import log_to_stderr, progress_bar, show_next, show_table
from pneumonia.cli.training.run_options import accept_seen, recipes_of, run_options
from pneumonia.runtime.detection.detector import DEFAULT

if TYPE_CHECKING:
    from pneumonia.api.runs import RunOptions


@click.command("finetune", cls=recipes_of("finetune"))
@click.argument("run", type=PATH, default=DEFAULT)
@click.option("--data", type=PATH, help="Dataset folder; default: the run's own.")
@click.option("--out", required=True, type=PATH, help="Run folder to write.")
@click.option("--recipe", default="finetune", show_default=True,
              help="Name of a shipped recipe, or a YAML file.")  # fmt: skip
@accept_seen
@run_options
@collected("pneumonia.api.runs:RunOptions")
def command(run: Path, data: Path | None, out: Path, recipe: str, options: "RunOptions") -> None:
    """Train a RUN or an exported bundle on, usually on other images.

    Without RUN, the shipped model. Filters, columns and weights that pruning removed stay removed.
    A quantized run is refused: fine-tune the run before it, then quantize again.
    """
    from pneumonia.api.runs import finetune
    from pneumonia.training.distributed import started_as_first

    first = started_as_first()
    log_to_stderr(quiet=not first)
    with progress_bar("finetune") as progress:
        result = finetune(run, out, data, recipe, options, progress if first else None)
    if not first:
        return
    show_table(
        f"validation; {result.after.totals.kept_weights:,} weights as before",
        ("", "before", "after"),
        [
            (name, f"{value:.4f}", f"{result.metrics_after.get(name, float('nan')):.4f}")
            for name, value in result.metrics_before.items()
            if name != "selection_metric"
        ],
    )
    click.echo(f"run: {out}")
    show_next("pneumonia export {} --out {}-bundle", out, out)
