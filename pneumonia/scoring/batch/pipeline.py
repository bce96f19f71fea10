"""Decode, detect and write in parallel: child processes, one detector thread, writer threads.

Decoding runs in other processes, and the engine and the image compressors release the GIL, so that
throughput is that of the slower of decoding and detection. Every queue is bounded: memory does not
grow with the batch. Files are synced and renamed in groups, by a thread of their own.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice

from pneumonia.runtime.allocator import FOR_IMAGES, keep_freed_memory
from pneumonia.scoring.batch.image_job import ImageJob, ReadFile
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.image.records import ImageRecord

WRITERS = 2  # writing is mostly waiting for the disk
AHEAD = 4  # images decoded, and written, ahead per thread
# Images are put in place one, two, four ... up to so many at a time, or this often.
GROUP, GROUP_SECONDS = 32, 1.0
GROUPS = 2  # being put in place; a disk that is slower than that is waited for

Stop = Callable[[], bool]


def _decoded(
    job: ImageJob, files: Sequence[FoundFile], threads: Sequence[ThreadPoolExecutor], stop: Stop
) -> Iterator[ReadFile]:
    """Decode a few files ahead, by turns in each thread; yields the results in order."""
    turns = len(threads)

    def submitted(number: int) -> "Future[ReadFile]":
        following = files[number + turns] if number + turns < len(files) else None
        return threads[number % turns].submit(job.read, files[number], following)

    waiting = iter(range(len(files)))
    ahead = deque(submitted(number) for number in islice(waiting, AHEAD * turns))
    try:
        while ahead and not stop():
            yield ahead.popleft().result()
            ahead.extend(submitted(number) for number in islice(waiting, 1))
    finally:
        for future in ahead:
            future.cancel()


def score_in_order(
    job: ImageJob, files: Sequence[FoundFile], jobs: int, stop: Stop
) -> Generator[ImageRecord, None, None]:
    """Score files on this machine.

    Args:
        stop: Called before each image; once it returns True, the images in progress are
            finished and no new ones begun.

    Yields:
        The records, in the order of the files, each once all its files are on disk.

    Raises:
        OutputError: An output cannot be written.
    """
    keep_freed_memory(FOR_IMAGES)
    writing: deque[tuple[ImageRecord, Future[None] | None]] = deque()
    written: list[ImageRecord] = []
    committing: deque[tuple[list[ImageRecord], Future[None]]] = deque()
    group, committed = 1, time.monotonic()
    with ExitStack() as stack:
        stack.callback(job.close)
        decoders = [stack.enter_context(ThreadPoolExecutor(1, f"decode-{n}")) for n in range(jobs)]
        writers = stack.enter_context(ThreadPoolExecutor(WRITERS, "write"))
        committer = stack.enter_context(ThreadPoolExecutor(1, "commit"))
        for read in _decoded(job, files, decoders, stop):
            record, study = job.detect(read)
            writing.append((record, writers.submit(job.write, study) if study else None))
            while writing and (len(writing) > AHEAD * WRITERS or _is_done(writing[0][1])):
                written.append(_finished(writing))
            if len(written) >= group or time.monotonic() > committed + GROUP_SECONDS:
                committing.append((written, committer.submit(job.commit)))
                written, group, committed = [], min(2 * group, GROUP), time.monotonic()
            while committing and (len(committing) > GROUPS or _is_done(committing[0][1])):
                yield from _committed(committing)
        while writing:
            written.append(_finished(writing))
        committing.append((written, committer.submit(job.commit)))
        while committing:
            yield from _committed(committing)


def _is_done(future: "Future[None] | None") -> bool:
    return future is None or future.done()


def _finished(writing: deque[tuple[ImageRecord, "Future[None] | None"]]) -> ImageRecord:
    record, future = writing.popleft()
    if future is not None:
        future.result()
    return record


def _committed(
    committing: deque[tuple[list[ImageRecord], "Future[None]"]],
) -> list[ImageRecord]:
    records, future = committing.popleft()
    future.result()
    return records
