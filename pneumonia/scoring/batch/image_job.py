"""The steps of one image: decode in a child, select, detect, make its files. Runs anywhere."""

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pneumonia.runtime.atomic import FileGroup, json_bytes
from pneumonia.runtime.child import DecodedFile, DecodingChild, FileRequest, Wanted
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.errors import DeviceError, InferenceError
from pneumonia.runtime.results import header_from_bytes
from pneumonia.scoring.batch.audit import STUDIES
from pneumonia.scoring.image.deidentify import deidentified_header
from pneumonia.scoring.image.expected import STATUS_OF
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.image.growing import has_grown
from pneumonia.scoring.image.records import (
    FAILURES,
    ImageRecord,
    ScoringModel,
    read_study,
    salted_key,
    study_document,
)
from pneumonia.scoring.image.selection import refusal, select_image
from pneumonia.scoring.outputs import ScoredStudy, open_writers
from pneumonia.scoring.settings import ScoreSettings, software_versions

Plan = tuple[ImageRecord | None, FileRequest | None]  # an earlier run's record; what to decode


class ReadFile(NamedTuple):
    """A file after decoding."""

    file: FoundFile  # the file
    key: str  # its salted key
    earlier: ImageRecord | None  # record of an earlier run, None when the file has to be scored
    # the child's answer; None for entries whose status is known without reading
    decoded: DecodedFile | None


class RenderedStudy(NamedTuple):
    """The files of one image, by their path below the output folder."""

    outputs: dict[str, bytes]  # files of the output writers
    study: dict[str, bytes]  # the study file


