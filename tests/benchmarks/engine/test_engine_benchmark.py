"""The engine benchmark with engines that stop, wrong outputs and a machine with other load.

Spans: benchmarks.engine.cases, benchmarks.engine.runner, benchmarks.engine.scaling,
benchmarks.engine.vs_peers.
"""

import signal

import numpy as np
import pytest

from benchmarks.engine import vs_peers
from benchmarks.engine.cases import CASES, PreparedLibrary
from benchmarks.engine.runner import Runner
from benchmarks.engine.scaling import ThreadRun, scaling
from pneumonia.exporting.onnx_graph import emit_onnx
from pneumonia.runtime.model.spec import tensor_shapes
from tests.deploy_jetson.kernels.networks import one_layer


def test_runs_that_lost_a_core_do_not_count_as_quiet():
    one = [ThreadRun(0.020, 0)] * 4 + [ThreadRun(0.060, 3)]
    two = [ThreadRun(0.010, 0)] * 2 + [ThreadRun(0.090, 9)] * 3
    found = scaling({1: one, 2: two})
    assert found["ratio"] == pytest.approx(2)
    assert found["median_ratio"] == pytest.approx(20 / 90)
    assert found["quiet_median_ratio"] == pytest.approx(2)
    assert (found["quiet_runs"], found["quiet_runs_two_threads"]) == (4, 2)


def test_no_quiet_run_has_no_quiet_ratio():
    runs = [ThreadRun(0.020, 1)]
    assert scaling({1: runs, 2: runs})["quiet_median_ratio"] is None


def test_an_engine_that_stops_is_named_with_its_last_message(tmp_path):
    runner = Runner("ours", "absent", (1, 8, 8), tmp_path)
    assert runner.facts is None
    complaint = runner.last_error()
    assert "libabsent.so" in complaint
    assert str(tmp_path / "absent.ours.log") in complaint


def test_outputs_of_another_size_and_nan_count_as_wrong(tmp_path):
    spec = one_layer((3, 4, 8, 8))
    tensors = {name: np.ones(shape, np.float32) for name, shape in tensor_shapes(spec).items()}
    name = "shipped"
    (tmp_path / f"{name}.onnx").write_bytes(emit_onnx(spec, tensors).model.SerializeToString())
    size = sum(int(np.prod(spec.shapes()[output])) for output in spec.outputs)
    np.save(tmp_path / f"{name}.ncnn.npy", np.zeros(size // 2, np.float32))
    np.save(tmp_path / f"{name}.mnn.npy", np.full(size, np.nan, np.float32))
    np.save(tmp_path / f"{name}.ours.npy", np.zeros(size, np.float32))
    one = PreparedLibrary(CASES[name], tmp_path / "lib.so", {}, {}, {}, (1, 8, 8))
    found = vs_peers.errors(tmp_path, one)
    assert found == {"ncnn": None, "mnn": None, "ours": pytest.approx(1)}


def test_a_signal_is_named_with_the_stage(capsys):
    vs_peers.print_stage("columns9: generating")
    with pytest.raises(SystemExit, match="SIGTERM after: columns9: generating"):
        vs_peers.stopped(signal.SIGTERM, None)
    assert "columns9: generating" in capsys.readouterr().err
