"""Settings that hold for every test: hypothesis draws the same examples each time, seeds are fixed.

`make fuzz` (tests/fuzz.py) loads the profile `fuzz` instead, which draws new ones.
"""

import random
import sys

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on the machine and its load: neither a deadline nor `too_slow`
# says anything about the code.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=500,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give every test the same global random numbers, whatever ran before it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
