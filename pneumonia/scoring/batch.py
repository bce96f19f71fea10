"""Score a folder: find, decode in children, detect, write; one bad file never stops the rest."""

import hashlib
import json
import platform
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from pneumonia import __version__
from pneumonia.runtime.atomic import write_bytes, write_json, write_text
from pneumonia.runtime.bundle import MODEL_CARD
from pneumonia.runtime.detector import Detector
from pneumonia.runtime.errors import DISCLAIMER, DeviceError, InferenceError
from pneumonia.runtime.predictions import write_predictions
from pneumonia.runtime.results.facts import NEGATIVE, ResultFacts
from pneumonia.scoring.decoding import Decoded, DecodeLimits, DecodeWorker
from pneumonia.scoring.find import FoundFile, find_files
from pneumonia.scoring.folder import check_apart, locked_folder, remove_stale
from pneumonia.scoring.outputs import FinishedBatch, OutputSettings, ScoredStudy, open_writers
from pneumonia.scoring.overlay import draw_overlay
from pneumonia.scoring.records import (
    FAILURES,
    ImageRecord,
    Model,
    read_study,
    salted_key,
    study_document,
)
from pneumonia.scoring.selection import is_another_examination, select_image
from pneumonia.scoring.tables import manifest_text, totals, worklist_text

Progress = Callable[[int, int, str], None]
SCHEMA = "pneumonia.score/1"
OVERLAYS = ("findings", "all", "none")
PACKAGES = ("numpy", "onnxruntime", "pillow", "pydicom", "pyjpegls", "python-gdcm")
# Ends of names that no radiograph has: such files lie in export folders and are no failure.
OTHER_FILES: tuple[str, ...] = (
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".xml",
    ".html",
    ".htm",
    ".md",
    ".pdf",
)
OTHER_FILES += (".log", ".ini", ".yaml", ".yml", ".db", ".exe", ".inf", ".zip")


@dataclass(frozen=True)
class ScoreSettings:
    """How a batch is scored.

    Attributes:
        threshold_name: Operating point of the bundle; None takes its first.
        limits: Bounds of reading and of the child processes.
        overlays: `findings` (positive and indeterminate), `all` or `none`.
        jobs: Child processes that decode.
        fresh: Score again what an earlier run into the same folder has scored.
        identifiers: Write accession number and study date into the worklist.
        outputs: What is written besides the tables, study files and overlays.
    """

    threshold_name: str | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    overlays: str = "findings"
    jobs: int = 1
    fresh: bool = False
    identifiers: bool = False
    outputs: OutputSettings = field(default_factory=OutputSettings)


@dataclass(frozen=True)
class ScoreSummary:
    """The result of a batch: one record per file found, and the document in run.json."""

    records: tuple[ImageRecord, ...]
    document: dict[str, Any]
    interrupted: bool

    def failures(self) -> list[ImageRecord]:
        """Files that should have been scored and were not."""
        return [record for record in self.records if record.status in FAILURES]


def describe_model(detector: Detector, settings: ScoreSettings) -> Model:
    """The model, its operating point, and the digest of everything that changes an output.

    Raises:
        ConfigError: Unknown operating point.
    """
    bundle = detector.bundle
    name = settings.threshold_name or next(iter(detector.bundle.operating_points), "")
    threshold = bundle.threshold(name)
    engine = detector.engine.name
    parts = [__version__, engine, name, threshold, settings.overlays]
    parts += [detector.settings, settings.limits.read._asdict()]
    digest = hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()
    version = ResultFacts.of_bundle(bundle, name).model_version
    return Model(bundle.model_name, bundle.model_hash, name, threshold, engine, digest, version)


