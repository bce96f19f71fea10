"""`pneumonia score`: radiographs of a folder or a PACS to a worklist, pictures and results."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.score_remote import (
    RemoteOptions,
    destination,
    paths_and_source,
    remote_options,
    send,
    show_sent,
)
from pneumonia.cli.terminal import log_to_stderr, progress_bar, show_next, show_table
from pneumonia.runtime.errors import DISCLAIMER, ConfigError, PartialFailure
from pneumonia.runtime.plurals import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pneumonia.runtime.model.detector import Detector
    from pneumonia.scoring.batch.run import ScoreSettings, ScoreSummary
    from pneumonia.scoring.image.records import ImageRecord
    from pneumonia.scoring.inputs import InputSource
    from pneumonia.scoring.network.send import SendSummary

MAX_FAILURES_SHOWN = 20
ENGINE_THREADS = max(1, (os.cpu_count() or 1) // 2)  # the other half decodes and writes
DICOM_KINDS = ("sr", "gsps", "sc")


@dataclass(frozen=True)
class ScoreOptions(RemoteOptions):
    """The options of `pneumonia score`, besides its paths and the bundle.

    Attributes:
        engine: Engine that runs the model.
        threshold: Operating point; None for the bundle's first.
        jobs: Processes that decode images.
        overlays: `findings`, `all` or `none`.
        dicom: Kinds of DICOM results.
        fhir, report, pdf: Further outputs.
        resume: Keep what the output holds of the same files.
        identifiers: Write accession number, study date and UIDs.
        deidentify: `basic` or None.
        send_deidentified: Whether --send may send results that name no patient.
        allow_burned_in: Take images with text in them although de-identifying.
        rules: File of rules; None for the shipped ones.
        dry_run: Only show what would be scored.
        force_read, allow_deflated, first_frame: Odd files that are taken.
        as_json: Print run.json on stdout, nothing else.
    """

    engine: str
    threshold: str | None
    jobs: int
    overlays: str
    dicom: tuple[str, ...]
    fhir: bool
    report: bool
    pdf: bool
    resume: bool
    identifiers: bool
    deidentify: str | None
    send_deidentified: bool
    allow_burned_in: bool
    rules: Path | None
    dry_run: bool
    force_read: bool
    allow_deflated: bool
    first_frame: bool
    as_json: bool


def _dicom_kinds(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...]:
    """`sr,sc` as ("sr", "sc"); `all` as every kind."""
    wanted = [kind.strip().lower() for kind in (value or "").split(",") if kind.strip()]
    if value is not None and (not wanted or set(wanted) - {*DICOM_KINDS, "all"}):
        raise click.BadParameter(f"{value!r} is not `all` or some of {','.join(DICOM_KINDS)}")
    return DICOM_KINDS if "all" in wanted else tuple(k for k in DICOM_KINDS if k in wanted)


def _show_rules(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from pneumonia.scoring.image.selection import rules_text

        click.echo(rules_text(), nl=False)
        context.exit()


def _verify_audit(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        from pneumonia.scoring.batch.audit import verify_audit

        found = verify_audit(value)
        click.echo(
            f"{value}: the audit log is unbroken ({counted(found.lines, 'line')} of "
            f"{counted(found.runs, 'run')}), and the outputs are those the last run wrote; "
            f"last hash {found.last_sha256}"
        )
        context.exit()


@click.command()
@click.argument("paths", metavar="[INPUT] OUTPUT", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Model bundle; the shipped one otherwise."
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "tensorrt", "kernels", "onnxruntime", "reference"]),
    default="auto",
    show_default=True,
    help="What runs the model; `auto` takes the fastest this machine offers.",
)
@click.option("--threshold", metavar="NAME", help="Operating point; the bundle's first otherwise.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=min(4, os.cpu_count() or 1),
    show_default=True,
    help="Processes that decode images.",
)
@click.option(
    "--overlays",
    type=click.Choice(["findings", "all", "none"]),
    default="findings",
    show_default=True,
    help="Which images get a picture with boxes.",
)
@click.option(
    "--dicom",
    metavar="KINDS",
    callback=_dicom_kinds,
    help="Write DICOM results beside their study: some of sr,gsps,sc, or all.",
)
@click.option("--fhir", is_flag=True, help="Write a FHIR R4 DiagnosticReport per image.")
@click.option(
    "--report/--no-report", default=True, show_default=True, help="Write report.html for reading."
)
@click.option("--pdf", is_flag=True, help="Also print the report to report.pdf (needs Chromium).")
@click.option(
    "--resume/--fresh",
    default=True,
    show_default=True,
    help="Keep what OUTPUT already holds of the same files, or score all again.",
)
@click.option(
    "--identifiers",
    is_flag=True,
    help="Write accession number and study date (worklist.csv), and UIDs (studies/).",
)
@click.option(
    "--deidentify",
    type=click.Choice(["basic"]),
    help="Outputs without anything that names a patient (PS3.15 Basic Profile).",
)
@click.option(
    "--send-deidentified",
    is_flag=True,
    help="With --deidentify and --send: send results that name no patient, to a research archive.",
)
@click.option("--allow-burned-in", is_flag=True, help="With --deidentify: take images with text.")
@click.option(
    "--rules", type=click.Path(path_type=Path), help="Which images are scored; see --show-rules."
)
@click.option(
    "--show-rules",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_rules,
    help="Print the rules that ship, and exit.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be scored; write nothing.")
@click.option(
    "--verify-audit",
    metavar="OUTPUT",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_verify_audit,
    help="Check that a finished OUTPUT is unchanged, and exit.",
)
@click.option("--force-read", is_flag=True, help="Take DICOM data without the 128-byte preamble.")
@click.option("--allow-deflated", is_flag=True, help="Take deflated DICOM.")
@click.option("--first-frame", is_flag=True, help="Take the first frame of multi-frame images.")
@remote_options
@click.option("--json", "as_json", is_flag=True, help="Print run.json on stdout, nothing else.")
def command(paths: tuple[Path, ...], bundle: Path | None, **chosen: Any) -> None:
    """Score the DICOM, PNG and JPEG radiographs below INPUT; write into OUTPUT.

    INPUT is a file, a folder, a zip or a DICOMDIR; with --dicomweb or --pacs there is none. A
    second run into the same OUTPUT scores only what is new. A file that cannot be scored never
    stops the batch: the manifest says why, and the exit code is 3. Research use only.
    """
    from pneumonia.runtime.model.detector import DEFAULT, Detector

    options = ScoreOptions(**chosen)
    source, out = paths_and_source(paths, options)
    target = destination(options)
    settings = _settings(options)
    log_to_stderr()
    # The workers of a cluster open the engine by its name, and may have no compiler.
    compile_missing = options.ray is None
    detector = Detector.load(bundle or DEFAULT, options.engine, ENGINE_THREADS, compile_missing)
    if options.dry_run:
        _show_plan(source, out, detector, settings, options.as_json)
        return
    summary = _score(source, out, detector, settings, options.ray)
    if options.as_json:
        click.echo(json.dumps(summary.document, indent=2))
    else:
        _show(summary, out)
    if summary.interrupted:
        raise KeyboardInterrupt
    sent = send(out, target) if target else None
    if sent and not options.as_json:
        show_sent(sent)
    _raise_failures(summary, sent, out)


def _score(
    source: "Path | InputSource",
    out: Path,
    detector: "Detector",
    settings: "ScoreSettings",
    cluster: str | None,
) -> "ScoreSummary":
    from pneumonia.scoring.batch.run import score_batch

    if cluster is None:
        with progress_bar("score") as progress:
            return score_batch(source, out, detector, settings, progress)
    from pneumonia.scoring.batch.cluster import ray_scorer

    with ray_scorer(cluster) as scorer, progress_bar("score") as progress:
        return score_batch(source, out, detector, settings, progress, scorer)


def _raise_failures(summary: "ScoreSummary", sent: "SendSummary | None", out: Path) -> None:
    failures = summary.failures()
    if failures:
        raise PartialFailure(
            "Some files could not be scored",
            found=f"{len(failures)} of {len(summary.records)}",
            where=str(out / "manifest.jsonl"),
        )
    if sent and sent.missing:
        raise PartialFailure(
            "Some results are not in the PACS",
            found=str(sent.missing),
            where=str(out / "sent.jsonl"),
            fix="Run the same command again: it sends what is missing",
        )


def _show_plan(
    source: "Path | InputSource",
    out: Path,
    detector: "Detector",
    settings: "ScoreSettings",
    as_json: bool,
) -> None:
    from pneumonia.scoring.batch.plan import SCORE, counts, plan_batch
    from pneumonia.scoring.batch.run import describe_model

    model = describe_model(detector, settings)
    with progress_bar("look") as progress:
        plan = plan_batch(source, out, settings, progress)
    if as_json:
        for item in plan:
            click.echo(json.dumps(item._asdict()))
        return
    title = (
        f"{counted(len(plan), 'file')}; {model.name} at threshold {model.threshold_name} "
        f"({model.threshold:.3f})"
    )
    show_table(f"{title}; nothing is written", ("would be", "files"), counts(plan))
    others = [item for item in plan if item.status not in (SCORE, "skipped")]
    for item in others[:MAX_FAILURES_SHOWN]:
        click.echo(f"would not be scored: {item.relative}: {item.status}: {item.reason}", err=True)


def _settings(options: ScoreOptions) -> "ScoreSettings":
    from pneumonia.runtime.child import ChildLimits
    from pneumonia.runtime.image.dicom_header import DEFAULT_LIMITS
    from pneumonia.scoring.batch.run import ScoreSettings
    from pneumonia.scoring.image.selection import load_rules
    from pneumonia.scoring.outputs import OutputSettings

    if options.allow_burned_in and not options.deidentify:
        raise ConfigError("Option has no use here", found="--allow-burned-in without --deidentify")
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
    """Results without a patient get into no archive by mistake: nobody could file them again."""
    wanted = bool(options.deidentify and options.send)
    if options.send_deidentified and not wanted:
        raise ConfigError(
            "Option has no use here",
            found="--send-deidentified without --deidentify and --send",
        )
    if wanted and not options.send_deidentified:
        raise ConfigError(
            "De-identified results are not sent to an archive unless asked for",
            expected="--send-deidentified beside --deidentify and --send",
            found=f"--deidentify {options.deidentify} --send",
            fix="Leave --deidentify out to send results to the patient's own archive",
        )


def _show_what_is_missing(outputs: dict[str, Any]) -> None:
    """Show requested outputs that could not be made; they do not stop a batch."""
    for reason, count in outputs.get("dicom", {}).get("not_made", {}).items():
        click.echo(f"no DICOM results: {counted(count, 'image')}: {reason}", err=True)
    if outputs.get("pdf", {"page": True})["page"] is None:
        click.echo(f"no report.pdf: {outputs['pdf']['reason']}", err=True)


def _show(summary: "ScoreSummary", out: Path) -> None:
    document = summary.document
    totals, model = document["totals"], document["model"]
    others = Counter(
        f"{record.status}: {record.reason}"
        for record in summary.records
        if record.status != "scored"
    )
    show_table(
        f"{counted(totals['files'], 'file')}, {totals['statuses']['scored']} scored with "
        f"{model['name']} "
        f"{model['model_hash'][:12]} at threshold {model['threshold_name']} "
        f"({model['threshold']:.3f}) by engine {model['engine']}"
        + (f"; {totals['reused']} of them in an earlier run" if totals["reused"] else ""),
        ("result", "files"),
        [*totals["flags"].items(), *others.most_common()],
    )
    _show_failures(summary.failures())
    outputs = document["outputs"]
    pages = [outputs[name]["page"] for name in ("report", "pdf") if name in outputs]
    written = ["worklist.csv", *(page for page in pages if page)]
    click.echo(f"{DISCLAIMER} Written: {', '.join(str(out / name) for name in written)}")
    _show_what_is_missing(outputs)
    _show_next(summary, out)


def _show_failures(failures: "Sequence[ImageRecord]") -> None:
    """Show the images without a score, each with a remedy; other files in one line."""
    from pneumonia.scoring.outputs.wording import reason_text

    images = [record for record in failures if not record.is_other_file]
    others = [record.file.relative for record in failures if record.is_other_file]
    for record in images[:MAX_FAILURES_SHOWN]:
        detail = f" ({record.file.detail})" if record.file.detail else ""
        click.echo(
            f"not scored: {record.file.relative}: {record.status}: {record.reason}{detail}: "
            f"{reason_text(record.reason)}",
            err=True,
        )
    if len(images) > MAX_FAILURES_SHOWN:
        click.echo(f"not scored: {len(images) - MAX_FAILURES_SHOWN} more", err=True)
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        click.echo(f"not images: {counted(len(others), 'file')} ({shown})", err=True)


def _show_next(summary: "ScoreSummary", out: Path) -> None:
    """The next step; a batch without scores must not look like one without findings."""
    if summary.document["totals"]["statuses"]["scored"]:
        report = summary.document["outputs"].get("report")
        show_next(f"open {out / (report['page'] if report else 'worklist.csv')}")
        if summary.document["input"] == "files":
            evaluate = f"pneumonia evaluate {out / 'predictions.csv'} LABELS --out DIR"
            click.echo(f"with labels of these images: {evaluate}")
        return
    if not summary.records:
        click.echo("Nothing was scored: there is no file in the input, or no study matches")
        return
    click.echo(f"Nothing was scored: {out / 'manifest.jsonl'} gives the reason for each file")
    show_next("pneumonia score --show-rules")
