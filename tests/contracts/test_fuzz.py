"""`make fuzz` prints what it finds as a case to pin."""

import subprocess
import sys

import pytest

from tests.contracts.tree import ROOT

FAULTY = """
import pytest
from hypothesis import given, strategies as st

@given(st.integers(), st.lists(st.integers()))
def test_drawn(tmp_path_factory, a, b):
    assert a < 50 or len(b) < 2

@given(data=st.data())
def test_drawn_inside(data):
    assert data.draw(st.integers()) < 5

@pytest.mark.parametrize("seed", [1])
def test_seeded(seed):
    assert seed == 1

def test_without_chance():
    raise AssertionError
"""


@pytest.mark.slow
def test_finds_are_printed_as_cases(tmp_path):
    (tmp_path / "test_faulty.py").write_text(FAULTY)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzz", "--minutes", "5",
         "--out", str(tmp_path / "out"), "-p", "tests.conftest", str(tmp_path / "test_faulty.py")],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=280,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    for line in ("@example(a=50, b=[0, 0])", "Draw 1: 5", "@reproduce_failure(", "    seed = "):
        assert line in done.stdout, line
    assert "test_without_chance" not in done.stdout
    assert "3 runs, 3 finds" in done.stdout
    assert (tmp_path / "out" / "finds.txt").read_text().count("FIND in") == 3
