"""Decode, detect and write in parallel: child processes, one detector thread, writer threads.

Decoding runs in other processes, and the engine and the image compressors release the GIL, so that
throughput is that of the slower of decoding and detection. Every queue is bounded: memory does not
grow with the batch. Files are synced and renamed in groups.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice

from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.image.job import ImageJob, Read
from pneumonia.scoring.image.records import ImageRecord

WRITERS = 2  # writing is mostly waiting for the disk
AHEAD = 2  # images decoded, and written, ahead per thread
# Images are put in place one, two, four ... up to so many at a time, or this often.
GROUP, GROUP_SECONDS = 32, 1.0

Stop = Callable[[], bool]


def _decoded(
    job: ImageJob, files: Sequence[FoundFile], pool: ThreadPoolExecutor, depth: int, stop: Stop
) -> Iterator[Read]:
    """Decode a few files ahead; yields the results in order."""
    waiting = iter(files)
    ahead = deque(pool.submit(job.read, file) for file in islice(waiting, depth))
    try:
        while ahead and not stop():
            yield ahead.popleft().result()
            ahead.extend(pool.submit(job.read, file) for file in islice(waiting, 1))
    finally:
        for future in ahead:
            future.cancel()


def score_in_order(
    job: ImageJob, files: Sequence[FoundFile], jobs: int, stop: Stop
) -> Generator[ImageRecord, None, None]:
    """Score files on this machine.

    Args:
        job: The steps of one image.
        files: What to score.
        jobs: Children that decode.
        stop: Called before each image; once it returns True, the images in progress are
            finished and no new ones begun.

    Yields:
        The records, in the order of the files, each once all its files are on disk.

    Raises:
        OutputError: An output cannot be written.
    """
    writing: deque[tuple[ImageRecord, Future[None] | None]] = deque()
    written: list[ImageRecord] = []
    group, committed = 1, time.monotonic()
    with ExitStack() as stack:
        stack.callback(job.close)
        decoders = stack.enter_context(ThreadPoolExecutor(jobs, "decode"))
        writers = stack.enter_context(ThreadPoolExecutor(WRITERS, "write"))
        for read in _decoded(job, files, decoders, AHEAD * jobs, stop):
            record, study = job.detect(read)
            writing.append((record, writers.submit(job.write, study) if study else None))
            while writing and (len(writing) > AHEAD * WRITERS or _is_done(writing[0][1])):
                written.append(_finished(writing))
            if len(written) >= group or time.monotonic() > committed + GROUP_SECONDS:
                job.commit()
                yield from written
                written, group, committed = [], min(2 * group, GROUP), time.monotonic()
        while writing:
            written.append(_finished(writing))
        job.commit()
        yield from written


def _is_done(future: "Future[None] | None") -> bool:
    return future is None or future.done()


def _finished(writing: deque[tuple[ImageRecord, "Future[None] | None"]]) -> ImageRecord:
    record, future = writing.popleft()
    if future is not None:
        future.result()
    return record
