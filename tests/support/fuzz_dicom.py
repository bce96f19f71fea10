"""Mutated DICOM files through the decoding child: `make fuzz`.

`python -m tests.support.fuzz_dicom` runs it alone. The caller must survive every file, no file
may take longer than the child's time limit allows, and nothing that a log, a table or an answer
shows may hold text of the file. What the child did not survive is counted and kept as well.
Files are numbered: `--seed S --first N --files 1` repeats one.
"""

import argparse
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np

from pneumonia.runtime.child import ChildLimits, DecodingChild, FileRequest, Wanted
from pneumonia.runtime.child.__main__ import limit_resources
from pneumonia.runtime.child.memory_file import memory_file
from pneumonia.runtime.child.messages import write_answer
from pneumonia.runtime.child.tasks import FileReader
from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.read_limits import ReadLimits
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import KINDS, ResultFacts, build_results, header_from_bytes
from pneumonia.runtime.results.files import file_bytes
from pneumonia.runtime.storage.bundle import load_bundle
from tests.contracts.tree import ROOT
from tests.runtime.child.mutations import CANARY, mutated, originals

READ = ReadLimits(max_file_bytes=16 << 20, max_pixels=1 << 20)
SECONDS = 10.0  # the child's limit for one file
MARGIN_S = 15.0  # ending and starting a child on a busy machine
STATUSES = ("read", "rejected", "failed", "skipped")
RESULTS_EVERY = 10  # making them takes longer than reading the file
LOST = ("decoder_crash", "decode_timeout")
CODE = re.compile(r"[a-z0-9_]*")


MEMORY_MB = 1024
BATCH_SECONDS = 600.0
BATCH = 500  # files that one process reads without a word to the caller


def new_child():
    """A child as the daemon has it, with small limits."""
    limits = ChildLimits(READ, memory_mb=MEMORY_MB, seconds=SECONDS)
    return DecodingChild(limits, Wanted(header=True))


