"""`pneumonia data`: import, make, fetch and audit datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.datasets.reports import link_reports_verb, train_linker_verb
from pneumonia.cli.options import FILE, FOLDER, PATH, PRESENT_FILE, Number, collected
from pneumonia.cli.terminal import progress_bar, shell_command, show_next, show_table
from pneumonia.runtime.text import counted

if TYPE_CHECKING:
    from data_prep.importing.own_images import OwnImageOptions
    from data_prep.importing.rsna import ImportOptions

_SHOWN_NAMES = 5  # of each reason; rejected.csv has all
_WORKERS = click.option(
    "--workers", type=click.IntRange(min=1), help="Processes; default one per core."
)


def _import_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every import: cache, split, processes."""
    options = (
        click.option("--out", required=True, type=FOLDER, help="Dataset folder to write."),
        click.option(
            "--cache-size",
            default=512,
            show_default=True,
            help="Longest side of a cached image, pixels.",
        ),
        click.option(
            "--split",
            "fractions",
            type=Number(),
            nargs=3,
            default=(0.8, 0.1, 0.1),
            show_default=True,
            help="Shares of train, val and test, where no split is given.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Of the split, where none is given.",
        ),
        _WORKERS,
    )
    for option in reversed(options):  # the last decorator is the first in the help
        command = option(command)
    return command


@click.group()
def command() -> None:
    """Import, make, fetch and audit datasets."""


command.add_command(link_reports_verb)
command.add_command(train_linker_verb)


@command.command("import-rsna")
@click.argument("source", type=FOLDER)
@_import_options
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
    _warn_of_split(out)
    show_next("pneumonia data audit {}", out)


def _parse_frame(
    context: click.Context, option: click.Parameter, value: str
) -> tuple[float, float] | None:
    """Callback of --frame: width and height; None for `image`, (1, 1) for `relative`."""
    if value in ("image", "relative"):
        return None if value == "image" else (1.0, 1.0)
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise click.BadParameter(f"{value!r} is none of `image`, `relative`, SIDE, WIDTHxHEIGHT")
    width, height = float(sides[0]), float(sides[-1])
    if not (0 < width < 1e6 and 0 < height < 1e6):
        raise click.BadParameter("width and height must be above 0 and below 1,000,000 pixels")
    return width, height


@command.command("import-boxes")
@click.argument("images", type=FOLDER)
@click.argument("labels", type=PATH)
@_import_options
@click.option(
    "--frame",
    callback=_parse_frame,
    default="image",
    show_default=True,
    metavar="FRAME",
    help="Size that boxes refer to: `image` (pixels of the image file), `relative` (shares of "
    "width and height), SIDE or WIDTHxHEIGHT (pixels of a frame that the image was scaled to).",
)
@click.option(
    "--category",
    "categories",
    multiple=True,
    metavar="NAME",
    help="Category whose boxes are lung opacities; may be repeated. Needed when LABELS have "
    "several: boxes of the others are left out.",
)
@click.option("--class-file", type=PRESENT_FILE, help="Class names of YOLO labels.")
@click.option(
    "--patients",
    type=PRESENT_FILE,
    help="csv with image,patient_id (and split): images of one patient get into one split.",
)
@click.option(
    "--unlabelled",
    "unlabelled_negative",
    type=click.Choice(["leave-out", "negative"]),
    default="leave-out",
    show_default=True,
    callback=lambda context, option, value: value == "negative",
    help="Images that LABELS do not name: leave them out, or take them as free of opacities.",
)
@collected("data_prep.importing.own_images:OwnImageOptions")
def import_boxes_verb(
    images: Path, labels: Path, out: Path, workers: int | None, options: "OwnImageOptions"
) -> None:
    """Import your own radiographs below IMAGES with the boxes of LABELS.

    LABELS are COCO (.json), a table (.csv with image,x1,y1,x2,y2 or image,x,y,width,height, and as
    needed category, patient_id, split; no coordinates = no finding), or a folder of YOLO text
    files. Images are DICOM, PNG or JPEG. An image with a faulty label is left out and named in
    rejected.csv. Details: docs/how-to/train-on-your-images.md.
    """
    from data_prep.importing.own_images import import_own_images

    with progress_bar("import") as progress:
        done = import_own_images(images, labels, out, options, workers, progress)
    _show_dataset(out, done)
    _warn_of_split(out)
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
    for check in report["checks"]:
        if check["advice"]:
            click.echo(f"warning: {check['advice']}", err=True)
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
    from data_prep.dataset.writer import REJECTED_FILE
    from data_prep.importing.reasons import REASONS

    info = read_info(out)
    if not done:
        click.echo(f"{out} is up to date: same sources, same options")
    rows = [
        (f"{split} {kind}", *(table[key] for key in ("images", "positive", "boxes", "patients")))
        for split, kinds in info["counts"]["by_split"].items()
        for kind, table in kinds.items()
    ]
    show_table(f"{out}", ("split kind", "images", "positive", "boxes", "patients"), rows)
    for reason, found in info["rejected"].items():
        more = ", ..." if found["count"] > _SHOWN_NAMES else ""
        names = ", ".join(found["names"][:_SHOWN_NAMES]) + more
        detail = REASONS.get(reason)
        click.echo(f"rejected: {found['count']} x {reason}: {names}")
        if detail:
            click.echo(f"    {detail}.")
    if (out / REJECTED_FILE).is_file():
        click.echo(f"All rejected files with their reasons: {out / REJECTED_FILE}")
    for reason, count in info["adjusted"].items():
        click.echo(f"adjusted: {count} x {reason}")


def _warn_of_split(out: Path) -> None:
    """Show what makes an imported dataset unfit for training or its results doubtful."""
    from data_prep.dataset.reader import read_info

    info = read_info(out)
    counts, split = info["counts"], info["split"]
    if split.get("leak_warning"):
        click.echo(f"warning: {split['leak_warning']}", err=True)
    if not counts["positive"]:
        click.echo("warning: no image has a box: a detector cannot be trained", err=True)
    empty = [name for name, kinds in counts["by_split"].items() if not kinds]
    if empty:
        advice = "too few for these shares (--split)"
        if counts["images"] >= 2 * counts["patients"]:
            advice = (
                "all images of a patient are in one split; anonymised headers may have the same "
                "PatientID in every file"
            )
        click.echo(
            f"warning: no image in {', '.join(empty)}: {counted(counts['images'], 'image')} of "
            f"{counted(counts['patients'], 'patient')}, {advice}",
            err=True,
        )
