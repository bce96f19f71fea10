"""`pneumonia demo`: the whole pipeline on phantoms, by the commands that a user would type."""

import csv
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from pneumonia.cli.demo.page import (
    DemoFolder,
    DemoModel,
    demo_result,
    measure_latency,
    result_rows,
    write_page,
)
from pneumonia.cli.demo.processes import run_in_background, run_verb, training_partners
from pneumonia.cli.demo.progress import OTHER, TRAINING, DemoProgress, DemoStep, show_estimate
from pneumonia.cli.options import FOLDER
from pneumonia.cli.terminal import shell_command, show_table
from pneumonia.runtime.errors import DISCLAIMER, ConfigError, DeviceError

FILM_PX = 256
FRACTIONS = (0.375, 0.25, 0.375)  # of train, val and test: enough to choose thresholds and compare
PHANTOM_MIX = "45:30:25"  # opacity, not normal, normal: as the phantoms are drawn
PRUNING_COST = 1.05  # of an epoch of the pruning (teacher, larger batches), against one of training
RSNA_COMMANDS = (
    "pneumonia data import-rsna path/to/rsna --out runs/rsna",
    "pneumonia train --data runs/rsna --recipe rsna --out runs/dense",
    "pneumonia prune runs/dense --recipe combined --rate 9 --out runs/pruned",
    "pneumonia export runs/pruned --out runs/bundle",
    "pneumonia score path/to/studies runs/scored --bundle runs/bundle",
    "pneumonia evaluate runs/scored/predictions.csv path/to/labels.csv --out runs/report",
)


class DemoScale(NamedTuple):
    """How large the demo is."""

    films: int  # phantom studies
    train: tuple[str, ...] = ()  # changes to the training recipe
    prune: tuple[str, ...] = ()  # changes to the pruning recipe
    compare: tuple[str, ...] = ()  # options of `pneumonia compare`


FULL = DemoScale(960)
SMOKE = DemoScale(
    48,
    ("epochs=2", "batch_size=8", "validate_every=2"),
    (
        "admm.epochs=1",
        "admm.rho=[80]",
        "admm.steps_per_update=1",
        "retrain.epochs=1",
        "retrain.batch_size=8",
    ),
    # Models that learnt nothing may find no box, and then have no operating point of their own.
    ("--threshold", "0.05"),
)


@click.command()
@click.option(
    "--out",
    default="runs/demo",
    show_default=True,
    type=FOLDER,
    help="Folder for everything the demo makes.",
)
@click.option("--seed", default=0, show_default=True, help="Of the phantoms and the training.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Of the training; auto takes bfloat16 where the processor has instructions for it.",
)
@click.option(
    "--smoke",
    is_flag=True,
    help="Half a minute instead of minutes: shows that all parts work, learns nothing.",
)
def command(out: Path, seed: int, precision: str, smoke: bool) -> None:
    """Make phantom studies, train, prune, export, score and report, in minutes.

    Needs no data and no GPU. What it writes is replaced by the next demo in the same folder.
    """
    from pneumonia.runtime.atomic import write_json

    started = time.perf_counter()
    # At this size a second thread gains nothing, and with other work beside it threads lose time
    # waiting for each other; a setting of the user's own stays.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    scale = SMOKE if smoke else FULL
    folder = DemoFolder(_empty_demo_folder(out))
    dense, pruned = folder.models
    epochs = _epochs(scale)
    progress = DemoProgress(_steps(*epochs), show_estimate)
    with progress.draw_bar(), training_partners() as run_shared:
        progress.begin()
        run_verb("data", "phantom", "--out", folder.phantoms, "--count", scale.films,
             "--size", FILM_PX, "--seed", seed, "--fractions", *FRACTIONS)  # fmt: skip
        _select_test_studies(folder)
        progress.begin()
        run_shared("train", "--data", folder.phantoms, "--recipe", "phantom", "--out", dense.run,
             *_overrides((f"seed={seed}", f"precision={precision}", *scale.train)))  # fmt: skip
        progress.begin(progress.reports * epochs[1] / epochs[0])
        # The dense model scores these studies once: compiling it would take longer than it saves.
        with run_in_background([_export(dense), _score(dense, folder, "--engine", "onnxruntime")]):
            run_shared("prune", dense.run, "--recipe", "phantom", "--out", pruned.run,
                 *_overrides(scale.prune))  # fmt: skip
        progress.begin()
        run_verb(*_export(pruned))
        progress.begin()
        note = _compile(pruned.bundle)
        progress.begin()
        run_verb(*_score(pruned, folder))
        progress.begin()
        document = _compare(folder, scale.compare)
        progress.begin()
        result = demo_result(document, measure_latency(folder.models, with_kernels=not note))
        page, picture = write_page(folder, document, result, note, RSNA_COMMANDS)
    took_s = time.perf_counter() - started
    times = {"expected_s": progress.expected_s, "took_s": took_s}
    write_json(str(out / "result.json"), {**result, **times})
    click.echo()
    show_table("result", ("", "dense", "pruned", "change"), result_rows(result))
    click.echo("  latency: dense in ONNX Runtime, pruned in ONNX Runtime and as generated C")
    if note:
        click.echo(note)
    click.echo(f"took {took_s:.0f} s on this machine")
    click.secho(f"\npage:    {page}\npicture: {picture}", bold=True)
    _show_commands(pruned.bundle)


