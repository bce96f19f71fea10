"""`pneumonia score`: radiographs of a folder or a PACS to a worklist, pictures and results."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.options import PATH, collected
from pneumonia.cli.scoring.options import (
    ScoreOptions,
    checked_settings,
    dicom_kinds,
    selection_rules,
)
from pneumonia.cli.scoring.remote import (
    destination,
    paths_and_source,
    remote_options,
    send,
    show_sent,
)
from pneumonia.cli.scoring.summary import show_plan, show_summary
from pneumonia.cli.terminal import log_to_stderr, progress_bar
from pneumonia.runtime.errors import PartialFailure
from pneumonia.runtime.text import counted

if TYPE_CHECKING:
    from pneumonia.runtime.detection.detector import Detector
    from pneumonia.scoring.batch.run import ScoreSettings, ScoreSummary
    from pneumonia.scoring.batch.send import SendSummary
    from pneumonia.scoring.inputs import InputSource

ENGINE_THREADS = max(1, (os.cpu_count() or 1) // 2)  # the other half decodes and writes


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
@click.argument("paths", metavar="[INPUT] OUTPUT", nargs=-1, type=PATH)
@click.option("--bundle", type=PATH, help="Model bundle; default: the shipped one.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "tensorrt", "kernels", "onnxruntime", "reference"]),
    default="auto",
    show_default=True,
    help="Engine that runs the model; `auto` is the fastest one that works here.",
)
@click.option(
    "--threshold",
    "threshold_name",
    metavar="NAME",
    help="Operating point; default: the bundle's first.",
)
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
    help="Images for which a picture with boxes is written.",
)
@click.option(
    "--dicom",
    metavar="KINDS",
    callback=dicom_kinds,
    help="Write DICOM results beside their study: some of sr,gsps,sc, or all.",
)
@click.option("--fhir", is_flag=True, help="Write a FHIR R4 DiagnosticReport per image.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write report.html.")
@click.option("--pdf", is_flag=True, help="Also print the report to report.pdf (needs Chromium).")
@click.option(
    "--resume/--fresh",
    "fresh",
    default=True,
    show_default=True,
    callback=lambda context, parameter, value: not value,
    help="Keep results of the same files in OUTPUT, or score all files again.",
)
@click.option(
    "--identifiers",
    is_flag=True,
    help="Write accession number and study date (worklist.csv), and UIDs (studies/).",
)
@click.option(
    "--deidentify",
    type=click.Choice(["basic"]),
    callback=lambda context, parameter, value: value or "",
    help="De-identify all outputs (PS3.15 Basic Profile).",
)
@click.option(
    "--send-deidentified",
    is_flag=True,
    help="With --deidentify and --send: confirm sending de-identified results (research archive).",
)
@click.option(
    "--allow-burned-in", is_flag=True, help="With --deidentify: accept images with burned-in text."
)
@click.option(
    "--rules",
    type=PATH,
    callback=selection_rules,
    help="Rules for which images are scored; see --show-rules.",
)
@click.option(
    "--show-rules",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_rules,
    help="Print the shipped rules and exit.",
)
@click.option("--dry-run", is_flag=True, help="Show which files would be scored; write nothing.")
@click.option(
    "--verify-audit",
    metavar="OUTPUT",
    type=PATH,
    is_eager=True,
    expose_value=False,
    callback=_verify_audit,
    help="Check that a finished OUTPUT is unchanged, and exit.",
)
@click.option("--force-read", is_flag=True, help="Accept DICOM data without the 128-byte preamble.")
@click.option("--allow-deflated", is_flag=True, help="Accept deflated DICOM.")
@click.option("--first-frame", is_flag=True, help="Score the first frame of multi-frame images.")
@remote_options
@click.option("--json", "as_json", is_flag=True, help="Print run.json on stdout, nothing else.")
@collected("pneumonia.runtime.image.read_limits:ReadLimits", "read")
@collected("pneumonia.runtime.child:ChildLimits", "limits")
@collected("pneumonia.scoring.outputs:OutputSettings", "outputs")
@collected("pneumonia.scoring.batch.run:ScoreSettings", "settings")
@collected("pneumonia.cli.scoring.options:ScoreOptions")
def command(
    paths: tuple[Path, ...],
    bundle: Path | None,
    settings: "ScoreSettings",
    options: ScoreOptions,
) -> None:
    """Score the DICOM, PNG and JPEG radiographs below INPUT; write into OUTPUT.

    INPUT is a file, a folder, a zip or a DICOMDIR; with --dicomweb or --pacs there is none. A
    second run into the same OUTPUT scores only what is new. A file that cannot be scored never
    stops the batch: manifest.jsonl has the reason, and the exit code is 3. Research use only.
    """
    from pneumonia.runtime.detection.detector import DEFAULT, Detector

    source, out = paths_and_source(paths, options)
    target = destination(options)
    settings = checked_settings(settings, options)
    log_to_stderr()
    # The workers of a cluster open the engine by its name, and may have no compiler.
    compile_missing = options.ray is None
    detector = Detector.load(bundle or DEFAULT, options.engine, ENGINE_THREADS, compile_missing)
    if options.dry_run:
        show_plan(source, out, detector, settings, options.as_json)
        return
    summary = _score(source, out, detector, settings, options.ray)
    if options.as_json:
        click.echo(json.dumps(summary.document, indent=2))
    else:
        show_summary(summary, out)
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
        also = f", and {sent.missing} results not in the PACS" if sent and sent.missing else ""
        raise PartialFailure(
            "Some files could not be scored",
            found=f"{len(failures)} of {len(summary.records)}{also}",
            where=str(out / "manifest.jsonl") + (f" and {out / 'sent.jsonl'}" if also else ""),
        )
    if sent and sent.missing:
        raise PartialFailure(
            "Some results are not in the PACS",
            found=str(sent.missing),
            where=str(out / "sent.jsonl"),
            fix="Run the same command again: it sends what is missing",
        )
