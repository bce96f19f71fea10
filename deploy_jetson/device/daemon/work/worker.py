"""The worker's loop: one image after the other, from the journal to its answer."""

import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.store.job_store import JobStore
from deploy_jetson.device.daemon.store.journal import (
    DONE,
    FAILED,
    QUARANTINED,
    DaemonJob,
)
from deploy_jetson.device.daemon.work.answers import (
    SET_ASIDE,
    JobAnswer,
    answer_bytes,
    dicom_results,
    document,
    read_answer,
    write_answer,
)
from deploy_jetson.device.daemon.work.model import ServedModel
from pneumonia.runtime.child import DecodingChild
from pneumonia.runtime.errors import DeviceError, InferenceError, OutputError
from pneumonia.runtime.image.selection import select

IDLE_S = 1.0
NO_SPACE_S = 2.0
CONFLICT = "conflict"
NOT_MADE = "header_not_writable"  # warning: no DICOM results could be made of the header
DEGRADED = "degraded"  # warning of an image that may be damaged, as by a broken transfer
NOT_WRITABLE = "results_not_writable"


class EngineLost(DeviceError):  # noqa: N818 - the condition's name
    """The engine failed again after it was reopened: the process has to be restarted."""

    exit_code = 70


class JobWorker:
    """Scores the jobs of the journal one after the other and writes their answers.

    Args:
        alive: Called in every turn and while waiting, for the watchdog.
    """

    def __init__(
        self,
        store: JobStore,
        model: ServedModel,
        decoder: DecodingChild,
        alive: Callable[[], None],
    ) -> None:
        self._config, self._spool, self._journal, self._metrics = store
        self._model = model
        self._decoder = decoder
        self._alive = alive
        self._wake = threading.Event()
        self._held: Optional[Tuple[str, int]] = None
        self.trouble = ""  # why answers cannot be written at present, empty when they can
        self.pulse = time.monotonic()

    @property
    def model_hash(self) -> str:
        """Hash of the model that scores."""
        return self._model.facts.model_hash

    def wake(self) -> None:
        """Wake the loop: a job was added."""
        self._wake.set()

    def beat(self) -> None:
        """Record that the loop is running."""
        self.pulse = time.monotonic()
        self._alive()

    def run(self, stopped: Callable[[], bool], pause: Callable[[], float]) -> None:
        """Work until `stopped`; the current image is finished.

        Args:
            pause: Seconds to wait before the next image, for the board's temperature.

        Raises:
            EngineLost: The engine failed for good.
        """
        while not stopped():
            self.beat()
            wait = pause()
            if wait > 0:
                self.sleep(wait, stopped)
                continue
            try:
                busy = self.step()
                self.trouble = ""
            except OutputError as error:
                self.trouble = getattr(error, "reason", NOT_WRITABLE)
                logs.broken(self.trouble)
                self.sleep(NO_SPACE_S, stopped)
                continue
            if not busy:
                self._wake.wait(IDLE_S)
            self._wake.clear()

    def sleep(self, seconds: float, stopped: Callable[[], bool]) -> None:
        """Wait up to `seconds`, recording that the loop runs; returns early once `stopped`."""
        end = time.monotonic() + seconds
        while not stopped() and time.monotonic() < end:
            self.beat()
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))

    def step(self) -> bool:
        """Answer the oldest job that waits; False when there is none.

        Raises:
            OutputError: The answer cannot be written; the job waits as before.
            EngineLost: The engine failed for good; the job waits, one attempt more on its account.
        """
        self._give_back_held()
        job = self._journal.take()
        if job is None:
            return False
        try:
            self.record_answer(job, self._answer(job))
        except OutputError:
            self._held = (job.key, job.attempts - 1)
            self._give_back_held()
            raise
        except EngineLost:
            raise
        except Exception:  # one image never stops the others
            logs.broken("internal_error", job=job.key)
            self.record_answer(job, JobAnswer(FAILED, "internal_error"))
        return True

    def _give_back_held(self) -> None:
        """Set the job whose answer could not be written back to waiting.

        A full disk may take no line of the journal either; then the job is held until it does, or
        it would count as running, and wait, until the next start.
        """
        if self._held is not None:
            self._journal.give_back(*self._held)
            self._held = None

    def _answer(self, job: DaemonJob) -> JobAnswer:
        if job.attempts > self._config.queue.max_attempts:
            return JobAnswer(QUARANTINED, "too_many_attempts")
        try:
            return self._score(job)
        except InferenceError:
            return JobAnswer(FAILED, "invalid_output")
        except DeviceError:
            logs.broken("engine_lost", job=job.key)
            self._journal.give_back(job.key, job.attempts)
            raise EngineLost("Engine failed twice for one image") from None

    def _contradicts(self, job: DaemonJob, content_sha256: str) -> bool:
        """Whether another image was read whole under the SOP Instance UID.

        Args:
            content_sha256: Digest of its pixels and identity; the same image in another encoding
                has the same.
        """
        for key in self._journal.contradicting_keys(job):
            made = read_answer(self._spool, key)
            if made is None:
                return True
            same = bool(content_sha256) and made["source"].get("content_sha256") == content_sha256
            if not same and DEGRADED not in made.get("warnings", ()):
                return True
        return False

    def _score(self, job: DaemonJob) -> JobAnswer:
        started = time.monotonic()
        decoded = self._decoder.decode(self._spool.image(job.key))
        self._metrics.observe("decode_seconds", time.monotonic() - started)
        self.beat()
        if self._contradicts(job, decoded.content_sha256):
            return JobAnswer(QUARANTINED, CONFLICT)
        if decoded.pixels is None:
            return JobAnswer(decoded.status, decoded.reason, decoded)
        status, reason, warnings = select(decoded.info, decoded.warnings, self._config.rules)
        if status:
            return JobAnswer(status, reason, decoded, None, warnings)
        prediction, seconds = self._model.detect(decoded.pixels, job.key)
        self._metrics.observe("inference_seconds", seconds)
        self.beat()
        return JobAnswer(DONE, "", decoded, prediction, warnings, self._model.engine_name, seconds)

    def record_answer(self, job: DaemonJob, answer: JobAnswer) -> None:
        """Write the answer, then the journal, then remove the image.

        Raises:
            OutputError: The answer cannot be written; nothing has changed for the job.
        """
        facts = self._model.facts
        try:
            kinds = dicom_results(self._spool, job, answer, facts, self._config.results.dicom)
        except OutputError:
            raise
        except Exception:  # a foreign header may hold anything; the image is scored all the same
            logs.broken("dicom_results_not_made", job=job.key)
            kinds, answer = [], answer._replace(warnings=(*answer.warnings, NOT_MADE))
        made = document(job, answer, facts)
        made["dicom"] = kinds
        write_answer(self._spool, job, made)
        self._close(job, made)
        logs.info(
            "answered", job=job.key, state=answer.state, reason=answer.reason,
            engine=answer.engine, inference_ms=made["inference_ms"], attempt=job.attempts,
        )  # fmt: skip

    def _close(self, job: DaemonJob, made: Dict[str, Any]) -> None:
        """After the answer is written: each step may have been done before a crash."""
        state, reason = str(made["status"]), str(made["reason"])
        if state in SET_ASIDE:
            self._spool.quarantine(job.key, answer_bytes(made))
        kinds = [str(kind) for kind in made["dicom"]]
        self._journal.mark_answered(job.key, state, reason, self._deliveries(kinds))
        self._spool.remove(self._spool.image(job.key))
        self._metrics.count("images_total", status=state, reason=reason)

    def _deliveries(self, kinds: List[str]) -> List[Tuple[str, str]]:
        return [
            (name, kind)
            for name, peer in self._config.destinations.items()
            for kind in peer.kinds
            if kind in kinds
        ]

    def close_if_answered(self, job: DaemonJob) -> Optional[Any]:
        """Close a job that was answered just before a crash; None when it was not."""
        made = read_answer(self._spool, job.key)
        if made is None:
            return None
        self._close(job, made)
        return made
