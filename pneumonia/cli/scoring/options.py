"""Options of `pneumonia score` that are not settings of a batch, and what does not go together."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.options import split_list
from pneumonia.cli.scoring.remote import RemoteOptions
from pneumonia.runtime.errors import ConfigError

if TYPE_CHECKING:
    from pneumonia.scoring.batch.run import ScoreSettings

DICOM_KINDS = ("sr", "gsps", "sc")


@dataclass(frozen=True)
class ScoreOptions(RemoteOptions):
    """The options of `pneumonia score` besides its paths, the bundle and `ScoreSettings`."""

    engine: str  # engine that runs the model
    send_deidentified: bool  # whether --send may send results that name no patient
    dry_run: bool  # only show what would be scored
    as_json: bool  # print run.json on stdout, nothing else


def selection_rules(context: click.Context, parameter: click.Parameter, value: Path | None) -> Any:
    """Callback: the rules of a file, None for the shipped ones."""
    from pneumonia.scoring.image.selection import load_rules

    return load_rules(value)


def dicom_kinds(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...]:
    """`sr,sc` as ("sr", "sc"); `all` as every kind."""
    wanted = [kind.lower() for kind in split_list(context, parameter, value)]
    if value is not None and (not wanted or set(wanted) - {*DICOM_KINDS, "all"}):
        raise click.BadParameter(f"{value!r} is not `all` or some of {','.join(DICOM_KINDS)}")
    return DICOM_KINDS if "all" in wanted else tuple(k for k in DICOM_KINDS if k in wanted)


def checked_settings(settings: "ScoreSettings", options: ScoreOptions) -> "ScoreSettings":
    """The settings of a batch; results to send are of all kinds unless some are named.

    Raises:
        ConfigError: Options that do not go together.
    """
    if settings.allow_burned_in and not settings.deidentify:
        raise ConfigError(
            "Option has no effect here", found="--allow-burned-in without --deidentify"
        )
    _check_send_of_deidentified(settings.deidentify, options)
    outputs = settings.outputs
    if outputs.pdf and not outputs.report:
        raise ConfigError("The PDF is printed from the report", found="--no-report --pdf")
    if options.send and not outputs.dicom:
        outputs = replace(outputs, dicom=DICOM_KINDS)
    return replace(settings, outputs=outputs, refetch=not options.no_refetch)


def _check_send_of_deidentified(profile: str, options: ScoreOptions) -> None:
    """Refuse to send de-identified results unless asked: an archive cannot file them again."""
    wanted = bool(profile and options.send)
    if options.send_deidentified and not wanted:
        raise ConfigError(
            "Option has no effect here",
            found="--send-deidentified without --deidentify and --send",
        )
    if wanted and not options.send_deidentified:
        raise ConfigError(
            "De-identified results are not sent to an archive unless asked for",
            expected="--send-deidentified beside --deidentify and --send",
            found=f"--deidentify {profile} --send",
            fix="Leave --deidentify out to send results to the patient's own archive",
        )
