"""`pneumonia demo`: the whole job on phantoms, by the same verbs a user would type."""

import csv
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from pneumonia.cli.terminal import show_table
from pneumonia.runtime.errors import DISCLAIMER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pneumonia.runtime.bundle import Bundle

LABEL_FRAME = 1024  # pixels of the official csv's frame
OPERATING_POINT = "kaggle"


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
    _show_result((dense, pruned), labels)
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
    from data_prep.dataset import open_dataset
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
    names = [f"{model.name}={model.scores / 'predictions.csv'},{model.bundle}" for model in models]
    _run("compare", *names, "--labels", labels, "--out", out / "report")
    return out / "report" / "compare.html"


def _show_result(models: Sequence[Model], labels: Path) -> None:
    """Parameters, MACs, size, score and latency of every model, side by side."""
    from pneumonia.runtime.bundle import load_bundle

    bundles = {model.name: load_bundle(str(model.bundle)) for model in models}
    costs = {name: _cost(bundle) for name, bundle in bundles.items()}
    scores = {model.name: _rsna(model, bundles[model.name], labels) for model in models}
    latency = _latency(bundles)
    first, last = models[0].name, models[-1].name
    rows: list[tuple[str, str, str, str]] = []
    for title, values, digits in (
        ("stored weights", {name: cost[0] for name, cost in costs.items()}, 0),
        ("MACs per image", {name: cost[1] for name, cost in costs.items()}, 0),
        ("weights file, bytes", {name: cost[2] for name, cost in costs.items()}, 0),
        ("latency, ms (onnxruntime, 1 thread)", latency, 2),
    ):
        cells = [f"{values[model.name]:,.{digits}f}" for model in models]
        rows.append((title, *cells, f"{values[first] / values[last]:.1f}x less"))
    cells = [f"{scores[model.name]:.3f}" for model in models]
    rows.append(("RSNA score, test phantoms", *cells, f"{scores[last] - scores[first]:+.3f}"))
    click.echo()
    show_table("result", ("", *(model.name for model in models), "change"), rows)


def _cost(bundle: "Bundle") -> tuple[float, float, float]:
    """Stored weights, kept multiply-accumulates, bytes of the weights file."""
    import torch

    from pneumonia.network.accounting import account
    from pneumonia.runtime.bundle import WEIGHTS

    tensors = {name: torch.from_numpy(value) for name, value in bundle.weights().items()}
    totals = account(bundle.spec, tensors).totals
    size = (Path(bundle.path) / WEIGHTS).stat().st_size
    return float(totals.kept_weights), float(totals.kept_macs), float(size)


def _rsna(model: Model, bundle: "Bundle", labels: Path) -> float:
    """Challenge score of a model's predictions at its own operating point."""
    from evaluation.labels import read_labels
    from evaluation.rsna import rsna_score
    from pneumonia.runtime.predictions import read_predictions

    truths = read_labels(labels).boxes
    scored = {}
    for found in read_predictions(str(model.scores / "predictions.csv")):
        scale = [LABEL_FRAME / found.width, LABEL_FRAME / found.height] * 2
        scored[found.image_id] = (found.boxes * scale, found.scores)
    return rsna_score(truths, scored, bundle.threshold(OPERATING_POINT)).value


def _latency(bundles: "Mapping[str, Bundle]") -> dict[str, float]:
    """Median milliseconds of one image on one thread, measured in turn."""
    import numpy as np

    from pneumonia.runtime.engines import open_engine
    from pneumonia.runtime.latency import interleaved_latency

    engines = {
        name: open_engine(bundle, "onnxruntime", threads=1) for name, bundle in bundles.items()
    }
    batches = {}
    for name, bundle in bundles.items():
        entry = bundle.spec.input
        batches[name] = np.full((1, entry.channels, entry.height, entry.width), 0.5, np.float32)
    found = interleaved_latency(engines, batches)
    return {name: latency.median_ms for name, latency in found.items()}


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
