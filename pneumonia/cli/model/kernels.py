"""`pneumonia kernels`: a bundle's network as generated C."""

from pathlib import Path

import click

from deploy_jetson.kernels.targets import TARGET_HELP, find_target, runs_here
from pneumonia.cli.options import PATH
from pneumonia.cli.terminal import progress_bar, show_next, show_table


@click.command()
@click.argument("bundle", metavar="BUNDLE", type=PATH)
@click.option("--target", default="native", show_default=True, help=TARGET_HELP + ".")
@click.option(
    "--tune/--no-tune",
    default=None,
    help="Measure the kernels of every layer; on by default where the target runs here.",
)
@click.option(
    "--weights",
    default="fp32",
    show_default=True,
    help="How the library stores weights: fp32, fp16 or int8. Arithmetic follows the bundle.",
)
def command(bundle: Path, target: str, tune: bool | None, weights: str) -> None:
    """Generate and compile the sparse engine; adds libmodel-TARGET.so, its C and a report."""
    from pneumonia.api.runs import compile_kernels

    with progress_bar("tune") as progress:
        result = compile_kernels(bundle, target, tune, weights, progress)
    document = result.document
    show_table(
        f"{result.library.name}, model {document['model_hash'][:12]}",
        ("layer", "kernel", "kept weights", "of", "predicted cycles"),
        [
            (layer["name"], layer["kernel"], f"{layer['kept_weights']:,}",
             f"{layer['weights']:,}", f"{layer['predicted_cycles']:,}")
            for layer in document["layers"]
        ],
    )  # fmt: skip
    click.echo(
        f"library {document['library_bytes']:,} bytes, weights {document['weights_bytes']:,}"
        f" as {document['weights_storage']}, activations {document['arena_bytes']:,},"
        f" {result.seconds:.1f} s"
    )
    for rows in document.get("predictions", {}).values():
        for row in rows if isinstance(rows, list) else []:  # the basis is a text
            mode = f" mode {row['mode']} ({row['name']}," if "mode" in row else " ("
            click.echo(
                f"predicted, not measured: {row['board']}{mode} {row['threads']} of"
                f" {row['cores']} {row['core']} cores at {row['clock_ghz']} GHz)"
                f" {row['predicted_ms']} ms"
            )
    loops = document.get("hot_loops", [])
    if loops:
        rates = [loop["per_cycle"] for loop in loops if loop["per_cycle"] is not None]
        rate = f", worst {min(rates):.2f} FMLA/cycle (llvm-mca)" if rates else ""
        spills = sum(loop["spills"] for loop in loops)
        click.echo(f"hot loops: {len(loops)}, register spills {spills}{rate}")
    click.echo(f"sources {result.sources}, report {result.report}")
    command_there = "pneumonia score INPUT OUTPUT --bundle {}"
    if runs_here(find_target(target)):
        show_next(command_there, bundle)
    else:
        show_next("copy {} to such a machine; there: " + command_there, bundle, bundle.name)
