"""That decoding, detecting and writing overlap, and that order and memory do not suffer from it."""

import threading
import time

import pytest

from pneumonia.scoring.find import FoundFile
from pneumonia.scoring.image_job import Read
from pneumonia.scoring.pipeline import AHEAD, WRITERS, score_in_order
from pneumonia.scoring.records import ImageRecord

WAIT_SECONDS = 0.1
FILES = [FoundFile(f"/{n}", f"{n}.dcm", str(n)) for n in range(15)]


class WaitingJob:
    """The steps of an image job, each of which only waits; counts what is in hand."""

    def __init__(self, wait_seconds=WAIT_SECONDS):
        self.wait_seconds = wait_seconds
        self.lock = threading.Lock()
        self.begun = self.written = self.most = 0
        self.is_closed = False

    def read(self, file):
        with self.lock:
            self.begun += 1
            self.most = max(self.most, self.begun - self.written)
        time.sleep(self.wait_seconds)
        return Read(file, file.image_id, None, None)

    def detect(self, read):
        time.sleep(self.wait_seconds)
        return ImageRecord(read.file, read.key, "scored"), read.key

    def write(self, study):
        time.sleep(self.wait_seconds)
        with self.lock:
            self.written += 1

    def close(self):
        self.is_closed = True


def test_a_batch_takes_as_long_as_its_slowest_part():
    job = WaitingJob()
    start = time.perf_counter()
    records = list(score_in_order(job, FILES, 1, lambda: False))
    seconds = time.perf_counter() - start
    assert [record.file for record in records] == FILES
    one_part = len(FILES) * WAIT_SECONDS
    # one after another it would be 3 times as long; the rest is for a busy machine
    assert one_part <= seconds < 1.8 * one_part
    assert job.is_closed


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_is_in_hand_has_a_bound(jobs):
    job = WaitingJob(0.005)
    files = FILES * 4
    assert len(list(score_in_order(job, files, jobs, lambda: False))) == job.written == len(files)
    # decoded ahead, in detection, waiting to be written: it does not grow with the batch
    assert job.most <= AHEAD * jobs + 1 + AHEAD * WRITERS + WRITERS


def test_what_fails_in_writing_ends_the_batch_and_the_children():
    class FullDisk(WaitingJob):
        def write(self, study):
            raise OSError(28, "No space left on device")

    job = FullDisk(0)
    with pytest.raises(OSError, match="No space"):
        list(score_in_order(job, FILES, 1, lambda: False))
    assert job.is_closed


def test_once_told_to_stop_only_what_is_in_hand_is_finished():
    job = WaitingJob(0)
    seen = []
    for record in score_in_order(job, FILES, 1, lambda: len(seen) >= 3):
        seen.append(record)  # noqa: PERF402 - the queue looks at it
    assert 3 <= len(seen) < len(FILES)
    assert job.written == len(seen)
