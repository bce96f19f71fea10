"""`pneumonia kernels`: what it tells the user to do next."""

import platform
import shutil

import pytest

from pneumonia.cli import group, run
from tests.runtime.bundles import brightness_detector, write_bundle


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason="needs a cross-compiler")
@pytest.mark.skipif(platform.machine() == "aarch64", reason="this is the other machine")
def test_a_library_for_another_machine_is_used_there(tmp_path, capsys):
    bundle = write_bundle(tmp_path / "bundle", *brightness_detector())
    assert run(group, ["kernels", str(bundle), "--target", "cortex-a57"]) == 0
    shown = capsys.readouterr().out
    assert f"next: copy {bundle} to such a machine; there: pneumonia score" in shown
    assert shown.rstrip().endswith("--bundle bundle")
