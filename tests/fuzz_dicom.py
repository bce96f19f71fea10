"""Mutated DICOM files through the decoding child: `make fuzz`, `python -m tests.fuzz_dicom`.

The caller must survive every file, no file may take longer than the child's time limit allows, and
nothing that a log, a table or an answer shows may hold text of the file. What the child did not
survive is counted and kept as well. Files are numbered: `--seed S --first N --files 1` repeats one.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np

from pneumonia.runtime.child import ChildLimits, DecodingChild, Wanted
from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.dicom_header import ReadLimits
from pneumonia.runtime.model.bundle import load_bundle
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import KINDS, ResultFacts, build_results, header_from_bytes
from pneumonia.runtime.results.files import file_bytes
from tests.contracts.tree import ROOT
from tests.runtime.child.mutations import CANARY, mutated

READ = ReadLimits(max_file_bytes=16 << 20, max_pixels=1 << 20)
SECONDS = 10.0  # the child's limit for one file
MARGIN_S = 15.0  # ending and starting a child on a busy machine
STATUSES = ("read", "rejected", "failed", "skipped")
RESULTS_EVERY = 10  # making them takes longer than reading the file
LOST = ("decoder_crash", "decode_timeout")
CODE = re.compile(r"[a-z0-9_]*")


def new_child():
    """A child as the daemon has it, with small limits."""
    limits = ChildLimits(READ, memory_mb=1024, seconds=SECONDS)
    return DecodingChild(limits, Wanted(header=True))


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
        self.facts = ResultFacts.of_bundle(bundle, next(iter(bundle.operating_points)))
        self.counts = Counter()
        self.faults = []

    def run(self, child, number):
        """One file; its complaint."""
        data, names = mutated(self.seed, number)
        self.path.write_bytes(data)
        started = time.monotonic()
        found = child.decode(str(self.path))
        wrong = complaint(found, time.monotonic() - started)
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
            fuzz.run(child, number)
            number += 1
    seconds = time.monotonic() - started
    done = number - options.first
    click.echo(f"{done} files in {seconds:.0f} s ({done / seconds:.0f}/s), seed {options.seed}")
    for reason, count in fuzz.counts.most_common():
        click.echo(f"    {count:8d} {reason}")
    click.echo(f"{len(fuzz.faults)} faults, {sum(fuzz.counts[r] for r in LOST)} children lost")
    return int(bool(fuzz.faults))


if __name__ == "__main__":
    sys.exit(main())
