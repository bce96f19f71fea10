"""That decoding, detecting and writing overlap, and that order and memory do not suffer from it."""

import threading
import time

import pytest

from pneumonia.scoring.batch.image_job import ReadFile
from pneumonia.scoring.batch.pipeline import AHEAD, WRITERS, score_in_order
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.image.records import ImageRecord

FILES = [FoundFile(f"/{n}", f"{n}.dcm", image_id=str(n)) for n in range(15)]


class WaitingJob:
    """The steps of an image job, each of which only waits; counts what is in hand."""

    def __init__(self, wait_seconds=0.0):
        self.wait_seconds = wait_seconds
        self.lock = threading.Lock()
        self.begun = self.written = self.committed = self.most = 0
        self.is_closed = False

    def read(self, file, following):
        with self.lock:
            self.begun += 1
            self.most = max(self.most, self.begun - self.written)
        time.sleep(self.wait_seconds)
        return ReadFile(file, file.image_id, None, None)

    def detect(self, read):
        time.sleep(self.wait_seconds)
        return ImageRecord(read.file, read.key, "scored"), read.key

    def write(self, study):
        time.sleep(self.wait_seconds)
        with self.lock:
            self.written += 1

    def commit(self):
        with self.lock:
            self.committed = self.written

    def close(self):
        self.is_closed = True


def test_reading_detection_and_writing_of_three_images_go_on_at_once():
    """Each step of the job waits until the two others, of other images, are under way too."""

    class Meeting(WaitingJob):
        all_three = threading.Barrier(3)
        met = 0

        def meet(self, number, first):
            if number == first:
                self.all_three.wait(60)
                with self.lock:
                    self.met += 1

        def read(self, file, following):
            self.meet(FILES.index(file), 2)
            return super().read(file, following)

        def detect(self, read):
            self.meet(FILES.index(read.file), 1)
            return super().detect(read)

        def write(self, study):
            self.meet(int(study), 0)
            super().write(study)

    job = Meeting(0)
    records = list(score_in_order(job, FILES, 1, lambda: False))
    assert [record.file for record in records] == FILES
    assert job.met == 3
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


def test_after_a_stop_only_images_in_progress_are_finished():
    job = WaitingJob(0)
    records = list(score_in_order(job, FILES, 1, lambda: job.written >= 3))
    assert 3 <= len(records) < len(FILES)
    assert job.written == job.committed == len(records)


def test_a_record_comes_once_its_files_are_in_place(monkeypatch):
    monkeypatch.setattr("pneumonia.scoring.batch.pipeline.GROUP", 4)
    job = WaitingJob(0)
    for number, _ in enumerate(score_in_order(job, FILES, 1, lambda: False), start=1):
        assert job.committed >= number
