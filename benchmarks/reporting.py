"""What the benchmarks share: arguments, the machine and its versions, tables, files of results."""

import argparse
import json
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from evaluation.metrics.bootstrap import Estimate
from pneumonia.runtime.atomic import write_text

RESULTS = Path(__file__).parent / "results"


def argument_parser(documentation: str | None) -> argparse.ArgumentParser:
    """A parser described by the first line of a module's docstring."""
    return argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])


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
