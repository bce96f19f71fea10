"""Score a batch: query, fetch, score, write the tables; one bad file never stops the rest."""

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pneumonia.runtime.atomic import write_json, write_text
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.errors import DISCLAIMER, OutputError
from pneumonia.runtime.model.predictions import write_predictions
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.runtime.storage.bundle import MODEL_CARD
from pneumonia.scoring.batch.audit import (
    FAILED,
    FINISHED,
    STARTED,
    STUDIES,
    AuditLog,
    output_digests,
)
from pneumonia.scoring.batch.folder import (
    FETCHED,
    locked_folder,
    remove_fetched,
    remove_parts,
)
from pneumonia.scoring.batch.image_job import ImageJob
from pneumonia.scoring.batch.pipeline import Stop, score_in_order
from pneumonia.scoring.image.deidentify import rename_to_keys
from pneumonia.scoring.image.find import FoundFile, assign_names
from pneumonia.scoring.image.records import FAILURES, ImageRecord, add_conflict_warnings
from pneumonia.scoring.inputs import InputSource
from pneumonia.scoring.inputs.files import FileInput
from pneumonia.scoring.outputs import FinishedBatch
from pneumonia.scoring.outputs.protocol import remove_others
from pneumonia.scoring.outputs.tables import manifest_text, totals, worklist_text
from pneumonia.scoring.settings import (
    ScoreSettings,
    describe_model,
    selected_on,
    software_versions,
)

__all__ = ["ScoreSettings", "ScoreSummary", "Scorer", "describe_model", "score_batch"]

Scorer = Callable[[ImageJob, Sequence[FoundFile], int, Stop], Generator[ImageRecord, None, None]]
SCHEMA = "pneumonia.score/1"


