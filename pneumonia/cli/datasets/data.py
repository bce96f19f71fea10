"""`pneumonia data`: import, make, fetch and audit datasets."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.datasets.reports import link_reports_verb, train_linker_verb
from pneumonia.cli.options import FILE, FOLDER, Number, collected
from pneumonia.cli.terminal import progress_bar, shell_command, show_next, show_table

if TYPE_CHECKING:
    from data_prep.importing.rsna import ImportOptions

_WORKERS = click.option(
    "--workers", type=click.IntRange(min=1), help="Processes; default one per core."
)


@click.group()
def command() -> None:
    """Import, make, fetch and audit datasets."""


command.add_command(link_reports_verb)
command.add_command(train_linker_verb)


@command.command("import-rsna")
@click.argument("source", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Dataset folder to write.")
@click.option(
    "--nih",
    type=FOLDER,
    help="Folder of whole NIH ChestX-ray14 frames with images.csv; frames without finding become "
    "negatives of kind `nih`, the others are unlabelled.",
)
@click.option(
    "--mapping",
    type=FILE,
    help="RSNA's json from patientId to NIH image, to split by patient.  [default: in SOURCE]",
)
@click.option(
    "--cache-size", default=512, show_default=True, help="Longest side of a cached image, pixels."
)
@click.option(
    "--split",
    "fractions",
    type=Number(),
    nargs=3,
    default=(0.8, 0.1, 0.1),
    show_default=True,
    help="Shares of train, val and test, where no split is given.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True,
    help="Of the split, where none is given.",
)  # fmt: skip
@_WORKERS
@collected("data_prep.importing.rsna:ImportOptions")
def import_rsna_verb(
    source: Path, out: Path, workers: int | None, options: "ImportOptions"
) -> None:
    """Import RSNA radiographs and boxes from SOURCE into a dataset folder.

    SOURCE is the unpacked challenge (stage_2_train_labels.csv, stage_2_detailed_class_info.csv,
    stage_2_train_images/), or labels.csv with images.csv, or labels.csv with dicom/ or images/,
    where a file's name without suffix is its patientId. Boxes are in pixels of a frame of
    1024 x 1024 that the whole image is scaled to.
    """
    from data_prep.importing.rsna import import_rsna

    with progress_bar("import") as progress:
        done = import_rsna(source, out, options, workers, progress)
    _show_dataset(out, done)
    show_next("pneumonia data audit {}", out)


@command.command("fetch-rsna")
@click.option("--out", required=True, type=FOLDER, help="Folder to download into (8 GB).")
def fetch_rsna_verb(out: Path) -> None:
    """Download the RSNA challenge with your own Kaggle client and account."""
    from data_prep.importing.fetch import fetch_rsna

    folder = fetch_rsna(out)
    show_next("pneumonia data import-rsna {} --out datasets/rsna", folder)


@command.command("audit")
@click.argument("dataset", type=FOLDER)
@click.option(
    "--out", type=FOLDER, help="Folder for audit.json and audit.html.  [default: DATASET]"
)
def audit_verb(dataset: Path, out: Path | None) -> None:
    """Check DATASET and describe it: audit.json and audit.html.

    Counts, sizes, boxes, duplicates, patients in several splits, checksums. Exit code 6 when a
    checksum does not match.
    """
    from data_prep.dataset.audit import audit_dataset
    from data_prep.dataset.audit_page import write_html
    from data_prep.dataset.reader import open_dataset
    from pneumonia.runtime.atomic import write_json
    from pneumonia.runtime.errors import DataError

    opened = open_dataset(dataset)
    with progress_bar("audit") as progress:
        report = audit_dataset(opened, progress)
    out = out or dataset
    write_json(str(out / "audit.json"), report)
    write_html(out / "audit.html", opened, report)
    rows = [
        (check["name"], "ok" if check["passed"] else check["found"]) for check in report["checks"]
    ]
    show_table(f"{dataset}", ("check", "result"), rows)
    click.echo(f"report: {out / 'audit.html'}")
    if not report["checksums_match"]:
        raise DataError(
            "Dataset does not match its checksums", where=str(dataset), fix="Import it again"
        )
    recipe = "phantom" if opened.info["source"].get("type") == "phantom" else "rsna"
    show_next(_training(dataset, recipe))


@command.command("phantom")
@click.option("--out", required=True, type=FOLDER, help="Dataset folder to write.")
@click.option("--count", required=True, type=int, help="Number of films.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same films.")
@click.option("--size", default=512, show_default=True, help="Side of a film in pixels.")
@click.option(
    "--fractions",
    nargs=3,
    type=Number(),
    metavar="TRAIN VAL TEST",
    default=(0.7, 0.15, 0.15),
    show_default=True,
    help="Shares of the patients in each split.",
)
@_WORKERS
def phantom_verb(
    out: Path,
    count: int,
    seed: int,
    size: int,
    fractions: tuple[float, float, float],
    workers: int | None,
) -> None:
    """Make synthetic chest DICOM studies with boxes, free of patient data."""
    from data_prep.phantom.study import make_phantoms

    with progress_bar("phantoms") as progress:
        done = make_phantoms(out, count, seed, size, workers, progress, fractions)
    _show_dataset(out, done)
    show_next(_training(out, "phantom"))


def _training(dataset: Path, recipe: str) -> str:
    """The command that trains on a dataset, with a run folder outside of it."""
    run, data = Path("runs") / recipe, dataset.resolve()
    if data in (run.resolve(), *run.resolve().parents):
        run = data.with_name(f"{data.name}-run")
    return shell_command(f"pneumonia train --data {{}} --recipe {recipe} --out {{}}", dataset, run)


def _show_dataset(out: Path, done: bool) -> None:
    from data_prep.dataset.reader import read_info

    info = read_info(out)
    if not done:
        click.echo(f"{out} is up to date: same sources, same options")
    rows = [
        (f"{split} {kind}", *(table[key] for key in ("images", "positive", "boxes", "patients")))
        for split, kinds in info["counts"]["by_split"].items()
        for kind, table in kinds.items()
    ]
    show_table(f"{out}", ("split kind", "images", "positive", "boxes", "patients"), rows)
    for title in ("rejected", "adjusted"):
        for reason, found in info[title].items():
            count = found["count"] if isinstance(found, dict) else found
            click.echo(f"{title}: {count} x {reason}")
    if info["split"].get("leak_warning"):
        click.echo(f"warning: {info['split']['leak_warning']}", err=True)
