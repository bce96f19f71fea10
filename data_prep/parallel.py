"""Map a function over many items on all cores, results in order."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pneumonia.runtime.cpus import usable_cpus
from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.runtime.progress import Progress, report_progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 8  # items per task of a worker process
_WORTH_A_POOL = 64  # starting two workers costs about a second


def ordered_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Yield `function(item)` for every item, in order, holding only a few results at a time.

    Worker processes are spawned, not forked (safe beside torch's threads): `function` must be
    defined in a module, and a calling script needs `if __name__ == "__main__"`. With one
    worker, or few items, everything runs in this process.

    Args:
        function: A picklable function of one item.
        workers: Processes; None = one per available core.
        progress: Called after every item as (done, total, "").

    Raises:
        ConfigError: Fewer than one worker.
        DataError: A worker process died.
    """
    workers = usable_cpus() if workers is None else workers
    if workers < 1:
        raise ConfigError("Number of workers is wrong", expected=">= 1", found=repr(workers))
    if workers == 1 or len(items) < _WORTH_A_POOL:
        results: Iterator[Result] = map(function, items)
    else:
        results = _pool_map(function, items, workers)
    for done, result in enumerate(results, start=1):
        report_progress(progress, done, len(items))
        yield result


def _pool_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet_worker
    )
    chunks = (items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK))
    waiting: deque[Future[list[Result]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_run_chunk, function, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "A worker process died while reading images",
            fix="Free memory, or repeat with --workers 1 to see which image does it",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_chunk(function: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    return [function(item) for item in chunk]


def _quiet_worker() -> None:
    # Ctrl-C reaches the whole process group; only the parent handles it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
