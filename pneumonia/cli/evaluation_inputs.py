"""What `evaluate` and `compare` read alike: predictions, labels, facts, subsets."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from evaluation.study.cases import EvaluationCases
    from evaluation.study.class_mix import ClassMix
    from evaluation.study.operating_points import OperatingPoint

Command = Callable[..., Any]
SCORE_SCHEMA = "pneumonia.score/1"  # of the run.json that `score` puts beside predictions.csv
TUNE = "tune"

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


def parse_frame(context: click.Context, option: click.Parameter, value: str) -> float | None:
    """Callback of --frame: the side of the labels' frame in pixels, None for `image`."""
    if value == "image":
        return None
    try:
        side = float(value)
    except ValueError:
        side = 0.0
    if not 0 < side < 1e6:
        raise click.BadParameter(f"{value!r} is neither a number of pixels nor `image`")
    return side


def parse_box_scale(
    context: click.Context, option: click.Parameter, value: str | None
) -> float | str | None:
    """Callback of --box-scale: a factor, `tune`, or None when it was not given."""
    if value is None or value == TUNE:
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor `tune`") from None


def label_options(command: Command) -> Command:
    """Options of what the predictions are held against."""
    options = (
        click.option(
            "--classes", type=FILE, help="csv with patientId,class (official class info)."
        ),
        click.option("--images", type=FILE, help="csv of patient, view, sex, age per image."),
        click.option(
            "--frame",
            callback=parse_frame,
            default="1024",
            show_default=True,
            help="Side of the labels' frame in pixels, or `image`: pixels of each image.",
        ),
        click.option("--subset", type=FILE, help="Only these ids, one per line."),
        click.option(
            "--only-scored", is_flag=True, help="Leave out labelled images without a score."
        ),
    )
    for option in reversed(options):  # the last decorator is the first in the help
        command = option(command)
    return command


def mix_option(command: Command) -> Command:
    """Option of the class mix that results are weighted to."""
    return click.option(
        "--mix",
        callback=_read_mix,
        default="rsna",
        show_default=True,
        metavar="OPACITY:NOT_NORMAL:NORMAL",
        help="Mix of classes that results are weighted to as well, as counts or shares; `rsna` is"
        " 6012:11821:8851. Needs the class of every image (--classes).",
    )(command)


def _read_mix(context: click.Context, option: click.Parameter, value: str) -> "ClassMix":
    from evaluation.study.class_mix import parse_mix

    return parse_mix(value)


def draw_options(command: Command) -> Command:
    """Options of the bootstrap."""
    command = click.option(
        "--design",
        type=click.Choice(["cohort", "case-control"]),
        default="cohort",
        show_default=True,
        help="How the images were chosen: with their prevalence (cohort), or so many positive and"
        " negative ones (case-control). Intervals follow.",
    )(command)
    command = click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draws."
    )(command)
    return click.option(
        "--draws",
        type=click.IntRange(100, 100_000),
        default=2000,
        show_default=True,
        help="Bootstrap draws.",
    )(command)


class Frozen(NamedTuple):
    """What operating_points.json fixes.

    Attributes:
        points: Name -> point; None = nothing is frozen.
        platt: Slope and intercept of the Platt scaling, None = not available.
        box_scale: How boxes are resized before they are judged.
        model_hash: The model they belong to, None = not said.
    """

    points: "Mapping[str, OperatingPoint] | None" = None
    platt: tuple[float, float] | None = None
    box_scale: float = 1.0
    model_hash: str | None = None


def read_frozen(source: Path) -> Frozen:
    """Read operating_points.json, or that of a bundle or run.

    Raises:
        ArtefactError: Not readable, or a value out of its range.
    """
    from evaluation.study.box_scale import read_box_scale
    from evaluation.study.operating_points import read_platt, read_points

    points, document = read_points(source)
    owner = document.get("model_hash")
    return Frozen(
        points,
        read_platt(document),
        read_box_scale(document, str(source)),
        owner if isinstance(owner, str) else None,
    )


def check_scored_by(predictions: Path, model_hash: str) -> None:
    """Refuse predictions whose own run.json names another model; without one nothing is known.

    Raises:
        ArtefactError: They were made by another model.
    """
    from pneumonia.runtime.errors import ArtefactError

    try:
        record = json.loads((predictions.parent / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(record, dict) or record.get("schema") != SCORE_SCHEMA:
        return
    model = record.get("model")
    made_by = model.get("model_hash") if isinstance(model, dict) else None
    if isinstance(made_by, str) and made_by != model_hash:
        raise ArtefactError(
            "Predictions were made by another model than the bundle's",
            expected=f"model_hash {model_hash[:12]}...",
            found=f"{made_by[:12]}...",
            where=str(predictions),
        )


def read_cases(
    predictions: Path,
    labels: Path,
    frame: float | None,
    facts: Sequence[Path],
    subset: Path | None,
    only_scored: bool,
) -> "EvaluationCases":
    """Read and join labels, predictions (predictions.csv or a submission) and facts.

    Raises:
        DataError: See the readers and `evaluation.study.cases.join`.
    """
    from evaluation.study.cases import join
    from evaluation.study.cohort import read_cohort
    from evaluation.study.labels import RSNA_FRAME, read_labels
    from evaluation.study.submission import is_submission, read_submission
    from pneumonia.runtime.predictions import read_predictions

    truth = read_labels(labels, frame)
    found = (
        read_submission(predictions, frame or RSNA_FRAME)
        if is_submission(predictions)
        else read_predictions(str(predictions))
    )
    return join(
        truth,
        found,
        read_cohort(*facts),
        read_subset(subset) if subset is not None else None,
        only_scored,
    )


def read_subset(path: Path) -> list[str]:
    """Image ids, one per line; a path counts as its file stem, empty lines are skipped.

    Raises:
        DataError: Not readable, or empty.
    """
    from pneumonia.runtime.errors import DataError

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("Subset cannot be read", found=str(error), where=str(path)) from None
    ids = [_stem(line.strip()) for line in lines if line.strip()]
    if not ids:
        raise DataError("Subset names no image", where=str(path))
    return ids


def _stem(text: str) -> str:
    """`full/images/ID.png` -> `ID`; a bare id may hold dots."""
    name = text.replace("\\", "/").rpartition("/")[2]
    for suffix in (".png", ".jpg", ".jpeg", ".dcm"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def split_named(text: str) -> tuple[str, Path]:
    """`NAME=FILE` -> (name, path).

    Raises:
        ConfigError: No name, or no such file.
    """
    from pneumonia.runtime.errors import ConfigError

    name, equals, file = text.partition("=")
    if not equals or not name or not Path(file).is_file():
        raise ConfigError("Expected NAME=FILE with an existing file", found=repr(text))
    return name, Path(file)