@dataclass(frozen=True)
class ScoreSummary:
    """The result of a batch.

    Attributes:
        records: One per file found.
        document: Contents of run.json.
        interrupted: Whether Ctrl-C ended it; the files left are `pending`.
    """

    records: tuple[ImageRecord, ...]
    document: dict[str, Any]
    interrupted: bool

    def failures(self) -> list[ImageRecord]:
        """Files that should have been scored and were not."""
        return [record for record in self.records if record.status in FAILURES]


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that the current image finishes; the second aborts.

    Outside of the main thread, where signals cannot be caught, nothing changes.
    """
    interrupt = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def note(number: int, frame: object) -> None:
        if interrupt.is_set():
            raise KeyboardInterrupt
        interrupt.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


class _Batch:
    """One run over one output folder, which is locked."""

    def __init__(
        self, job: ImageJob, source: InputSource, scorer: Scorer, progress: Progress | None
    ) -> None:
        self.job = job
        self.source = source
        self.scorer = scorer
        self.progress = progress
        self.audit = AuditLog(job.out)

    def run(self) -> ScoreSummary:
        """Score, write the tables, and record the outcome in the audit log."""
        started = datetime.now(UTC)
        job = self.job
        self.audit.append(
            STARTED,
            input=self.source.kind,
            endpoint=self.source.endpoint,
            model=job.model.name,
            model_version=job.model.version,
            model_hash=job.model.model_hash,
            threshold_name=job.model.threshold_name,
            threshold=job.model.threshold,
            settings_hash=job.model.settings_hash,
            arguments=arguments(job.settings),
            disclaimer=DISCLAIMER,
        )
        try:
            files = self.files()
            scored, interrupted = self.score(files)
            records = add_conflict_warnings(scored)
            document = self.document(records, interrupted)
            document["times"] = {
                "started": started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            self.write_tables(records, document)
        except BaseException as error:
            with suppress(OutputError):  # the disk may be full; the first error is reported
                self.audit.append(FAILED, error=type(error).__name__)
            raise
        if not interrupted:
            remove_fetched(job.out)
        return ScoreSummary(tuple(records), document, interrupted)

    def files(self) -> list[FoundFile]:
        """All files of the input; those on a server are fetched first."""
        job = self.job
        found = self.source.query(job.settings)
        fetched = self.source.fetch(found, job.out / FETCHED, self._is_done, self.progress)
        return self._named(fetched)

    def _is_done(self, entry: FoundFile) -> bool:
        if self.job.settings.refetch:
            return False
        (file,) = self._named([entry])
        return self.job.earlier(file) is not None

    def _named(self, entries: list[FoundFile]) -> list[FoundFile]:
        files = assign_names(entries)
        return rename_to_keys(files, self.job.salt) if self.job.settings.deidentify else files

    def score(self, files: Sequence[FoundFile]) -> tuple[list[ImageRecord], bool]:
        """Records of all files, and whether Ctrl-C left some of them pending."""
        records: list[ImageRecord] = []
        not_scored = 0
        started = time.monotonic()
        with deferred_interrupt() as interrupt:
            scored = self.scorer(self.job, files, self.job.settings.jobs, interrupt.is_set)
            with closing(scored) as queue:
                for record in queue:
                    records.append(record)
                    not_scored += record.status in FAILURES
                    rate = len(records) / max(1e-9, time.monotonic() - started)
                    note = f"{rate:.1f} files/s, {not_scored} not scored"
                    report_progress(self.progress, len(records), len(files), note)
            # the last image may have been in progress at the signal: then nothing is pending
            interrupted = interrupt.is_set()
        records += [
            ImageRecord(file, self.job.key_of(file), "pending", "interrupted")
            for file in files[len(records) :]
        ]
        return records, interrupted

    def document(self, records: Sequence[ImageRecord], interrupted: bool) -> dict[str, Any]:
        """The content of run.json without its times, outputs and audit."""
        failed = any(record.status in FAILURES for record in records)
        reason = "interrupted" if interrupted else "some_failed" if failed else "all_scored"
        bundle = self.job.detector.bundle
        return {
            "schema": SCHEMA,
            "disclaimer": DISCLAIMER,
            "exit_reason": reason,
            "input": self.source.kind,
            "endpoint": self.source.endpoint,
            "totals": totals(records, self.job.model),
            "model": asdict(self.job.model),
            "operating_points": bundle.operating_points,
            "operating_points_selected_on": selected_on(bundle),
            "model_card": bundle.file(MODEL_CARD),
            "settings": {
                "decode": self.job.detector.settings._asdict(),
                **arguments(self.job.settings),
                "rules": self.job.settings.rules.model_dump(mode="json"),
            },
            "versions": software_versions(),
        }

    def write_tables(self, records: Sequence[ImageRecord], document: dict[str, Any]) -> None:
        out, job = self.job.out, self.job
        done = sum(record.status != "pending" for record in records)
        report_progress(self.progress, done, len(records), "writing tables and report")
        scored = [record.prediction for record in records if record.prediction is not None]
        write_predictions(str(out / "predictions.csv"), scored)
        write_text(str(out / "worklist.csv"), worklist_text(records, job.model))
        write_text(str(out / "manifest.jsonl"), manifest_text(records, job.model))
        finished = FinishedBatch(records, document)
        entries = {writer.name: writer.finish(finished) for writer in job.writers}
        document["outputs"] = {name: entry for name, entry in entries.items() if entry}
        remove_others(out / STUDIES, finished.scored_keys())
        self.audit.append(
            FINISHED,
            exit_reason=document["exit_reason"],
            totals=document["totals"],
            outputs_sha256=output_digests(out),
        )
        document["audit"] = self.audit.state
        write_json(str(out / "run.json"), document)


def arguments(settings: ScoreSettings) -> dict[str, Any]:
    """The options of a run, without paths and patient identifiers."""
    return {
        "read": settings.limits.read._asdict(),
        "memory_mb": settings.limits.memory_mb,
        "seconds": settings.limits.seconds,
        "overlays": settings.overlays,
        "jobs": settings.jobs,
        "fresh": settings.fresh,
        "refetch": settings.refetch,
        "identifiers": settings.identifiers,
        "deidentify": settings.deidentify,
        "allow_burned_in": settings.allow_burned_in,
        "rules_sha256": settings.rules.digest(),
        "outputs": asdict(settings.outputs),
    }


def score_batch(
    source: str | Path | InputSource,
    out: str | Path,
    detector: Detector,
    settings: ScoreSettings | None = None,
    progress: Progress | None = None,
    scorer: Scorer = score_in_order,
) -> ScoreSummary:
    """Score every radiograph of an input.

    Writes predictions.csv, worklist.csv, manifest.jsonl, run.json, audit.jsonl, studies/, overlay/
    and the outputs of the settings. A second run into the same folder with the same model and
    settings scores only what is new or changed. On Ctrl-C the images in progress finish, the
    tables are written (the other files are `pending`) and the function returns.

    Args:
        source: A file or folder (never written to), or another input.
        out: Output folder, created when missing.
        scorer: What scores the files; this machine, or `cluster.score_on_ray`.

    Raises:
        ConfigError: The input does not exist, the output lies inside it, or the operating point is
            unknown.
        DataError: A server cannot be queried.
        OutputError: The output folder cannot be written or is in use.
    """
    settings = settings or ScoreSettings()
    model = describe_model(detector, settings)
    origin = FileInput(Path(source)) if isinstance(source, str | Path) else source
    out = Path(out)
    origin.check(out)
    with locked_folder(out) as salt:
        remove_parts(out)
        job = ImageJob(detector, model, settings, out, salt)
        return _Batch(job, origin, scorer, progress).run()
