"""Examples run, and do what they print."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_any_network():
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "any_network.py")],
        capture_output=True, text=True, check=True, timeout=250,
    )  # fmt: skip
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "10.0x" in rows["pruned"]
    assert "'2.weight': 3" in rows["ternary"]
    assert all(float(row.split()[2].rstrip(",")) > 0.97 for row in rows.values())


def test_examples_do_nothing_when_imported(capsys):
    for path in EXAMPLES.glob("*.py"):
        assert "main" in runpy.run_path(str(path))
    assert capsys.readouterr().out == ""
