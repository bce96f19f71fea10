"""`pneumonia inspect`: layers, shapes, parameters, MACs, sparsity, storage."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.options import PATH, PRESENT, Number
from pneumonia.cli.terminal import show_next, show_table
from pneumonia.runs.names import CHECKPOINTS
from pneumonia.runtime.errors import ConfigError

if TYPE_CHECKING:
    from pneumonia.network.accounting import LayerAccount
    from pneumonia.network.inspection import Inspection, PruningRates


@click.command()
@click.argument("model", metavar="RUN|BUNDLE", type=PATH)
@click.option(
    "--checkpoint",
    type=click.Choice(CHECKPOINTS),
    help="Checkpoint of a run; the best one if there is one, else the last.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
@click.option(
    "--report",
    type=PATH,
    help="Folder for a page: rates, residuals, weights and levels, crossbars, SOT-MRAM.",
)
@click.option(
    "--against",
    type=PRESENT,
    help="With --report: the run or bundle to compare with; default: the run it came from.",
)
@click.option(
    "--chips",
    type=click.IntRange(0, 10_000),
    default=0,
    help="With --report: validate a quantized run on this many simulated chips (20 or more).",
)
@click.option(
    "--chip-sigma",
    type=Number(0, 10),
    default=0.1,
    show_default=True,
    help="Deviation of a programmed level, in steps between levels.",
)
def command(
    model: Path,
    checkpoint: str | None,
    as_json: bool,
    report: Path | None,
    against: Path | None,
    chips: int,
    chip_sigma: float,
) -> None:
    """Show layers, shapes, parameters, MACs, sparsity and storage of a run or a bundle."""
    import json

    from pneumonia.network.inspection import inspect_folder

    if report is not None:
        from pneumonia.cli.model.inspect_report import write_report

        page = write_report(model, against, report, chips, chip_sigma)
        click.echo(f"report: {page}")
        show_next("open {}", page)
        return
    if against is not None or chips:
        raise ConfigError("Options --against and --chips belong to --report", fix="Give --report")
    found = inspect_folder(model, checkpoint)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2, allow_nan=False))
        return
    _show(found)
    if found.kind == "bundle":
        show_next("pneumonia score INPUT OUTPUT --bundle {}", model)
    else:
        show_next("pneumonia export {} --out BUNDLE", model)


def _show(found: "Inspection") -> None:
    from pneumonia.network.inspection import kept_share, storage_of

    spec, totals = found.spec, found.account.totals
    size = spec.input
    show_table(
        f"{spec.name}, input {size.channels} x {size.height} x {size.width}, {found.folder}",
        ("layer", "op", "output", "parameters", "kept %", "MMAC", "kept MMAC", "storage", "KiB"),
        [_cells(row, storage_of(spec, row)) for row in found.account.layers],
    )
    click.echo()
    rows: list[tuple[str, str, str]] = [
        ("parameters", f"{totals.parameters:,}", ""),
        ("weights", f"{totals.weights:,}", ""),
        ("kept weights", f"{totals.kept_weights:,}", f"{totals.rate:.2f}x fewer"),
        *_uncompressed_weights_row(found),
        ("MACs", f"{totals.macs:,}", ""),
        ("kept MACs", f"{totals.kept_macs:,}", f"{totals.mac_rate:.2f}x fewer"),
        ("storage of numbers, bytes", f"{totals.storage_bits // 8:,}", ""),
        ("least index storage, bytes", f"{-(-totals.index_bits // 8):,}", ""),
    ]
    rows += [(f"{name}, bytes", f"{n_bytes:,}", "") for name, n_bytes in found.files.items()]
    title = f"totals ({100 * kept_share(totals):.1f} % of the weights of these layers stored)"
    show_table(title, ("", "count", ""), rows)
    if found.pruned is not None:
        _show_rates(found.pruned)


def _show_rates(pruned: "PruningRates") -> None:
    """Rates against the network before pruning, whose layers were larger."""
    click.echo()
    nominal = pruned.nominal_mac_rate
    show_table(
        "against the network before pruning",
        ("", "before", "nominal rate (masks)", "realised rate (stored)"),
        [
            (
                "weights",
                f"{pruned.weights:,}",
                f"{pruned.nominal_rate:.2f}x",
                f"{pruned.realised_rate:.2f}x",
            ),
            (
                "MACs",
                f"{pruned.macs:,}",
                "not recorded" if nominal is None else f"{nominal:.2f}x",
                f"{pruned.mac_rate:.2f}x",
            ),
        ],
    )


def _uncompressed_weights_row(found: "Inspection") -> list[tuple[str, str, str]]:
    """Table row with the number of weights before a series of compressions; else empty."""
    if found.trained_weights is None or found.whole_rate is None:
        return []
    return [
        (
            "weights before compression",
            f"{found.trained_weights:,}",
            f"{found.whole_rate:.1f}x those kept",
        )
    ]


def _cells(row: "LayerAccount", storage: str) -> tuple[str, ...]:
    from pneumonia.network.inspection import kept_share

    shape = " x ".join(str(extent) for extent in row.shape_out)
    if not storage:
        return (row.name, row.op, shape, "", "", "", "", "", "")
    return (
        row.name,
        row.op,
        shape,
        f"{row.parameters:,}",
        f"{100 * kept_share(row):.1f}",
        f"{row.macs / 1e6:.2f}",
        f"{row.kept_macs / 1e6:.2f}",
        storage,
        f"{(row.storage_bits + row.index_bits) / 8192:.1f}",
    )
