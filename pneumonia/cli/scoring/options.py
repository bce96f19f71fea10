"""Options of `pneumonia score`, and the settings of a batch that they mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.options import split_list
from pneumonia.cli.scoring.remote import RemoteOptions
from pneumonia.runtime.errors import ConfigError

if TYPE_CHECKING:
    from pneumonia.scoring.batch.run import ScoreSettings

DICOM_KINDS = ("sr", "gsps", "sc")


@dataclass(frozen=True)
class ScoreOptions(RemoteOptions):
    """The options of `pneumonia score`, besides its paths and the bundle."""

    engine: str  # engine that runs the model
    threshold: str | None  # operating point; None for the bundle's first
    jobs: int  # processes that decode images
    overlays: str  # `findings`, `all` or `none`
    dicom: tuple[str, ...]  # kinds of DICOM results
    # fhir, report, pdf: further outputs
    fhir: bool
    report: bool
    pdf: bool
    resume: bool  # keep what the output holds of the same files
    identifiers: bool  # write accession number, study date and UIDs
    deidentify: str | None  # `basic` or None
    send_deidentified: bool  # whether --send may send results that name no patient
    allow_burned_in: bool  # take images with text in them although de-identifying
    rules: Path | None  # file of rules; None for the shipped ones
    dry_run: bool  # only show what would be scored
    # force_read, allow_deflated, first_frame: odd files that are taken
    force_read: bool
    allow_deflated: bool
    first_frame: bool
    as_json: bool  # print run.json on stdout, nothing else


def dicom_kinds(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...]:
    """`sr,sc` as ("sr", "sc"); `all` as every kind."""
    wanted = [kind.lower() for kind in split_list(context, parameter, value)]
    if value is not None and (not wanted or set(wanted) - {*DICOM_KINDS, "all"}):
        raise click.BadParameter(f"{value!r} is not `all` or some of {','.join(DICOM_KINDS)}")
    return DICOM_KINDS if "all" in wanted else tuple(k for k in DICOM_KINDS if k in wanted)


def score_settings(options: ScoreOptions) -> "ScoreSettings":
    """The settings of a batch.

    Raises:
        ConfigError: Options that do not go together, or a file of rules that cannot be read.
    """
    from pneumonia.runtime.child import ChildLimits
    from pneumonia.runtime.image.read_limits import DEFAULT_LIMITS
    from pneumonia.scoring.batch.run import ScoreSettings
    from pneumonia.scoring.image.selection import load_rules
    from pneumonia.scoring.outputs import OutputSettings

    if options.allow_burned_in and not options.deidentify:
        raise ConfigError(
            "Option has no effect here", found="--allow-burned-in without --deidentify"
        )
    _check_send_of_deidentified(options)
    if options.pdf and not options.report:
        raise ConfigError("The PDF is printed from the report", found="--no-report --pdf")
    read = DEFAULT_LIMITS._replace(
        force_read=options.force_read,
        allow_deflated=options.allow_deflated,
        first_frame=options.first_frame,
    )
    return ScoreSettings(
        threshold_name=options.threshold,
        limits=ChildLimits(read=read),
        overlays=options.overlays,
        jobs=options.jobs,
        fresh=not options.resume,
        refetch=not options.no_refetch,
        identifiers=options.identifiers,
        outputs=OutputSettings(
            dicom=options.dicom or (DICOM_KINDS if options.send else ()),
            fhir=options.fhir,
            report=options.report,
            pdf=options.pdf,
        ),
        rules=load_rules(options.rules),
        deidentify=options.deidentify or "",
        allow_burned_in=options.allow_burned_in,
    )


def _check_send_of_deidentified(options: ScoreOptions) -> None:
    """Refuse to send de-identified results unless asked: an archive cannot file them again."""
    wanted = bool(options.deidentify and options.send)
    if options.send_deidentified and not wanted:
        raise ConfigError(
            "Option has no effect here",
            found="--send-deidentified without --deidentify and --send",
        )
    if wanted and not options.send_deidentified:
        raise ConfigError(
            "De-identified results are not sent to an archive unless asked for",
            expected="--send-deidentified beside --deidentify and --send",
            found=f"--deidentify {options.deidentify} --send",
            fix="Leave --deidentify out to send results to the patient's own archive",
        )