def read_batch(seed, first, n_files, path, answers):
    """Read files in this process, as the child does; sends counts and the numbers to repeat.

    Exchanging each file with a child costs two changes of process, which on a busy machine take
    longer than the file. A file is repeated through a real child when its answer holds text of the
    file, has an unknown status, raises, or takes long; results are made of every tenth file there.

    Args:
        seed: Of the files.
        first: Number of the first file.
        n_files: How many.
        path: File to write each one to.
        answers: Connection that gets (counts by reason, numbers to repeat) at the end.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    limit_resources(MEMORY_MB)
    pixels = memory_file("pixels")
    reader = FileReader(READ, Wanted(header=True), [pixels.fileno()])
    request = FileRequest(str(path))._asdict()
    request.update(task="read", pixel_file=0)
    counts, suspects = Counter(), []
    canary = CANARY.partition("^")[0]
    for number in range(first, first + n_files):
        data, _ = mutated(seed, number)
        Path(path).write_bytes(data)
        started = time.process_time()
        try:
            record, parts = reader.answer(request)
            write_answer(io.BytesIO(), record, parts)
        except Exception:  # the child would end
            suspects.append(number)
            continue
        codes = (record.get("reason", ""), *record.get("warnings", ()))
        shown = json.dumps({k: v for k, v in record.items() if k != "identity"}, default=str)
        is_clean = (
            canary not in shown
            and record["status"] in STATUSES
            and (record["status"] == "read") == (not codes[0])
            and all(CODE.fullmatch(code) for code in codes)
            and time.process_time() - started < SECONDS / 10
        )
        if not is_clean or (parts and number % RESULTS_EVERY == 0):
            suspects.append(number)
        else:
            counts[codes[0] or record["status"]] += 1
    answers.send((counts, suspects))


def result_fault(found, facts):
    """What is wrong with the DICOM results of an image, made by the caller; empty for nothing."""
    box = np.array([[1, 1, 9, 9]], np.float32)
    boxes = Prediction("film", box, np.array([0.9], np.float32), found.width, found.height)
    try:
        header = header_from_bytes(found.header)
        for dataset in build_results(header, found.pixels, boxes, facts, KINDS).values():
            file_bytes(dataset)
    except DicomError:
        return ""  # no result can be made of this header
    except Exception as error:
        return f"results: {type(error).__name__}"
    return ""


def complaint(found, seconds):
    """What is wrong with an answer, empty when it is one that may be given."""
    shown = repr((found.status, found.reason, found.message, found.info, found.warnings))
    if CANARY.partition("^")[0] in shown:
        return "text of the file in what is shown"
    if found.status not in STATUSES or (found.status != "read" and not found.reason):
        return f"status {found.status!r} with reason {found.reason!r}"
    if not all(CODE.fullmatch(code) for code in (found.reason, *found.warnings)):
        return "a reason or warning that is no code"
    if found.status == "read" and (found.pixels is None or found.pixels.ndim != 2):
        return "read, but no image"
    if seconds > SECONDS + MARGIN_S:
        return f"took {seconds:.0f} s"
    return ""


class DicomFuzz:
    """Sends numbered files through one child and keeps what must not happen.

    Args:
        seed: Of the files.
        folder: For the file of the moment.
        finds: For files to look at.
    """

    def __init__(self, seed, folder, finds):
        self.seed = seed
        self.path = Path(folder) / "film.dcm"
        self.finds = Path(finds)
        bundle = load_bundle(str(ROOT / "pneumonia" / "models" / "default"), verify=False)
        self.facts = ResultFacts.from_bundle(bundle, next(iter(bundle.operating_points)))
        self.counts = Counter()
        self.faults = []
        self.repeated = 0

    def run(self, child, number):
        """One file; its complaint."""
        data, names = mutated(self.seed, number)
        self.path.write_bytes(data)
        started = time.monotonic()
        found = child.decode(str(self.path))
        seconds = time.monotonic() - started
        if seconds > SECONDS + MARGIN_S:  # once more: the machine may have been busy
            started = time.monotonic()
            found = child.decode(str(self.path))
            seconds = time.monotonic() - started
        wrong = complaint(found, seconds)
        if found.header and number % RESULTS_EVERY == 0 and not wrong:
            wrong = result_fault(found, self.facts)
        self.counts[found.reason or found.status] += 1
        if wrong or found.reason in LOST:
            kind = "fault" if wrong else found.reason
            self.finds.mkdir(parents=True, exist_ok=True)
            (self.finds / f"{kind}-{self.seed}-{number}.dcm").write_bytes(data)
            click.echo(f"{kind} {wrong} file {number}: {', '.join(names)}")
        if wrong:
            self.faults.append((number, wrong))
        return wrong

    def run_batch(self, child, first, n_files):
        """Files in a process of their own; through the child those that it does not clear.

        All of them go through the child when the process ends early or does not end.
        """
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=read_batch, args=(self.seed, first, n_files, self.path, sender)
        )
        originals()  # built once, before the process inherits it
        process.start()
        sender.close()
        suspects = range(first, first + n_files)
        try:
            if receiver.poll(BATCH_SECONDS):
                counts, suspects = receiver.recv()
                self.counts += counts
        except EOFError:
            click.echo(f"batch at {first} ended early: repeated one by one")
        finally:
            process.kill()
            process.join()
            receiver.close()
        self.repeated += len(suspects)
        for number in suspects:
            self.run(child, number)


def main():
    """Explore; 1 when something was found that must not happen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz-dicom"))
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    started, number = time.monotonic(), options.first
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder, new_child() as child:
        fuzz = DicomFuzz(options.seed, folder, options.out)
        while number < options.first + options.files and time.monotonic() < end:
            n_files = min(BATCH, options.first + options.files - number)
            fuzz.run_batch(child, number, n_files)
            number += n_files
            cpu = sum(os.times()[:4])
            click.echo(f"{number} done, seed {options.seed}, {cpu:.0f} s of processor")
    seconds = time.monotonic() - started
    done = number - options.first
    click.echo(f"{done} files in {seconds:.0f} s ({done / seconds:.0f}/s), seed {options.seed}")
    for reason, count in fuzz.counts.most_common():
        click.echo(f"    {count:8d} {reason}")
    lost = sum(fuzz.counts[reason] for reason in LOST)
    click.echo(f"{len(fuzz.faults)} faults, {fuzz.repeated} through the child, {lost} lost")
    return int(bool(fuzz.faults))


if __name__ == "__main__":
    sys.exit(main())
