"""The check of the wall clock."""

import calendar

import pytest

from deploy_jetson.device.daemon.health import clock as clock_module
from deploy_jetson.device.daemon.health.clock import ClockCheck


@pytest.mark.parametrize(
    ("date", "is_set"),
    [
        ((1970, 1, 1), False),
        ((2018, 1, 28), False),  # systemd of JetPack 4 starts at its own build
        ((2022, 4, 21), False),  # so does that of Ubuntu 22.04
        ((2025, 12, 31), False),
        ((2026, 6, 1), True),
    ],
)
def test_a_clock_before_this_program_was_never_set(monkeypatch, date, is_set):
    now = calendar.timegm((*date, 12, 0, 0))
    monkeypatch.setattr(clock_module.time, "time", lambda: now)
    check = ClockCheck(lambda: 100.0)
    assert check.is_set() is is_set
    assert check.is_trusted() is is_set
