"""Delays every thread but the main one at random, to find tests that look before a thread is ready.

    SLOW_SEED=1 python -m pytest -p tests.support.slow_threads tests/deploy_jetson/device/daemon

A test that fails so, and only so, reads a count, a file or a state that another thread makes: it
has to wait for it (`tests.support.waiting.wait_for`).
"""

import os
import random
import threading
import time
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
SHARE, PAUSE_S = 0.05, 0.05  # of the calls and returns of this project's functions
MOST_S = 1.0  # per thread and test

_chance = random.Random(int(os.environ.get("SLOW_SEED", "1")))
_spent_s: dict[int, float] = {}


def _delay(frame, event, argument):
    if event not in ("call", "return"):
        return
    path, thread = frame.f_code.co_filename, threading.get_ident()
    if not path.startswith(ROOT) or "site-packages" in path or _chance.random() > SHARE:
        return
    if _spent_s.get(thread, 0.0) < MOST_S:
        _spent_s[thread] = _spent_s.get(thread, 0.0) + PAUSE_S
        time.sleep(PAUSE_S)


def pytest_runtest_setup(item):
    _spent_s.clear()
    threading.setprofile(_delay)


def pytest_runtest_teardown(item):
    threading.setprofile(None)
