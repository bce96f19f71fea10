"""What `pneumonia score` shows: the plan of a dry run, the results and failures of a batch."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.terminal import progress_bar, shell_command, show_next, show_table
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pneumonia.runtime.detection.detector import Detector
    from pneumonia.scoring.batch.run import ScoreSettings, ScoreSummary
    from pneumonia.scoring.image.records import ImageRecord
    from pneumonia.scoring.inputs import InputSource

MAX_FAILURES_SHOWN = 20


def show_plan(
    source: "Path | InputSource",
    out: Path,
    detector: "Detector",
    settings: "ScoreSettings",
    as_json: bool,
) -> None:
    """Show what a batch would score, and each file that it would leave out with its reason."""
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


def _show_what_is_missing(outputs: dict[str, Any]) -> None:
    """Show requested outputs that could not be made; they do not stop a batch."""
    for reason, count in outputs.get("dicom", {}).get("not_made", {}).items():
        click.echo(f"no DICOM results: {counted(count, 'image')}: {reason}", err=True)
    if outputs.get("pdf", {"page": True})["page"] is None:
        click.echo(f"no report.pdf: {outputs['pdf']['reason']}", err=True)


def show_summary(summary: "ScoreSummary", out: Path) -> None:
    """Show counts by result, the images without a score, the files written, and the next step."""
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
        + (f"; {totals['reused']} of them in an earlier run" if totals["reused"] else "")
        + (f", {totals['unchecked']} not fetched again" if totals["unchecked"] else ""),
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

    images = [record for record in failures if not record.is_not_an_image]
    others = [record.file.relative for record in failures if record.is_not_an_image]
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
        show_next("open {}", out / (report["page"] if report else "worklist.csv"))
        if summary.document["input"] == "files":
            predictions = out / "predictions.csv"
            evaluate = shell_command("pneumonia evaluate {} LABELS --out DIR", predictions)
            click.echo(f"with labels of these images: {evaluate}")
        return
    if not summary.records:
        click.echo("Nothing was scored: there is no file in the input, or no study matches")
        return
    click.echo(f"Nothing was scored: {out / 'manifest.jsonl'} gives the reason for each file")
    show_next("pneumonia score --show-rules")
