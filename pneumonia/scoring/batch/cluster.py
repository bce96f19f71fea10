"""`--ray`: score on a cluster whose workers share no folder with this machine.

This machine reads the files and writes the outputs; a worker receives the bytes of a file and
returns the record and the bytes of the image's outputs. The outputs therefore equal those of a run
on one machine; when a worker is lost, Ray repeats its tasks on another.
"""

import dataclasses
import hashlib
import os
import socket
import tempfile
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.child.archives import member_file
from pneumonia.runtime.connections import split_address
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.errors import ConfigError, DeviceError, DicomError
from pneumonia.runtime.storage.bundle import load_bundle
from pneumonia.scoring.batch.image_job import ImageJob, RenderedStudy
from pneumonia.scoring.batch.pipeline import Stop
from pneumonia.scoring.batch.run import Scorer
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.image.growing import has_grown
from pneumonia.scoring.image.records import ImageRecord

CONNECT_SECONDS = 10.0
ATTEMPTS = 4  # per image; its worker or computer may be lost each time
AHEAD = 2  # images in flight per processor of the cluster


class Parcel(NamedTuple):
    """What a worker needs besides the images."""

    bundle: dict[str, bytes]  # the bundle's files by name
    engine: str  # name of the engine
    decode: Any  # settings of the detector
    settings: Any  # how to score
    model: Any  # description of the model as this machine writes it into every output
    salt: str  # salt of the output folder


class Outcome(NamedTuple):
    """A worker's result: the record, and the image's output files if it has any."""

    record: ImageRecord
    rendered: RenderedStudy | None


@contextmanager
def ray_scorer(address: str) -> Iterator[Scorer]:
    """The scorer that runs on the Ray cluster at an address.

    Args:
        address: `auto`, HOST:PORT or ray://HOST:PORT.

    Raises:
        ConfigError: Ray is not installed.
        DeviceError: The cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "Package ray is not installed", fix="pip install 'pneumonia[cluster]'"
        ) from None
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DeviceError(
            "Ray cluster cannot be reached", found=type(error).__name__, where=address
        ) from None
    try:
        yield score_on_ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Fail early when the cluster does not answer; Ray itself waits for minutes."""
    place = split_address(address.removeprefix("ray://"))
    if place is None:  # `auto`, or a host alone: Ray knows the port
        return
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that cannot be a name
        raise DeviceError(
            "Ray cluster cannot be reached", found=type(error).__name__, where=address
        ) from None


def score_on_ray(
    job: ImageJob, files: Sequence[FoundFile], jobs: int, stop: Stop
) -> Generator[ImageRecord, None, None]:
    """Score files on the cluster this process is connected to; see `pipeline.score_in_order`."""
    import ray

    parcel = ray.put(_parcel(job))
    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_score_bytes)
    depth = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(files)
    ahead: deque[Any] = deque()
    try:
        while not stop():
            ahead.extend(_submit(job, f, task, parcel) for f in islice(waiting, depth - len(ahead)))
            if not ahead:
                return
            yield _finished(job, *ahead.popleft())
        while ahead:  # tasks that are already submitted
            yield _finished(job, *ahead.popleft())
    finally:
        for _, handle in ahead:
            if not isinstance(handle, ImageRecord):
                ray.cancel(handle)


def _parcel(job: ImageJob) -> Parcel:
    folder = Path(job.detector.bundle.path)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    bundle = {name: (folder / name).read_bytes() for name in sorted(names)}
    detector = job.detector
    return Parcel(
        bundle, detector.engine.name, detector.settings, job.settings, job.model, job.salt
    )


def _submit(job: ImageJob, file: FoundFile, task: Any, parcel: Any) -> tuple[FoundFile, Any]:
    """The file with its record, if no scoring is needed, or with the handle of its Ray task."""
    if file.status:
        return file, job.detect(job.unread_result(file))[0]
    earlier = job.earlier(file)
    if earlier and not file.path:
        return file, earlier
    try:
        data = _bytes_of(file, job.settings.limits.read.max_file_bytes)
    except DicomError as error:
        return file, job.refused(file, error.status, error.reason)
    except OSError:
        return file, job.refused(file, "failed", "unreadable")
    if earlier and hashlib.sha256(data).hexdigest() == earlier.sha256:
        return file, earlier
    return file, task.remote(parcel, file, data)


def _bytes_of(file: FoundFile, max_bytes: int) -> bytes:
    if file.member >= 0:
        with member_file(file.path, file.member, max_bytes) as path:
            return Path(path).read_bytes()
    data = _read(file.path, max_bytes)
    if has_grown(file.path, len(data)):
        data = _read(file.path, max_bytes)
    if len(data) > max_bytes:
        raise DicomError("File is too large", "rejected", "resource_limit")
    return data


def _read(path: str, max_bytes: int) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(max_bytes + 1)


def _finished(job: ImageJob, file: FoundFile, handle: Any) -> ImageRecord:
    """Wait for a task and move its files to their final names."""
    if isinstance(handle, ImageRecord):
        return handle
    import ray

    try:
        outcome: Outcome = ray.get(handle)
    except ray.exceptions.RayError:
        return job.refused(file, "failed", "worker_lost")
    if outcome.rendered is not None:
        job.stage(outcome.rendered)
        job.commit()
    return dataclasses.replace(outcome.record, file=file)


# --- on the worker ---

_jobs: dict[str, ImageJob] = {}  # of this process: opening an engine takes longer than an image


def _score_bytes(parcel: Parcel, file: FoundFile, data: bytes) -> Outcome:
    """Score one image on a worker."""
    job = _opened(parcel)
    with tempfile.NamedTemporaryFile(prefix="pneumonia-worker-") as stream:
        stream.write(data)
        stream.flush()
        os.utime(stream.name, (0, 0))  # it is complete: `has_grown` need not wait
        here = dataclasses.replace(file, path=stream.name, member=-1)
        record, study = job.detect(job.read(here))
    return Outcome(record, None if study is None else job.render(study))


def _opened(parcel: Parcel) -> ImageJob:
    key = repr((parcel.model, parcel.settings, parcel.engine, parcel.salt))
    if key not in _jobs:
        with tempfile.TemporaryDirectory(prefix="pneumonia-bundle-") as folder:
            for name, data in parcel.bundle.items():
                write_bytes(str(Path(folder) / name), data)
            bundle = load_bundle(folder)
            engine = open_engine(bundle, parcel.engine, threads=1)
        out = Path(os.devnull)  # files are rendered in memory and written by the caller
        settings = dataclasses.replace(parcel.settings, fresh=True)
        detector = Detector(bundle, engine, parcel.decode)
        _jobs[key] = ImageJob(detector, parcel.model, settings, out, parcel.salt)
    return _jobs[key]
