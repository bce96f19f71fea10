"""Run an inference engine in a separate process, which reports the time of each call."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.engine import peers as engine_peers


def first_of_all() -> None:
    """Run this process as SCHED_FIFO, ahead of others on its core (as root, shared machine)."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))


class EngineStopped(SystemExit):
    """An engine's process ended; ends the benchmark unless it is caught."""


class Runner:
    """A separate single-threaded process that runs one engine on one case.

    Args:
        engine: Its name among the openers of `peers`.
        name: Of the case: its files are WORK/NAME.*.
        shape: (channels, height, width) of the input.
        work: Folder of files and peers.
        realtime: Run at real-time priority.
    """

    def __init__(
        self,
        engine: str,
        name: str,
        shape: tuple[int, int, int],
        work: Path,
        realtime: bool = False,
    ) -> None:
        ours = engine == engine_peers.OURS
        python = sys.executable if ours else str(work / "peers" / "bin" / "python")
        command = [python, engine_peers.__file__, engine, name, str(work), "1"]
        self.engine, self.case = engine, name
        self.seconds: list[float] = []
        self._log = work / f"{name}.{engine}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *map(str, shape)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                preexec_fn=first_of_all if realtime else None,  # noqa: PLW1509 - no threads here
            )  # fmt: skip
        line = self._answer()
        while line and not line.startswith("{"):
            line = self._answer()
        self.facts: dict[str, float] | None = json.loads(line) if line else None

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def once(self) -> float:
        """One inference; its CPU seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self._answer()
        if not answer:
            raise EngineStopped(f"{self.engine} on {self.case} stopped: {self.last_error()}")
        self.seconds.append(float(answer))
        return self.seconds[-1]

    def last_error(self) -> str:
        """The last line that the process wrote to stderr, and how it ended."""
        lines = self._log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no message")
        return f"{last.strip()} (status {self.process.wait()}; {self._log})"

    @property
    def ms(self) -> float:
        """Median latency."""
        return statistics.median(self.seconds) * 1e3

    def result(self) -> dict[str, float]:
        """What the results say."""
        shortest, longest = min(self.seconds) * 1e3, max(self.seconds) * 1e3
        return {
            "median_ms": self.ms, "min_ms": shortest, "max_ms": longest, **(self.facts or {}),
        }  # fmt: skip

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
