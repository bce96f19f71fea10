"""Options that `evaluate` and `compare` share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.options import PRESENT, PRESENT_FILE, Number

if TYPE_CHECKING:
    from evaluation.study.class_mix import ClassMix

Command = Callable[..., Any]
TUNE = "tune"


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
    """Options for the labels that predictions are compared with."""
    options = (
        click.option(
            "--classes", type=PRESENT_FILE, help="csv with patientId,class (official class info)."
        ),
        click.option(
            "--images", type=PRESENT_FILE, help="csv of patient, view, sex, age per image."
        ),
        click.option(
            "--frame",
            callback=parse_frame,
            default="1024",
            show_default=True,
            help="Side of the labels' frame in pixels, or `image`: pixels of each image.",
        ),
        click.option("--subset", type=PRESENT_FILE, help="Only these ids, one per line."),
        click.option(
            "--only-scored", is_flag=True, help="Leave out labelled images without a score."
        ),
    )
    for option in reversed(options):  # the last decorator is the first in the help
        command = option(command)
    return command


def threshold_options(points_help: str, threshold_help: str) -> Callable[[Command], Command]:
    """Options for frozen thresholds, or one threshold given by hand."""

    def add(command: Command) -> Command:
        command = click.option("--threshold", type=Number(0, 1), help=threshold_help)(command)
        return click.option("--operating-points", "points", type=PRESENT, help=points_help)(command)

    return add


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
        help="How the images were sampled: all of a cohort, or fixed numbers of positive and"
        " negative ones (case-control). Decides how intervals are computed.",
    )(command)
    command = click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws."
    )(command)
    return click.option(
        "--draws",
        type=click.IntRange(100, 100_000),
        default=2000,
        show_default=True,
        help="Bootstrap draws.",
    )(command)


def parse_named_files(
    context: click.Context, option: click.Parameter, values: Sequence[str]
) -> dict[str, Path]:
    """Callback of options `NAME=FILE`: name -> path.

    Raises:
        ConfigError: No name, or no such file.
    """
    from pneumonia.runtime.errors import ConfigError

    found = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not equals or not name or not Path(file).is_file():
            raise ConfigError("Expected NAME=FILE with an existing file", found=repr(value))
        found[name] = Path(file)
    return found
