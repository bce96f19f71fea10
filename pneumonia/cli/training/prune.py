"""`pneumonia prune`: a trained run and a recipe to a smaller run."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.options import PATH, Number, collected
from pneumonia.cli.terminal import log_to_stderr, progress_bar, show_next, show_table
from pneumonia.cli.training.quantize import quantize_by_recipe
from pneumonia.cli.training.run_options import accept_seen, recipes_of, run_options
from pneumonia.runtime.errors import ConfigError

if TYPE_CHECKING:
    from pneumonia.api.runs import RunOptions
    from pneumonia.compression.result import CompressionResult
    from pneumonia.network.accounting import NetworkTotals


@click.command("prune", cls=recipes_of("prune", "quantize"))
@click.argument("run", type=PATH)
@click.option("--recipe", required=True, help="Name of a shipped recipe, or a YAML file.")
@click.option("--out", required=True, type=PATH, help="Run folder to write.")
@click.option("--rate", type=Number(), help="Dense / remaining weights; overrides the recipe's.")
@click.option("--data", type=PATH, help="Dataset folder; default: the run's own.")
@accept_seen
@run_options
@collected("pneumonia.api.runs:RunOptions")
def command(
    run: Path,
    recipe: str,
    out: Path,
    rate: float | None,
    data: Path | None,
    options: "RunOptions",
) -> None:
    """Prune a trained RUN with ADMM, retrain what is left and compact it.

    The recipes of `pneumonia quantize` (quant-8, quant-4, ternary, binary) work here as well.
    Ctrl-C ends the run; the same command with --resume continues after the last finished epoch.
    """
    from pneumonia.api.runs import prune
    from pneumonia.compression.prune.recipe import MAX_RATE, PruneRecipe
    from pneumonia.recipes import load_recipe, recipe_names
    from pneumonia.training.distributed import started_as_first

    if recipe in recipe_names("quantize"):
        if rate is not None:
            raise ConfigError("Quantization does not take a pruning rate", found=f"--rate {rate}")
        quantize_by_recipe(run, recipe, out, data, options)
        return
    if rate is not None and not 1 < rate <= MAX_RATE:
        raise ConfigError(
            "Pruning rate is out of range",
            expected=f"above 1 and at most {MAX_RATE:,.0f}: weights before over weights after",
            found=f"--rate {rate:g}",
            fix="2 keeps half of the weights, 4 a quarter; begin with 2 to 4",
        )
    changes = options.overrides()
    if rate is not None:
        changes.append(f"rate={rate}")
    chosen = load_recipe(recipe, "prune", PruneRecipe, changes)
    first = started_as_first()
    log_to_stderr(quiet=not first)
    with progress_bar("prune") as progress:
        settings = replace(options, changes=(), threads=None)
        shown = progress if first else None
        result = prune(run, chosen, out, data=data, options=settings, progress=shown)
    if first:
        _show(result, chosen.rate, out)


def _show(result: "CompressionResult", target: float, out: Path) -> None:
    """Show dense against pruned figures, the protected layers, and the next command."""
    before, after = result.before.totals, result.after.totals
    rows = [
        _row("parameters", _parameters(before), _parameters(after)),
        _row("weights", before.kept_weights, after.kept_weights),
        _row("MACs", before.kept_macs, after.kept_macs),
        _row("weights file, bytes", result.bytes_before, result.bytes_after),
    ]
    rows += [
        (name, f"{value:.4f}", f"{result.metrics_after.get(name, float('nan')):.4f}", "")
        for name, value in result.metrics_before.items()
        if name != "selection_metric"
    ]
    title = f"pruned {result.rate:.2f}x (asked for {target:g}x)"
    show_table(title, ("", "dense", "pruned", "rate"), rows)
    if result.protected:
        click.echo("filters protected (they are the outputs): " + ", ".join(result.protected))
    click.echo(f"run: {out}")
    show_next("pneumonia export {} --out {}-bundle", out, out)


def _parameters(totals: "NetworkTotals") -> int:
    """Stored weights, biases and batch-norm gains and offsets."""
    return totals.parameters - totals.weights + totals.kept_weights


def _row(name: str, before: int, after: int) -> tuple[str, str, str, str]:
    return name, f"{before:,}", f"{after:,}", f"{before / max(after, 1):.2f}x"
