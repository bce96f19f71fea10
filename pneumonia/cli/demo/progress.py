"""One progress bar over all verbs of the demo, and how long the whole will take."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import click

from pneumonia.cli.terminal import progress_to

TRAINING, OTHER = "training", "other"
MEASURED_STEPS = 12  # optimiser steps after which the speed of training is known
BAR_UNITS = 1000


class DemoStep(NamedTuple):
    """A part of the demo."""

    name: str  # shown beside the bar
    kind: str  # steps of one kind run at one speed: TRAINING or OTHER
    cost: float  # relative to the other steps of the kind; of OTHER, seconds on a usual machine


class DurationEstimate:
    """Expected duration of all steps, from the speed of what was done so far.

    Args:
        steps: In the order in which they run.
    """

    def __init__(
        self, steps: Sequence[DemoStep], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._steps = list(steps)
        self._clock = clock
        self._number = -1
        self._fraction = 0.0
        self._started = clock()
        self._measured_from: tuple[float, float] | None = None  # time, fraction
        # Kind -> seconds and cost of what was measured. The time until a step's first report
        # (imports, opening of files) says nothing about its speed.
        self._measured = {step.kind: (0.0, 0.0) for step in steps}

    def begin(self) -> DemoStep:
        """Begin the next step, which is returned; the one before has ended."""
        if self._number >= 0:
            self.advance(1.0)
            seconds, cost = self._speed_so_far(self._steps[self._number].kind)
            self._measured[self._steps[self._number].kind] = seconds, cost
        self._number += 1
        self._fraction, self._measured_from = 0.0, None
        return self._steps[self._number]

    def advance(self, fraction: float) -> None:
        """Set how much of the running step is done, 0 .. 1; it never falls."""
        if self._measured_from is None:
            self._measured_from = self._clock(), min(fraction, 1.0)
        self._fraction = max(self._fraction, min(fraction, 1.0))

    @property
    def spent_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def total_s(self) -> float:
        """Expected seconds of all steps; a kind not measured yet runs as its costs say."""
        total_s = self.spent_s
        for number, step in enumerate(self._steps[max(self._number, 0) :], max(self._number, 0)):
            seconds, cost = self._speed_so_far(step.kind)
            left = step.cost * (1 - (self._fraction if number == self._number else 0.0))
            total_s += left * (seconds / cost if cost else 1.0)
        return total_s

    def _speed_so_far(self, kind: str) -> tuple[float, float]:
        """Seconds and cost of the measured parts of the steps of a kind."""
        seconds, cost = self._measured[kind]
        if self._number < 0 or self._measured_from is None:
            return seconds, cost
        running = self._steps[self._number]
        if running.kind != kind:
            return seconds, cost
        since_s, fraction = self._measured_from
        done = running.cost * (self._fraction - fraction)
        return seconds + (self._clock() - since_s if done else 0.0), cost + done


class DemoProgress:
    """Receives the progress of every verb and shows one bar for all of them.

    Args:
        steps: In the order in which they run.
        on_measured: Called once with the expected seconds of the whole, when the first training
            has made MEASURED_STEPS steps.

    Attributes:
        expected_s: What `on_measured` was called with; None before.
    """

    def __init__(self, steps: Sequence[DemoStep], on_measured: Callable[[float], None]) -> None:
        self._estimate = DurationEstimate(steps)
        self._on_measured = on_measured
        self.expected_s: float | None = None
        self._step = steps[0]
        self._expected = 0.0
        self._counted = self._last = 0
        self._draw: Callable[[str], None] = lambda name: None

    @property
    def reports(self) -> int:
        """Units of work that the running step reported as done."""
        return self._counted + self._last

    @contextmanager
    def draw_bar(self) -> Iterator[None]:
        """Receive progress while inside, and draw the bar on stderr when that is a terminal."""
        with progress_to(self._receive):
            if not sys.stderr.isatty():
                yield
                return
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[s]}"),
            )
            with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("demo", total=BAR_UNITS, s="")

                def draw(name: str) -> None:
                    spent_s, total_s = self._estimate.spent_s, self._estimate.total_s
                    done = round(BAR_UNITS * spent_s / max(total_s, 1e-9))
                    text = f"{spent_s:.0f} of about {total_s:.0f} s"
                    bar.update(task, completed=done, description=f"demo: {name}", s=text)

                self._draw = draw
                yield

    def begin(self, expected: float = 0.0) -> None:
        """Begin the next step.

        Args:
            expected: Units of work that all phases of its verb will report; 0 = the verb has one
                phase, whose reports say how many there are.
        """
        self._step = self._estimate.begin()
        self._expected = expected
        self._counted = self._last = 0
        self._draw(self._step.name)

    def _receive(self, done: int, total: int, note: str) -> None:
        if done < self._last:  # the verb's next phase counts from 0 again
            self._counted += self._last
        self._last = done
        self._estimate.advance(self.reports / max(self._expected or total, 1))
        self._draw(self._step.name)
        measured = self._step.kind == TRAINING and done >= MEASURED_STEPS
        if measured and self.expected_s is None:
            self.expected_s = self._estimate.total_s
            self._on_measured(self.expected_s)


def show_estimate(total_s: float) -> None:
    """Print how long the whole takes."""
    text = f"{total_s:.0f} s" if total_s < 90 else f"{total_s / 60:.1f} minutes"
    click.secho(f"\nthe whole takes about {text} on this machine, by its first training steps",
                bold=True)  # fmt: skip