def software_versions() -> dict[str, str]:
    """Versions of what made the numbers."""
    versions = {"pneumonia": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


class _Batch:
    """One run over one output folder."""

    def __init__(
        self, detector: Detector, model: Model, settings: ScoreSettings, out: Path, salt: str
    ) -> None:
        self.detector = detector
        self.model = model
        self.settings = settings
        self.out = out
        self.salt = salt
        self.versions = software_versions()
        self.local = threading.local()
        self.cleanup = ExitStack()
        self.writers = open_writers(
            settings.outputs, out, model, detector.bundle, settings.overlays
        )

    def study_path(self, key: str) -> Path:
        return self.out / "studies" / f"{key}.json"

    def overlay_path(self, key: str) -> Path:
        return self.out / "overlay" / f"{key}.png"

    # --- in the decoding threads ---

    def decode(self, file: FoundFile) -> tuple[str, ImageRecord | None, Decoded | None]:
        """(key, what an earlier run left, what the child says); the latter None for non-files."""
        key = salted_key(self.salt, file.relative)
        if file.skipped:
            return key, None, None
        earlier = None if self.settings.fresh else self.earlier(file, key)
        if not hasattr(self.local, "worker"):
            needed = any(writer.needs_header for writer in self.writers)
            self.local.worker = DecodeWorker(self.settings.limits, with_header=needed)
            self.cleanup.callback(self.local.worker.close)
        decoded = self.local.worker.decode(file.path, earlier.sha256 if earlier else "")
        return key, earlier, decoded

    def earlier(self, file: FoundFile, key: str) -> ImageRecord | None:
        record = read_study(self.study_path(key), file, key, self.model)
        if record is None or self.settings.identifiers:
            return None
        missing = self.wants_overlay(record) and not self.overlay_path(key).is_file()
        whole = all(writer.is_complete(record) for writer in self.writers)
        return record if whole and not missing else None

    # --- in the main thread ---

    def finish(
        self, file: FoundFile, key: str, earlier: ImageRecord | None, decoded: Decoded | None
    ) -> ImageRecord:
        """Select, detect and write one file."""
        if decoded is None:
            return ImageRecord(file, key, "skipped", file.skipped)
        if decoded.status == "known" and earlier is not None:
            return earlier
        record = self.base_record(file, key, decoded)
        if decoded.pixels is None:
            return _refused(record, decoded)
        selection = select_image(decoded.info, decoded.warnings)
        record = replace(record, warnings=selection.warnings)
        if selection.status:
            return replace(record, status=selection.status, reason=selection.reason)
        started = time.perf_counter()
        try:
            prediction = self.detector.detect(decoded.pixels, file.image_id)
        except InferenceError:
            return replace(record, status="failed", reason="invalid_output")
        except DeviceError:
            return replace(record, status="failed", reason="engine_error")
        timings = dict(record.timings_ms, detect=_milliseconds(time.perf_counter() - started))
        words = record.warnings
        if len(prediction.scores) >= self.detector.settings.max_boxes:
            words += ("box_limit_reached",)
        record = replace(
            record, status="scored", prediction=prediction, timings_ms=timings, warnings=words
        )
        self.write(record, decoded)
        return record

    def base_record(self, file: FoundFile, key: str, decoded: Decoded) -> ImageRecord:
        study = decoded.identity.get("StudyInstanceUID") or file.relative
        return ImageRecord(
            file=file,
            key=key,
            status="failed",
            study_key=salted_key(self.salt, "study", study),
            sha256=decoded.sha256,
            n_bytes=decoded.n_bytes,
            info=decoded.info,
            warnings=decoded.warnings,
            timings_ms={"decode": _milliseconds(decoded.seconds)},
            identity=decoded.identity if self.settings.identifiers else {},
        )

    def wants_overlay(self, record: ImageRecord) -> bool:
        if self.settings.overlays == "findings":
            return record.flag(self.model.threshold) != NEGATIVE
        return self.settings.overlays == "all"

    def write(self, record: ImageRecord, decoded: Decoded) -> None:
        assert decoded.pixels is not None
        if self.wants_overlay(record):
            shown = record.above(self.model.threshold)
            assert shown is not None
            picture = draw_overlay(decoded.pixels, shown.boxes, shown.scores, self.model.caption())
            write_bytes(str(self.overlay_path(record.key)), picture)
        study = ScoredStudy(record, decoded.pixels, decoded.header)
        for writer in self.writers:
            writer.write(study)
        # the study file comes last: it says that the other outputs of the image are there
        document = study_document(record, self.model, self.versions)
        write_json(str(self.study_path(record.key)), document)

    def write_tables(self, records: Sequence[ImageRecord], document: dict[str, Any]) -> None:
        scored = [record.prediction for record in records if record.prediction is not None]
        write_predictions(str(self.out / "predictions.csv"), scored)
        write_text(str(self.out / "worklist.csv"), worklist_text(records, self.model))
        write_text(str(self.out / "manifest.jsonl"), manifest_text(records))
        finished = FinishedBatch(records, document)
        document["outputs"] = {writer.name: writer.finish(finished) for writer in self.writers}
        write_json(str(self.out / "run.json"), document)
        remove_stale(self.out / "studies", {r.key for r in records if r.status == "scored"})
        remove_stale(self.out / "overlay", {r.key for r in records if self.has_overlay(r)})

    def has_overlay(self, record: ImageRecord) -> bool:
        return record.status == "scored" and self.wants_overlay(record)


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _refused(record: ImageRecord, decoded: Decoded) -> ImageRecord:
    status, reason = decoded.status, decoded.reason
    name = record.file.relative.rsplit("/", 1)[-1].lower()
    if reason == "not_dicom" and (name.startswith(".") or name.endswith(OTHER_FILES)):
        status, reason = "skipped", "other_file"
    if is_another_examination(decoded.info):
        status, reason = "skipped", "not_frontal_chest"
    return replace(record, status=status, reason=reason)


def _in_order(
    batch: _Batch, files: Sequence[FoundFile], jobs: int
) -> Generator[tuple[FoundFile, "Future[Any]"], None, None]:
    """Decode ahead in `jobs` threads, a few files at most; give the results in order."""
    with ThreadPoolExecutor(jobs) as pool:
        waiting = iter(files)
        ahead = [(file, pool.submit(batch.decode, file)) for file in islice(waiting, 2 * jobs)]
        try:
            while ahead:
                yield ahead.pop(0)
                ahead += [(file, pool.submit(batch.decode, file)) for file in islice(waiting, 1)]
        finally:
            for _, future in ahead:
                future.cancel()


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that the current image finishes; a second one acts.

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


def score_batch(
    source: Path,
    out: Path,
    detector: Detector,
    settings: ScoreSettings | None = None,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Score every radiograph below a path.

    Writes predictions.csv, worklist.csv, manifest.jsonl, run.json, studies/ and overlay/. A second
    run into the same folder with the same model and settings scores only what is new or changed.
    Ctrl-C lets the current image finish, writes the tables (the rest is `pending`) and returns.

    Args:
        source: A file or folder; never written to.
        out: Output folder, created when missing.
        detector: Model and engine.
        settings: How to score; None takes the defaults.
        progress: Called with (files done, files, a short note).

    Raises:
        ConfigError: The input does not exist, the output lies inside it, or the operating point is
            unknown.
        OutputError: The output folder cannot be written or is in use.
    """
    settings = settings or ScoreSettings()
    model = describe_model(detector, settings)
    check_apart(source, out)
    files = find_files(source)
    started = datetime.now(UTC)
    with locked_folder(out) as salt:
        batch = _Batch(detector, model, settings, out, salt)
        records: list[ImageRecord] = []
        queue = _in_order(batch, files, settings.jobs)
        with batch.cleanup, closing(queue), deferred_interrupt() as interrupt:
            for file, future in queue:
                records.append(batch.finish(file, *future.result()))
                if progress is not None:
                    progress(len(records), len(files), records[-1].status)
                if interrupt.is_set():
                    break
        interrupted = interrupt.is_set()
        records += [
            ImageRecord(file, salted_key(salt, file.relative), "pending", "interrupted")
            for file in files[len(records) :]
        ]
        document = _document(records, model, settings, detector, interrupted)
        finished = datetime.now(UTC)
        document["times"] = {
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
        }
        batch.write_tables(records, document)
    return ScoreSummary(tuple(records), document, interrupted)


def _document(
    records: Sequence[ImageRecord],
    model: Model,
    settings: ScoreSettings,
    detector: Detector,
    interrupted: bool,
) -> dict[str, Any]:
    failed = any(record.status in FAILURES for record in records)
    return {
        "schema": SCHEMA,
        "disclaimer": DISCLAIMER,
        "exit_reason": "interrupted" if interrupted else "some_failed" if failed else "all_scored",
        "totals": totals(records, model),
        "model": asdict(model),
        "operating_points": detector.bundle.operating_points,
        "model_card": detector.bundle.file(MODEL_CARD),
        "settings": {
            "decode": detector.settings._asdict(),
            "read": settings.limits.read._asdict(),
            "overlays": settings.overlays,
            "jobs": settings.jobs,
        },
        "versions": software_versions(),
    }
