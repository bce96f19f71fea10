"""Intake of images: every interface calls `accept` and acknowledges the image when it returns."""

import errno
import threading
import time
from typing import Callable, Iterator, NamedTuple, Optional

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.store.job_store import JobStore
from deploy_jetson.device.daemon.store.journal import (
    FAILED,
    QUARANTINED,
    RECEIVED,
    DaemonJob,
    JournalError,
)
from deploy_jetson.device.daemon.store.spool import SpooledUpload, TooLarge

MEGABYTE = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EIO)
NOT_WRITABLE_PATH = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR)  # with a file name


class IntakeRefused(Exception):  # noqa: N818 - an answer, not a fault
    """The image was refused and nothing of it is stored.

    Attributes:
        reason: `queue_full`, `disk_full`, `spool_not_writable`, `journal_locked`,
            `journal_not_usable`, `too_large`, `empty` or `stopping`.
        later: Whether sending it again later can help.
    """

    def __init__(self, reason: str, later: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.later = later


class AcceptedImage(NamedTuple):
    """The job of an image, and whether the image was known before."""

    job: DaemonJob
    known: bool


class ImageIntake:
    """Stores images in spool and journal."""

    def __init__(self, store: JobStore, model_hash: str, wake: Callable[[], None]) -> None:
        self._config, self._spool, self._journal, self._metrics = store
        self._model_hash = model_hash
        self._wake = wake
        self._lock = threading.Lock()
        self._arriving = 0  # images being written: they will need a place in the queue
        self.stopping = False

    def refusal(self) -> Optional[str]:
        """Reason why the daemon refuses images at present; None if it accepts them."""
        if self.stopping:
            return "stopping"
        disk = self._spool.disk()
        if disk is None:
            return "disk_full"
        used = 100.0 * (disk.total - disk.free) / max(disk.total, 1)
        low = disk.free < self._config.disk.reserve_mb * MEGABYTE
        if low or used > self._config.disk.max_used_percent:
            return "disk_full"
        try:
            images, size, _ = self._journal.waiting()
        except JournalError as error:
            return error.reason
        queue = self._config.queue
        if images + self._arriving >= queue.max_images or size >= queue.max_mb * MEGABYTE:
            return "queue_full"
        return None

    def accept(self, blocks: Iterator[bytes], source: str) -> AcceptedImage:
        """Take an image; on return it is in the spool and in the journal, both synced.

        Args:
            source: `dicom`, `rest` or `watch`.

        Raises:
            IntakeRefused: Nothing of the image is stored.
        """
        with self._lock:
            reason = self.refusal()
            if reason:
                raise self._refused(reason, source)
            self._arriving += 1
        try:
            return self._accept(blocks, source)
        finally:
            with self._lock:
                self._arriving -= 1

    def _refused(self, reason: str, source: str, later: bool = True) -> IntakeRefused:
        self._metrics.count("refused_total", reason=reason, source=source)
        logs.warning("refused", reason=reason, source=source)
        return IntakeRefused(reason, later)

    def _accept(self, blocks: Iterator[bytes], source: str) -> AcceptedImage:
        upload = None
        try:
            max_bytes = int(self._config.queue.max_image_mb * MEGABYTE)
            upload = self._spool.receive(blocks, max_bytes)
            if upload.bytes == 0:
                raise self._refused("empty", source, later=False)
            with self._lock:  # serialise two copies that arrive at once
                return self._enter(upload, source)
        except TooLarge:
            raise self._refused("too_large", source, later=False) from None
        except JournalError as error:
            raise self._refused(error.reason, source) from None
        except OSError as error:
            reason = _reason_of(error)
            if not reason:
                raise
            raise self._refused(reason, source) from None
        finally:
            if upload is not None:
                self._spool.remove(upload.path)

    def _enter(self, upload: SpooledUpload, source: str) -> AcceptedImage:
        earlier = self.job_of_image(upload)
        if earlier is not None and earlier.state not in (FAILED, QUARANTINED):
            self._metrics.count("duplicates_total", source=source)
            return AcceptedImage(earlier, True)
        key = earlier.key if earlier is not None else self.free_key(upload)
        self._spool.keep(upload, key)
        try:
            if earlier is not None:
                self._spool.forget_answer(key)
                self._journal.give_back(key, 0)
                job = earlier._replace(state=RECEIVED, reason="", attempts=0)
            else:
                job = self._journal.add(self.new_job(key, upload, source))
        except JournalError:
            self._spool.remove(self._spool.image(key))  # not acknowledged, so not kept
            raise
        self._metrics.count("received_total", source=source)
        logs.info("received", job=key, source=source, bytes=upload.bytes)
        self._wake()
        return AcceptedImage(job, False)

    def job_of_image(self, upload: SpooledUpload) -> Optional[DaemonJob]:
        """The job of an image for the present model, if it came before."""
        return self._journal.job_of_image(upload.sop_uid, upload.sha256, self._model_hash)

    def free_key(self, upload: SpooledUpload) -> str:
        """A key for an image that is not known.

        The first choice is taken when the image waited while the model was changed: its job kept
        its name and got the new model.
        """
        salt = self._model_hash
        while True:
            key = self._spool.key_of(upload.sop_uid, upload.sha256, salt)
            if self._journal.job(key) is None:
                return key
            salt += "+"

    def new_job(self, key: str, upload: SpooledUpload, source: str) -> DaemonJob:
        """The job of an image that came just now."""
        now = time.time()
        return DaemonJob(
            0, key, upload.sop_uid, upload.sha256, self._model_hash, source, upload.bytes,
            RECEIVED, "", 0, now, now,
        )  # fmt: skip


def _reason_of(error: OSError) -> str:
    """Why the spool cannot be written; empty when the sender's side failed."""
    if error.errno in FULL:
        return "disk_full"
    is_path = error.errno in NOT_WRITABLE_PATH and error.filename is not None
    return "spool_not_writable" if is_path or error.errno in NOT_WRITABLE else ""