class ImageJob:
    """The steps of one image in one output folder."""

    def __init__(
        self, detector: Detector, model: ScoringModel, settings: ScoreSettings, out: Path, salt: str
    ) -> None:
        self.detector = detector
        self.model = model
        self.settings = settings
        self.out = out
        self.salt = salt
        self.versions = software_versions()
        self.writers = open_writers(
            settings.outputs, out, model, detector.bundle, settings.overlays
        )
        self._group = FileGroup()
        self._local = threading.local()
        self._cleanup = ExitStack()

    def close(self) -> None:
        """End the child processes, and delete what was written and not committed."""
        self._cleanup.close()
        self._group.discard()

    def key_of(self, file: FoundFile) -> str:
        """The salted key of a file; a de-identified file already has it as its name."""
        if self.settings.deidentify:
            return file.image_id
        return salted_key(self.salt, file.relative)

    # --- decode: may run in several threads, each with its own child ---

    def read(self, file: FoundFile, following: FoundFile | None = None) -> ReadFile:
        """Decode a file in this thread's child process unless an earlier run scored its bytes.

        Args:
            following: The file of this thread's next call; the child begins with it at once.
        """
        if file.status:
            return self.unread_result(file)
        key = self.key_of(file)
        earlier, request = self._planned(file)
        if request is None:
            return ReadFile(file, key, earlier, DecodedFile("known"))
        next_request = None
        if following is not None and not following.status:
            self._local.planned, self._local.plan = following, self._plan(following)
            _, next_request = self._local.plan
        decoded = self._child().decode(*request, next_request)
        was_read = bool(decoded.sha256) and file.member < 0  # as far as its last byte
        if decoded.status in FAILURES and was_read and has_grown(file.path, decoded.n_bytes):
            decoded = self._child().decode(*request)
        return ReadFile(file, key, earlier, decoded)

    def _planned(self, file: FoundFile) -> Plan:
        """`_plan`, if the call before has not made it."""
        if getattr(self._local, "planned", None) is file:
            plan: Plan = self._local.plan
            return plan
        return self._plan(file)

    def _plan(self, file: FoundFile) -> Plan:
        earlier = self.earlier(file)
        if earlier and not file.path:  # of a server, and not fetched again
            return earlier, None
        return earlier, FileRequest(file.path, earlier.sha256 if earlier else "", file.member)

    def unread_result(self, file: FoundFile) -> ReadFile:
        """The result for a file whose status is known without reading it."""
        return ReadFile(file, self.key_of(file), None, None)

    def refused(self, file: FoundFile, status: str, reason: str) -> ImageRecord:
        """The record of a file that could not be read."""
        decoded = DecodedFile(status, reason)
        return self._refused(self._record(file, self.key_of(file), decoded), decoded)

    def _child(self) -> DecodingChild:
        if not hasattr(self._local, "child"):
            rules = self.settings.rules
            wanted = Wanted(
                header=any(writer.needs_header for writer in self.writers),
                words_against=rules.words_against,
                words_wanted=rules.words_wanted,
            )
            self._local.child = DecodingChild(self.settings.limits, wanted)
            self._cleanup.callback(self._local.child.close)
        child: DecodingChild = self._local.child
        return child

    def earlier(self, file: FoundFile) -> ImageRecord | None:
        """The record of an earlier run, if all its outputs exist; the bytes may differ."""
        if self.settings.fresh or self.settings.identifiers:
            return None
        key = self.key_of(file)
        path = self.out / STUDIES / f"{key}.json"
        record = read_study(path, file, key, self.model, self._revision_key(file))
        if record is None or not all(writer.is_complete(record) for writer in self.writers):
            return None
        return record

    def _revision_key(self, file: FoundFile) -> str:
        revision = file.expected.revision if file.expected else ""
        return salted_key(self.salt, "revision", revision) if revision else ""

    # --- detect: one image at a time ---

    def detect(self, read: ReadFile) -> tuple[ImageRecord, ScoredStudy | None]:
        """Select and detect.

        Returns:
            The record, and the input of `render` unless the image has no files.
        """
        file, key, earlier, decoded = read
        if decoded is None:
            return ImageRecord(file, key, file.status, file.reason, info=dict(file.codes)), None
        if decoded.status == "known" and earlier is not None:
            return earlier, None
        record = self._record_before_detection(file, key, decoded)
        if decoded.pixels is None or record.reason:
            return record, None
        started = time.perf_counter()
        try:
            prediction = self.detector.predict(decoded.pixels, file.image_id)
        except InferenceError:
            return replace(record, status="failed", reason="invalid_output"), None
        except DeviceError:
            return replace(record, status="failed", reason="engine_error"), None
        timings = dict(record.timings_ms, detect=_milliseconds(time.perf_counter() - started))
        warnings = record.warnings
        if earlier is not None and earlier.conflicts_with(record):
            warnings += ("image_changed",)
        if len(prediction.scores) >= self.detector.settings.max_boxes:
            warnings += ("box_limit_reached",)
        record = replace(
            record, status="scored", prediction=prediction, timings_ms=timings, warnings=warnings
        )
        header = header_from_bytes(decoded.header) if decoded.header else None
        digest = decoded.content_sha256
        if self.settings.deidentify and header is not None:
            header = deidentified_header(header, self.salt)
            digest = salted_key(self.salt, "content", digest)
        return record, ScoredStudy(record, decoded.pixels, header, digest)

    def _record_before_detection(
        self, file: FoundFile, key: str, decoded: DecodedFile
    ) -> ImageRecord:
        """The record of a decoded image before detection; its reason says why it is not scored."""
        record = self._record(file, key, decoded)
        if decoded.pixels is None:
            return self._refused(record, decoded)
        mismatch = file.expected.mismatch(decoded.identity) if file.expected else ""
        if mismatch:
            return ImageRecord(file, key, STATUS_OF[mismatch], mismatch)
        selection = select_image(decoded.info, decoded.warnings, self.settings.rules)
        record = replace(record, warnings=selection.warnings)
        if selection.status:
            return replace(record, status=selection.status, reason=selection.reason)
        if self._is_named_in_pixels(selection.warnings):
            return replace(record, status="rejected", reason="burned_in_annotation")
        return record

    def _is_named_in_pixels(self, warnings: tuple[str, ...]) -> bool:
        refuses = bool(self.settings.deidentify) and not self.settings.allow_burned_in
        return refuses and "burned_in_annotation" in warnings

    def _record(self, file: FoundFile, key: str, decoded: DecodedFile) -> ImageRecord:
        study = decoded.identity.get("StudyInstanceUID") or file.relative
        instance = decoded.identity.get("SOPInstanceUID")
        content = decoded.content_sha256
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
            instance_key=salted_key(self.salt, "instance", instance) if instance else "",
            revision_key=self._revision_key(file),
            content_key=salted_key(self.salt, "content", content) if content else "",
        )

    def _refused(self, record: ImageRecord, decoded: DecodedFile) -> ImageRecord:
        status, reason = refusal(
            decoded.status,
            decoded.reason,
            decoded.info,
            record.file.has_unscored_type,
            self.settings.rules,
        )
        return replace(record, status=status, reason=reason)

    # --- render and write: may run in several threads ---

    def render(self, study: ScoredStudy) -> RenderedStudy:
        """Make all files of one image."""
        outputs: dict[str, bytes] = {}
        for writer in self.writers:
            outputs.update(writer.files(study))
        document = study_document(study.record, self.model, self.versions)
        return RenderedStudy(outputs, {f"{STUDIES}/{study.record.key}.json": json_bytes(document)})

    def write(self, study: ScoredStudy) -> None:
        """Write all files of one image; `commit` puts them in place.

        Raises:
            OutputError: Something cannot be written.
        """
        self.stage(self.render(study))

    def stage(self, rendered: RenderedStudy) -> None:
        """Like `write`, for files that were rendered on another machine."""
        for files, is_marker in ((rendered.outputs, False), (rendered.study, True)):
            paths = {str(self.out / name): data for name, data in files.items()}
            self._group.add(paths, is_marker)

    def commit(self) -> None:
        """Sync and rename the written files, study files last: they mark an image as done.

        Raises:
            OutputError: Something cannot be written.
        """
        self._group.commit()


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
