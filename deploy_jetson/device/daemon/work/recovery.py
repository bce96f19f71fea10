"""Recovery at start: half-written files, images without a row, interrupted jobs."""

import os
import time
from typing import Any, Dict, NamedTuple, Tuple

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.store.intake import ImageIntake
from deploy_jetson.device.daemon.store.journal import (
    ANSWERED,
    FAILED,
    QUARANTINED,
    RECEIVED,
    RUNNING,
    DaemonJob,
    JobJournal,
    JournalDamaged,
)
from deploy_jetson.device.daemon.store.spool import IMAGE, ImageSpool
from deploy_jetson.device.daemon.work.answers import JobAnswer, read_answer
from deploy_jetson.device.daemon.work.worker import JobWorker

EVERY = 1 << 30


class RecoveryCounts(NamedTuple):
    """Numbers of items repaired at start."""

    parts: int
    unknown_images: int
    interrupted: int
    adopted: int
    lost: int


def open_journal(spool: ImageSpool) -> Tuple[JobJournal, bool]:
    """Open the journal; a damaged one is moved aside.

    Returns:
        The journal, and whether it is a new one beside older answers: rows must be made of them.

    Raises:
        OutputError: It cannot be opened or written.
    """
    path = spool.path("journal.sqlite")
    is_new = not os.path.exists(path) or os.path.getsize(path) == 0
    try:
        return JobJournal(path), is_new and bool(spool.names("results", ".json"))
    except JournalDamaged:
        name = spool.set_aside_journal()
        logs.warning("journal_damaged", kept_as=name)
    return JobJournal(path), True


def _job_of(key: str, made: Dict[str, Any]) -> DaemonJob:
    """The row of an answer; it waits, until the answer is adopted."""
    source = made["source"]
    uid = str(source.get("SOPInstanceUID", ""))
    now = time.time()
    return DaemonJob(
        0, key, uid, str(source["sha256"]), str(made["model"]["hash"]), str(source["via"]),
        int(source["bytes"]), RECEIVED, "", int(made["attempt"]), now, now,
    )  # fmt: skip


def recover(
    spool: ImageSpool,
    journal: JobJournal,
    intake: ImageIntake,
    worker: JobWorker,
    rebuild: bool = False,
) -> RecoveryCounts:
    """Repair files and journal before the first image is accepted.

    Args:
        rebuild: The journal is new: rows are made of the answers, which are sent again.

    Raises:
        OutputError: The disk is full or broken.
    """
    parts = spool.remove_parts()
    for key in spool.names("results", ".json") if rebuild else ():
        made = read_answer(spool, key)
        if made is not None:
            journal.add(_job_of(key, made))
    journal.wait_for_model(worker.model_hash)
    adopted = lost = interrupted = 0
    for job in journal.jobs((RECEIVED, RUNNING), EVERY):
        if worker.close_if_answered(job) is not None:
            adopted += 1
        elif not os.path.exists(spool.image(job.key)):
            lost += 1  # removed from outside; the daemon never does
            worker.record_answer(job, JobAnswer(FAILED, "image_missing"))
        elif job.state == RUNNING:
            interrupted += 1
            journal.give_back(job.key, job.attempts)
    unknown = sum(_enter_unknown(spool, journal, intake, key) for key in _images(spool))
    found = RecoveryCounts(parts, unknown, interrupted, adopted, lost)
    logs.info("recovered", **found._asdict())
    return found


def _images(spool: ImageSpool) -> Tuple[str, ...]:
    return tuple(spool.names("incoming", IMAGE))


def _enter_unknown(spool: ImageSpool, journal: JobJournal, intake: ImageIntake, name: str) -> int:
    """An image whose row is missing or closed: never acknowledged, or the journal was lost."""
    job = journal.job(name)
    if job is not None:
        retaken = job.state in (FAILED, QUARANTINED) and read_answer(spool, name) is None
        if retaken:  # sent again after a failure, interrupted before the journal was updated
            journal.give_back(name, 0)
        elif job.state in ANSWERED:
            spool.remove(spool.image(name))
        return int(retaken)
    path = spool.image(name)
    upload = spool.examine(path, os.path.getsize(path))
    if intake.job_of_image(upload) is not None:
        spool.remove(path)
        return 0
    key = intake.free_key(upload)
    if key != name:  # named for another model, or with another salt
        spool.keep(upload, key)
    journal.add(intake.new_job(key, upload, "recovered"))
    return 1
