"""What the benchmarks share: arguments, machine and versions, times, tables, files of results."""

import argparse
import json
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from data_prep.dataset.reader import Dataset, open_dataset
from evaluation.metrics.bootstrap import Estimate
from pneumonia.runtime.atomic import write_text

RESULTS = Path(__file__).parent / "results"


def argument_parser(documentation: str | None) -> argparse.ArgumentParser:
    """A parser described by the first line of a module's docstring."""
    return argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])


def dataset_and_out(documentation: str | None) -> tuple[Dataset, Path]:
    """Parse `--data FOLDER --out PATH`: the opened dataset and the path to write."""
    parser = argument_parser(documentation)
    parser.add_argument("--data", required=True, help="dataset folder")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    return open_dataset(options.data), options.out


def processor() -> str:
    """Model name of the processor, as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def environment(*packages: str) -> dict[str, Any]:
    """Machine, processor, and versions of Python and of packages, for a file of results."""
    versions = {name: metadata.version(name) for name in packages}
    return {
        "machine": platform.machine(),
        "processor": processor(),
        "versions": {"python": platform.python_version(), **versions},
    }


def program_version(*command: str) -> str:
    """The version line of a program's `--version` output."""
    if not shutil.which(command[0]):
        return f"{command[0]}: not installed"
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in done.stdout.splitlines()] or [command[0]]
    return next((line for line in lines if "version" in line.lower()), lines[0])


def processor_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def spent_s(run: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def interval_text(values: Sequence[float] | None, sign: str = "") -> str:
    """Value, low and high as `0.512 (0.480 to 0.544)`; empty without values."""
    return "" if values is None else "{:{s}.3f} ({:{s}.3f} to {:{s}.3f})".format(*values, s=sign)


def rounded(item: Estimate) -> list[float]:
    """Value and interval, to four digits."""
    return [round(float(value), 4) for value in (item.value, item.ci_low, item.ci_high)]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown, ending in a line break."""
    lines = ["| " + " | ".join(map(str, line)) + " |\n" for line in (header, *rows)]
    return "".join((lines[0], "|" + "---|" * len(header) + "\n", *lines[1:]))


def write_results(path: Path, document: Any, markdown: str = "") -> None:
    """Write a JSON file, and the text beside it as .md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(str(path), json.dumps(document, indent=1) + "\n")
    if markdown:
        write_text(str(path.with_suffix(".md")), markdown)


def publish(path: Path, document: Any, markdown: str = "") -> None:
    """Write the results and print them: the text, or else the document."""
    write_results(path, document, markdown)
    print(markdown or json.dumps(document, indent=1))
