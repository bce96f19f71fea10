"""Settings that hold for every test: hypothesis draws the same examples each time, seeds are fixed.

`make test` takes the profile `quick`: fewer examples. `make fuzz` (tests/support/fuzz.py) loads the
profile `fuzz`, which draws new ones.
"""

from __future__ import annotations

import os
import random
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.tiny import TinyRun

# Threads of torch wait for each other on networks as small as these; child processes inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PNEUMONIA_COMPILE"] = "0"  # no test compiles kernels at first use unasked

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
settings.register_profile("quick", settings.get_profile("repeatable"), max_examples=15)
settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=100,
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


@pytest.fixture(autouse=True, scope="session")
def _cache_outside_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PNEUMONIA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The trained run of every test that needs some run; made once, whatever the processes."""
    from tests.support.tiny import TinyRun, once_a_session, train_tiny

    folder = once_a_session(tmp_path_factory, "tiny-run", train_tiny)
    return TinyRun(folder / "run", folder / "data")


@pytest.fixture(scope="session")
def warm_child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the process that decoding children are forked from (tests.support.warm_child)."""
    from tests.support.warm_child import warm_process

    with warm_process(tmp_path_factory.mktemp("child")) as address:
        yield address


@pytest.fixture(scope="module")
def forked_children(warm_child: str) -> Iterator[None]:
    """Quick decoding children for the tests of a module; commands start real ones all the same."""
    from tests.support.warm_child import forked_children

    with forked_children(warm_child):
        yield
