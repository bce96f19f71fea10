"""One bar over all verbs of the demo: durations estimated from what was measured."""

import pytest

from pneumonia.cli import terminal
from pneumonia.cli.demo import progress as demo_progress
from pneumonia.cli.demo.progress import (
    MEASURED_STEPS,
    OTHER,
    TRAINING,
    DemoProgress,
    DemoStep,
    DurationEstimate,
)

STEPS = (
    DemoStep("making", OTHER, 10),
    DemoStep("training", TRAINING, 16),
    DemoStep("pruning", TRAINING, 28),
    DemoStep("comparing", OTHER, 5),
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_each_kind_runs_on_at_its_own_speed():
    clock = Clock()
    estimate = DurationEstimate(STEPS, clock)
    estimate.begin()
    estimate.advance(0.0)
    clock.now = 20.0  # 10 of cost in 20 s
    estimate.advance(1.0)
    estimate.begin()
    clock.now = 25.0  # imports, not training
    estimate.advance(0.0)
    clock.now = 33.0
    estimate.advance(0.25)  # 4 of cost in 8 s
    assert estimate.spent_s == 33.0
    assert estimate.total_s == pytest.approx(33 + 2 * (12 + 28) + 2 * 5)
    clock.now = 57.0
    estimate.begin()
    assert estimate.total_s == pytest.approx(57 + 2 * 28 + 2 * 5)


def test_a_kind_that_was_not_measured_runs_as_its_costs_say():
    estimate = DurationEstimate(STEPS, Clock())
    estimate.begin()
    assert estimate.total_s == pytest.approx(10 + 16 + 28 + 5)


def test_a_step_never_goes_back():
    clock = Clock()
    estimate = DurationEstimate(STEPS[:1], clock)
    estimate.begin()
    estimate.advance(0.0)
    clock.now = 5.0
    estimate.advance(0.5)
    total_s = estimate.total_s
    estimate.advance(0.1)
    assert estimate.total_s == total_s == pytest.approx(10.0)


def run_training(report, steps):
    for step in range(1, steps + 1):
        report(step, steps, "epoch")


def test_the_expected_time_is_given_once_after_the_first_steps_of_training():
    found = []
    progress = DemoProgress(STEPS, found.append)
    with progress.draw_bar():
        progress.begin()
        with terminal.progress_bar("phantoms") as report:
            run_training(report, 40)
        assert found == []
        progress.begin()
        with terminal.progress_bar("train") as report:
            run_training(report, MEASURED_STEPS - 1)
            assert found == []
            run_training(report, 48)
        progress.begin(expected=80)
        with terminal.progress_bar("prune") as report:
            run_training(report, 30)
            run_training(report, 50)
        assert progress.reports == 80
    assert len(found) == 1
    assert found[0] > 0


def test_verbs_draw_their_own_bars_again_afterwards():
    received = []
    receiver = terminal.progress_to(lambda done, total, note: received.append(done))
    with receiver, terminal.progress_bar("train") as report:
        report(3, 4, "")
    assert received == [3]
    with terminal.progress_bar("train") as report:
        report(4, 4, "")  # stderr of a test is not a terminal: nothing is drawn
    assert received == [3]


@pytest.mark.parametrize(("seconds", "text"), [(48.4, "48 s"), (150.0, "2.5 minutes")])
def test_the_printed_time_is_in_seconds_or_minutes(seconds, text, capsys):
    demo_progress.show_estimate(seconds)
    assert f"about {text} on this machine" in capsys.readouterr().out
