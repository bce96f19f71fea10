"""`pneumonia demo`: the whole job on phantoms, by the same verbs a user would type."""

import csv
import json
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from pneumonia.cli.terminal import show_table
from pneumonia.runtime.errors import DISCLAIMER

OVERLAYS_SHOWN = 4


class Scale(NamedTuple):
    """How large the demo is.

    Attributes:
        films: Phantom studies.
        train: Changes to the training recipe.
        prune: Changes to the pruning recipe.
    """

    films: int
    train: tuple[str, ...]
    prune: tuple[str, ...]


FULL = Scale(400, (), ())
SMOKE = Scale(
    48,
    ("--set", "epochs=2"),
    ("--set", "admm.epochs=2", "--set", "retrain.epochs=1"),
)


class Model(NamedTuple):
    """A row of the final table."""

    name: str
    run: Path
    bundle: Path
    scores: Path


@click.command()
@click.option(
    "--out",
    default="runs/demo",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for everything the demo makes.",
)
@click.option("--seed", default=0, show_default=True, help="Of the phantoms.")
@click.option(
    "--smoke",
    is_flag=True,
    help="A minute instead of five: shows that all parts work, learns nothing.",
)
def command(out: Path, seed: int, smoke: bool) -> None:
    """Make phantom studies, train, prune, export, score and report, in minutes.

    Needs no data and no GPU. What it writes is replaced by the next demo in the same folder.
    """
    started = time.perf_counter()
    scale = SMOKE if smoke else FULL
    out = _fresh(out)
    data = out / "phantoms"
    dense = Model("dense", out / "dense", out / "dense-bundle", out / "dense-scores")
    pruned = Model("pruned", out / "pruned", out / "pruned-bundle", out / "pruned-scores")

    _run("data", "phantom", "--out", data, "--count", scale.films, "--seed", seed)
    _run("train", "--data", data, "--recipe", "phantom", "--out", dense.run, *scale.train)
    _run("prune", dense.run, "--recipe", "phantom", "--out", pruned.run, *scale.prune)
    studies, labels = _test_studies(data, out)
    for model in (dense, pruned):
        _run("export", model.run, "--out", model.bundle)
        _run("score", studies, model.scores, "--bundle", model.bundle)
    report = _report(out, (dense, pruned), labels)
    _show_result(report)
    click.echo(f"report: {report}")
    click.echo(f"overlays: {pruned.scores / 'overlay'}")
    click.echo(f"took {time.perf_counter() - started:.0f} s on this machine")
    _show_rsna_commands()


def _fresh(out: Path) -> Path:
    """An empty folder for the demo: only what an earlier demo made is removed."""
    from pneumonia.runtime.atomic import write_text
    from pneumonia.runtime.errors import OutputError

    mark = out / "DEMO"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise OutputError(
            "Output folder holds something else than a demo",
            expected="a new or empty folder",
            where=str(out),
            fix="Choose another --out",
        )
    shutil.rmtree(out, ignore_errors=True)
    write_text(str(mark), "Made by `pneumonia demo`, which replaces this folder.\n")
    return out


def _run(*arguments: object) -> None:
    """Run one verb as a user would type it."""
    from pneumonia.cli import group

    words = [str(argument) for argument in arguments]
    click.secho("\n$ pneumonia " + shlex.join(words), bold=True)
    group.main(args=words, standalone_mode=False, prog_name="pneumonia")


def _test_studies(data: Path, out: Path) -> tuple[Path, Path]:
    """The DICOM files of the test split, and their labels in the official csv format."""
    from data_prep.dataset.reader import open_dataset
    from pneumonia.runtime.atomic import write_text

    dataset = open_dataset(data)
    test = {dataset.records[i].image_id for i in dataset.select("test")}
    studies = out / "studies"
    studies.mkdir()
    for image_id in sorted(test):
        shutil.copy(data / "dicom" / f"{image_id}.dcm", studies)
    with (data / "labels.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    lines = [",".join(row) for row in (header, *(row for row in rows if row[0] in test))]
    labels = out / "labels-test.csv"
    write_text(str(labels), "\n".join(lines) + "\n")
    return studies, labels


def _report(out: Path, models: Sequence[Model], labels: Path) -> Path:
    """The page dense against pruned, with curves and some overlays at its end."""
    names = [f"{model.name}={model.scores / 'predictions.csv'},{model.bundle}" for model in models]
    figures: list[object] = []
    for path, caption in _figures(models):
        figures += ["--figure", f"{path}={caption}"]
    _run("compare", *names, "--labels", labels, "--out", out / "report", *figures)
    return out / "report" / "compare.html"


def _figures(models: Sequence[Model]) -> list[tuple[Path, str]]:
    captions = {
        "loss.png": "Loss while training the dense model",
        "metrics.png": "Validation while training the dense model",
        "residuals.png": "ADMM residuals while pruning",
    }
    found = [
        (model.run / name, caption)
        for name, caption in captions.items()
        for model in models
        if (model.run / name).is_file()
    ]
    last = models[-1]
    overlays = sorted((last.scores / "overlay").glob("*.png"))[:OVERLAYS_SHOWN]
    return found + [(path, f"Boxes of the {last.name} model") for path in overlays]


def _show_result(report: Path) -> None:
    """Parameters, MACs, size, latency and score of both models, from the report's own numbers."""
    document = json.loads(report.with_name("compare.json").read_text(encoding="utf-8"))
    comparison = document["comparisons"][0]
    names = (comparison["reference"], comparison["model"])
    rows: list[tuple[str, str, str, str]] = []
    for title, key, digits in (
        ("parameters", "parameters", 0),
        ("MACs per image", "macs", 0),
        ("weights file, bytes", "file_bytes", 0),
        ("latency, ms (onnxruntime, 1 thread)", "latency_ms", 2),
    ):
        dense, pruned = (document["cost"][name][key] for name in names)
        cells = (f"{dense:,.{digits}f}", f"{pruned:,.{digits}f}")
        rows.append((title, *cells, f"{dense / pruned:.1f}x less"))
    score = comparison["metrics"][f"rsna.{document['point']}"]
    dense, pruned = score["reference"]["value"], score["value"]["value"]
    rows.append(
        ("RSNA score, test phantoms", f"{dense:.3f}", f"{pruned:.3f}", f"{pruned - dense:+.3f}")
    )
    click.echo()
    show_table("result", ("", *names, "change"), rows)


def _show_rsna_commands() -> None:
    click.echo("\nthe same on RSNA data:")
    for line in (
        "pneumonia data import-rsna path/to/rsna --out runs/rsna",
        "pneumonia train --data runs/rsna --recipe rsna --out runs/dense",
        "pneumonia prune runs/dense --recipe combined --rate 9 --out runs/pruned",
        "pneumonia export runs/pruned --out runs/bundle",
        "pneumonia score path/to/studies runs/scored --bundle runs/bundle",
        "pneumonia evaluate runs/scored/predictions.csv path/to/labels.csv --out runs/report",
    ):
        click.echo("  " + line)
    click.echo(DISCLAIMER)