def _epochs(scale: DemoScale) -> tuple[int, int]:
    """Epochs of the training and of all phases of the pruning."""
    from pneumonia.compression.prune.recipe import PruneRecipe
    from pneumonia.recipes import load_recipe
    from pneumonia.training.config import TrainRecipe

    train = load_recipe("phantom", "train", TrainRecipe, scale.train)
    prune = load_recipe("phantom", "prune", PruneRecipe, scale.prune)
    return train.epochs, prune.admm.epochs + prune.retrain.epochs


def _steps(train_epochs: int, prune_epochs: int) -> list[DemoStep]:
    return [
        DemoStep("making phantoms", OTHER, 12),
        DemoStep("training", TRAINING, train_epochs),
        DemoStep("pruning", TRAINING, PRUNING_COST * prune_epochs),
        DemoStep("exporting", OTHER, 2),
        DemoStep("compiling kernels", OTHER, 4),
        DemoStep("scoring", OTHER, 4),
        DemoStep("comparing", OTHER, 6),
        DemoStep("writing the page", OTHER, 2),
    ]


def _overrides(changes: Sequence[str]) -> list[str]:
    return [text for change in changes for text in ("--set", change)]


def _empty_demo_folder(out: Path) -> Path:
    """An empty folder for the demo: only what an earlier demo made is removed."""
    from pneumonia.runtime.atomic import write_text
    from pneumonia.runtime.output_folders import require_own_or_empty

    require_own_or_empty(str(out), "an earlier demo", "DEMO")
    shutil.rmtree(out, ignore_errors=True)
    write_text(str(out / "DEMO"), "Made by `pneumonia demo`, which replaces this folder.\n")
    return out


def _export(model: DemoModel) -> list[object]:
    return ["export", model.run, "--out", model.bundle]


def _score(model: DemoModel, folder: DemoFolder, *options: str) -> list[object]:
    return ["score", folder.studies, model.scores, "--bundle", model.bundle, *options]


def _select_test_studies(folder: DemoFolder) -> None:
    """Copy the DICOM files of the test split and write their labels in the official csv format."""
    from data_prep.dataset.reader import open_dataset
    from pneumonia.runtime.atomic import write_text

    dataset = open_dataset(folder.phantoms)
    test = {dataset.records[i].image_id for i in dataset.select("test")}
    folder.studies.mkdir()
    for image_id in sorted(test):
        shutil.copy(folder.phantoms / "dicom" / f"{image_id}.dcm", folder.studies)
    with (folder.phantoms / "labels.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    lines = [",".join(row) for row in (header, *(row for row in rows if row[0] in test))]
    write_text(str(folder.labels), "\n".join(lines) + "\n")


def _compile(bundle: Path) -> str:
    """Compile the model's generated kernels; returns why that is not possible, or nothing."""
    from deploy_jetson.kernels.compile.compilers import find_compiler
    from deploy_jetson.kernels.targets import find_target

    try:
        find_compiler(find_target("native"))
    except (ConfigError, DeviceError) as error:
        return f"No generated kernels: {error}; then `pneumonia kernels {bundle}`."
    run_verb("kernels", bundle, "--no-tune")
    return ""


def _compare(folder: DemoFolder, options: Sequence[str]) -> dict[str, Any]:
    """The report dense against pruned; returns compare.json."""
    names = [f"{m.name}={m.scores / 'predictions.csv'},{m.bundle}" for m in folder.models]
    run_verb("compare", *names, "--labels", folder.labels,
         "--classes", folder.phantoms / "class_info.csv", "--mix", PHANTOM_MIX,
         "--image-folder", folder.studies, "--out", folder.report, *options)  # fmt: skip
    path = folder.report / "compare.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _show_commands(bundle: Path) -> None:
    click.echo("\nnext: look inside the pruned model, then do the same on RSNA data")
    for line in (shell_command("pneumonia inspect {}", bundle), *RSNA_COMMANDS):
        click.echo("  " + line)
    click.echo(DISCLAIMER)
