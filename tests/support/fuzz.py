"""Run the property tests with new random numbers until the time is over: `make fuzz MINUTES=60`.

Every test that draws from hypothesis, and every test with a parameter `seed`, runs again and again.
A failure is printed as a case to pin (an `@example(...)` of the smallest arguments that hypothesis
found, or the seed) and written with its traceback to `finds.txt`; that test is left out of later
rounds. Further arguments go to pytest, for example `-m "not slow"`.
"""

import argparse
import random
import re
import sys
import time
from pathlib import Path

import click
import pytest

FAILING = re.compile(r"(?ms)^E( +)(?:Falsifying example|Failing test case): \w+\(\n(.*?)\n^E\1\)")
REPRODUCE = re.compile(r"@reproduce_failure\(.*?\)(?= as a decorator|\n|$)")


def seeded(item: pytest.Item) -> bool:
    """Whether a test has a parameter `seed`."""
    return "seed" in getattr(getattr(item, "callspec", None), "params", {})


def cases(item: pytest.Item, text: str) -> list[str]:
    """The lines to pin, from the report of a failed test."""
    found = []
    fixtures = {"self", *getattr(item, "fixturenames", ())}
    for indent, body in FAILING.findall(text):
        arguments = re.split(rf"^E{indent}    (?=\w+=)", body, flags=re.MULTILINE)[1:]
        joined = [" ".join(re.sub(r"(?m)^E +|#.*$", "", a).split()) for a in arguments]
        kept = [a.rstrip(",") for a in joined if a.partition("=")[0] not in fixtures]
        if not any(argument.endswith("data(...)") for argument in kept):
            found.append(f"@example({', '.join(kept)})")
    if not found:  # drawn inside the test: what was drawn, and how to repeat it
        found.extend(re.findall(r"(?m)^E +(Draw \d+.*)$", text) + REPRODUCE.findall(text))
    if seeded(item):
        found.append(f"seed = {item.callspec.params['seed']}")  # type: ignore[attr-defined]
    return list(dict.fromkeys(found)) or ["no arguments in the report: see the traceback"]


class Explorer:
    """A pytest plugin that repeats the random tests until a time is over."""

    def __init__(self, seconds: float, finds: Path) -> None:
        self.end = time.monotonic() + seconds
        self.finds = finds
        self.failed: dict[str, list[str]] = {}
        self.runs = 0
        self.current: pytest.Item | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [i for i in items if i.get_closest_marker("hypothesis") or seeded(i)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        rounds = 0
        while time.monotonic() < self.end:
            left = [item for item in session.items if item.nodeid not in self.failed]
            if not left:
                break
            rounds += 1
            for item, following in zip(left, left[1:] + left[:1], strict=True):
                if time.monotonic() >= self.end:
                    break
                self.run_once(item, following)
            click.echo(f"\nround {rounds}: {self.runs} runs, {len(self.failed)} finds")
        return True

    def run_once(self, item: pytest.Item, following: pytest.Item | None) -> None:
        self.current = item
        if seeded(item):
            seed = random.SystemRandom().randrange(2**32)
            item.callspec.params["seed"] = seed  # type: ignore[attr-defined]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        self.runs += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.failed or self.current is None:
            return
        lines = cases(self.current, report.longreprtext)
        self.failed[report.nodeid] = lines
        shown = "\n".join(["", f"FIND in {report.nodeid}", *(f"    {line}" for line in lines)])
        click.echo(shown)
        with self.finds.open("a", encoding="utf-8") as stream:
            stream.write(f"{shown}\n\n{report.longreprtext}\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, lines in self.failed.items():
            terminalreporter.write_line("\n".join([name, *(f"    {line}" for line in lines)]))
        terminalreporter.write_line(f"{self.runs} runs, {len(self.failed)} finds")


def main() -> int:
    """Explore, and return pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    options, more = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    explorer = Explorer(60 * options.minutes, options.out / "finds.txt")
    arguments = ["-q", "--hypothesis-profile=fuzz", "-p", "no:cacheprovider", "-s", *more]
    return int(pytest.main(arguments, plugins=[explorer]))


if __name__ == "__main__":
    sys.exit(main())
