"""`pneumonia data link-reports` and `train-linker`: radiology reports to coded findings."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.options import FILE, FOLDER, PATH, collected
from pneumonia.cli.terminal import progress_bar, show_next, show_table
from pneumonia.runtime.errors import ConfigError, PartialFailure

if TYPE_CHECKING:
    from data_prep.reports.findings.concepts import ConceptBase
    from data_prep.reports.findings.linking import MentionLinker
    from data_prep.reports.linker.training import LinkerSettings


@click.command("link-reports")
@click.argument("reports", type=PATH)
@click.option("--out", required=True, type=FOLDER, help="Folder to write.")
@click.option(
    "--linker", type=FOLDER, help="Of train-linker.  [default: the vocabulary alone, untrained]"
)
@click.option(
    "--concepts", type=FILE, help="Concept base.  [default: the linker's, or the one shipped]"
)
@click.option(
    "--images",
    type=FOLDER,
    help="Radiographs named like the reports' images; OUT/dataset gets them, weakly labelled.",
)
@click.option(
    "--join", type=FOLDER, help="Dataset with boxes, to which the images and labels are added."
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes that decode; default one per core."
)
def link_reports_verb(
    reports: Path,
    out: Path,
    linker: Path | None,
    concepts: Path | None,
    images: Path | None,
    join: Path | None,
    workers: int | None,
) -> None:
    """Find the coded findings of REPORTS, and whether they state, deny or suspect an opacity.

    REPORTS is a csv (columns `text`, or `findings` and `impression`; `report_id`, `images`), a
    folder of .txt files, or OpenI's XML files. Research use only: weak labels are not a diagnosis.
    Exit code 3 when some reports cannot be used; reports.csv names them.
    """
    from data_prep.dataset.reader import open_dataset
    from data_prep.reports.weak_labels.link_folder import LinkedReports, link_source
    from data_prep.reports.weak_labels.weak_dataset import WeakSources, write_weak_dataset

    decide, base = load_vocabulary(linker, concepts)
    sources = WeakSources(images, open_dataset(join) if join is not None else None)
    wanted = images is not None or join is not None
    fates: dict[str, int] = {}

    def add_dataset(folder: Path, linked: LinkedReports) -> None:
        fates.update(
            write_weak_dataset(folder / "dataset", linked.images, sources, workers, progress)
        )

    with progress_bar("link") as progress:
        done = link_source(reports, out, base, decide, progress, add_dataset if wanted else None)
    _show(out, done.counts, fates)
    if wanted:
        show_next("pneumonia data audit {}", out / "dataset")
    else:
        show_next("pneumonia data link-reports {} --out {} --images FOLDER", reports, out)
    rejected = sum(done.counts["rejected"].values())
    if rejected:
        raise PartialFailure(
            "Some reports cannot be used",
            found=f"{rejected} of {rejected + done.counts['linked']}",
            where=str(out / "reports.csv"),
        )


def load_vocabulary(
    linker: Path | None, concepts: Path | None
) -> "tuple[MentionLinker | None, ConceptBase]":
    """The report linker, None for the alias table, and its concept base.

    Raises:
        ConfigError: Both are given: a linker brings its own base.
    """
    from data_prep.reports.findings.concepts import ConceptBase

    if linker is None:
        return None, ConceptBase.load(concepts)
    if concepts is not None:
        raise ConfigError("A linker brings its own concept base", fix="Leave out --concepts")
    from data_prep.reports.linker.trained_linker import TrainedLinker

    trained = TrainedLinker.load(linker)
    return trained, trained.base


def _show(out: Path, counts: dict[str, Any], fates: dict[str, int]) -> None:
    rows: list[tuple[str, object]] = [("reports linked", counts["linked"])]
    rows += [(f"rejected: {reason}", n) for reason, n in counts["rejected"].items()]
    rows += [(f"opacity: {label}", n) for label, n in counts["opacity"].items()]
    rows += [(f"mentions: {name}", n) for name, n in counts["assertions"].items()]
    rows += [(f"images: {fate}", n) for fate, n in sorted(fates.items())]
    show_table(f"{out}", ("what", "count"), rows)


@click.command("train-linker")
@click.argument("reports", type=PATH)
@click.option("--out", required=True, type=FOLDER, help="Linker folder to write.")
@click.option(
    "--local", default="cnn", show_default=True, type=click.Choice(["attention", "cnn"]),
    help="Local model.",
)  # fmt: skip
@click.option(
    "--hops", default="1", show_default=True, type=click.Choice(["0", "1", "2"]),
    callback=lambda context, parameter, value: int(value),
    help="0 = each mention alone, 1 = with the concepts linked before, 2 = and their neighbours.",
)  # fmt: skip
@click.option(
    "--order", default="offset", show_default=True,
    type=click.Choice(["offset", "size", "random"]),
    help="In which order the mentions are linked: text, fewest candidates first, any.",
)  # fmt: skip
@click.option(
    "--soft",
    "hard",
    is_flag=True,
    callback=lambda context, parameter, value: not value,
    help="Attend to all linked concepts, not to the best only.",
)
@click.option(
    "--learn", default="sl", show_default=True, type=click.Choice(["sl", "rl"]),
    help="Supervised, or reinforcement after a supervised start.",
)  # fmt: skip
@click.option("--epochs", default=40, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@collected("data_prep.reports.linker.training:LinkerSettings", "config")
def train_linker_verb(reports: Path, out: Path, config: "LinkerSettings") -> None:
    """Train a linker on REPORTS that have manual codes (column `mesh_major`, or OpenI's XML).

    70 % of the reports train it, 10 % choose the epoch, 20 % are left to test it.
    """
    from data_prep.reports.linker.trained_linker import judge, refuse_other_output, train_on

    refuse_other_output(out)  # before the training, which takes minutes
    with progress_bar("train linker") as progress:
        linker, test = train_on(reports, config, progress)
    linker.save(out)
    rows = [
        (level, f"{a.f1:.3f}", f"{a.f1_low:.3f}-{a.f1_high:.3f}", f"{a.precision:.3f}",
         f"{a.recall:.3f}")
        for level, a in judge(linker, test).items()
    ]  # fmt: skip
    header = ("agreement with manual codes", "F1", "95 %", "precision", "recall")
    show_table(f"{out}: {len(test)} reports of the test part", header, rows)
    show_next("pneumonia data link-reports REPORTS --linker {} --out runs/links", out)
