"""The TX2 estimator: hand-computed rooflines, public anchors, calibration.

Spans: deploy_jetson.device.estimate.calibration, deploy_jetson.device.estimate.roofline,
deploy_jetson.device.estimate.tx2, deploy_jetson.device.estimate.work.
"""

import json

import numpy as np
import pytest

from deploy_jetson.device.estimate.calibration import (
    CorrectionFactors,
    EstimateCalibration,
    MeasuredVersusPredicted,
    fit,
    read_calibration,
)
from deploy_jetson.device.estimate.roofline import (
    ENGINE_MODELS,
    KernelFacts,
    estimate,
    kernel_facts,
)
from deploy_jetson.device.estimate.tx2 import MODES
from deploy_jetson.device.estimate.work import LayerWork, network_work, totals
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import ArtefactError, ConfigError, DataError
from pneumonia.runtime.model.spec import tensor_shapes
from pneumonia.runtime.storage.bundle import load_bundle
from tests.runtime.bundles import varied_detector, write_bundle, write_manifest


def test_work_of_a_network_counted_by_hand():
    spec, tensors = varied_detector()
    work = {row.name: row for row in network_work(spec, tensors)}
    assert "d7" not in work  # a marker
    assert "r9" not in work  # another name for its inputs
    first = work["c0"]  # 3 -> 8, 3x3, stride 2 on 64 x 96
    assert first.macs == 8 * 3 * 9 * 32 * 48
    assert (first.weights, first.values_in, first.values_out) == (224, 3 * 64 * 96, 8 * 32 * 48)
    assert (first.filters, first.columns) == (8, 27)
    pruned = work["c4"]
    kept = int(np.count_nonzero(tensors["c4.weight"]))
    assert pruned.kept_macs == kept * 16 * 24 < pruned.macs
    assert work["s2"].macs == 0
    assert work["s2"].values_in == 2 * 8 * 32 * 48
    assert totals(list(work.values())).kept_weights < totals(list(work.values())).weights


LARGE = LayerWork("a", "conv", 10**9, 10**8, 10**5, 10**4, 10**5, 10**5, 256, 1152)


def test_arithmetic_bound_layer_by_hand():
    # GPU, mode 0: 256 cores x 2 flop x 1.3005 GHz x 2 (fp16) = 1.3317 TFLOP/s, half of it reached
    found = estimate([LARGE], "tensorrt", MODES[0])
    assert found.latency_s == pytest.approx(2e9 / (1.331712e12 * 0.5) + 15e-6)
    # CPU, mode 1: 4 cores x 1.2 GHz x 8 flop x 0.9 = 34.56 GFLOP/s; kernels skip zeros, ORT not
    kernels = estimate([LARGE], "kernels", MODES[1])
    assert kernels.latency_s == pytest.approx(2e8 / (34.56e9 * 0.85) + 3e-6)
    dense = estimate([LARGE], "onnxruntime", MODES[1])
    assert dense.latency_s == pytest.approx(2e9 / (34.56e9 * 0.40) + 30e-6)


def test_memory_bound_layer_by_hand():
    row = LayerWork("s", "shortcut", 0, 0, 0, 0, 10**7, 10**7)
    found = estimate([row], "tensorrt", MODES[1])  # 1.3312 GHz x 32 bytes, 60 %
    assert found.latency_s == pytest.approx(4e7 / (1.3312e9 * 32 * 0.6) + 15e-6)


def test_energy_is_power_times_time():
    found = estimate([LARGE], "tensorrt", MODES[3])
    assert found.energy_j == pytest.approx(found.busy_w * found.latency_s)
    assert found.net_energy_j == pytest.approx((found.busy_w - found.idle_w) * found.latency_s)
    record = json.loads(json.dumps(found.record()))
    assert record["estimated"] is True
    assert record["latency_ms"] == pytest.approx(found.latency_s * 1e3)


def test_public_anchors():
    """YOLOv3 at 416 px takes about 100 ms with TensorRT on a TX2; Max-Q stays below 7.5 W."""
    spec = build("yolov3", size=416)
    shapes = {k: s for k, s in tensor_shapes(spec).items() if k.endswith((".weight", ".bias"))}
    ones = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    work = network_work(spec, ones)
    found = estimate(work, "tensorrt", MODES[0])
    assert 0.07 < found.latency_s < 0.14
    assert 9.0 < found.busy_w < 13.0
    assert MODES[1].busy_w(True) < 7.5
    assert MODES[1].busy_w(False) < 7.5
    # dense direct convolution on four A57 cores: at least a second
    assert estimate(work, "kernels", MODES[0]).latency_s > 1.02


def test_modes_keep_their_order():
    for engine in ENGINE_MODELS:
        times = {n: estimate([LARGE], engine, mode).latency_s for n, mode in MODES.items()}
        assert times[0] <= times[3] <= times[1]
        assert times[0] <= times[2]
        assert MODES[1].busy_w(engine == "tensorrt") < MODES[0].busy_w(engine == "tensorrt")


def test_a_small_network_is_estimated_on_the_threads_it_runs_on():
    small = LARGE._replace(macs=10**8)  # less than a second thread is worth
    one = estimate([small], "kernels", MODES[1], KernelFacts(72e6, None))
    assert one.threads == one.record()["threads"] == 1
    assert one.latency_s == pytest.approx(72e6 / 1.2e9)
    four = estimate([small], "kernels", MODES[1], KernelFacts(72e6, None), threads=4)
    assert four.latency_s == pytest.approx(72e6 / (1.2e9 * 4 * 0.9))
    assert four.busy_w - one.busy_w == pytest.approx(3 * 1.6 * (1.2 / 2.0352) ** 2.4)
    assert estimate([LARGE], "kernels", MODES[1]).threads == 4
    assert estimate([LARGE], "onnxruntime", MODES[1], threads=1).threads == 1
    assert estimate([LARGE], "tensorrt", MODES[1], threads=1).threads == 0


def test_unknown_engine():
    with pytest.raises(ConfigError, match="tensorrt, kernels, onnxruntime"):
        estimate([LARGE], "reference", MODES[0])


# --- the generator's figures -----------------------------------------------------------------


def test_cycles_of_the_generator_replace_the_roofline():
    facts = KernelFacts(72e6, 0.9)
    found = estimate([LARGE], "kernels", MODES[1], facts)
    assert found.latency_s == pytest.approx(72e6 / 0.9 / (1.2e9 * 4 * 0.9))
    assert "llvm-mca" in found.basis
    without = estimate([LARGE], "kernels", MODES[1], KernelFacts(72e6, None))
    assert without.latency_s == pytest.approx(72e6 / (1.2e9 * 4 * 0.9))
    assert "llvm-mca" not in without.basis
    # a report that promises more than the machine has is not believed
    floor = estimate([LARGE], "kernels", MODES[1], KernelFacts(1.0, 1.0)).latency_s
    assert floor == pytest.approx(0.85 * estimate([LARGE], "kernels", MODES[1]).latency_s)


def report_bundle(folder, document):
    spec, tensors = varied_detector()
    write_bundle(folder, spec, tensors)
    identity = load_bundle(folder).model_hash
    if isinstance(document, dict):
        document.setdefault("model_hash", identity)
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "kernels-cortex-a57.json").write_text(text)
    write_manifest(folder, spec, identity)
    return load_bundle(folder)


def test_facts_from_a_bundle(tmp_path):
    loops = [{"per_cycle": value} for value in (0.99, 0.84, None, 0.96)]
    bundle = report_bundle(tmp_path, {"predicted_cycles": 1000, "hot_loops": loops})
    assert kernel_facts(bundle) == (1000.0, 0.96)


@pytest.mark.parametrize(
    "document",
    ["not json", {}, {"predicted_cycles": "x"}, {"predicted_cycles": -1},
     {"predicted_cycles": 5, "model_hash": "of another model"}, {"predicted_cycles": 1e999},
     {"predicted_cycles": 5, "hot_loops": [3]}, "[1]"],
)  # fmt: skip
def test_reports_that_say_nothing_useful(tmp_path, document):
    assert kernel_facts(report_bundle(tmp_path, document)) is None


# --- calibration -----------------------------------------------------------------------------


def test_factors_are_geometric_means():
    found = fit(
        [MeasuredVersusPredicted("tensorrt", 2.0, 1.2, 0.9),
         MeasuredVersusPredicted("tensorrt", 0.5, 1.2, 0.9),
         MeasuredVersusPredicted("kernels", 1.1, 1.2, 1.0)], ["a" * 64],
    )  # fmt: skip
    engine = found.engines["tensorrt"]
    assert engine.latency == pytest.approx(1.0)
    assert engine.latency_band == pytest.approx(2.0)
    assert engine.busy == pytest.approx(0.9)
    assert engine.power_band == pytest.approx(1.1)
    assert engine.runs == 2
    assert found.idle == pytest.approx(1.2)
    assert found.factors("onnxruntime") == CorrectionFactors(idle=found.idle)


def test_calibrated_estimate_meets_the_measurement(tmp_path):
    before = estimate([LARGE], "tensorrt", MODES[3])
    comparison = MeasuredVersusPredicted("tensorrt", 1.3, 1.1, 0.8)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(fit([comparison], []).document()))
    after = estimate([LARGE], "tensorrt", MODES[3], None, read_calibration(str(path)))
    assert after.latency_s == pytest.approx(1.3 * before.latency_s)
    assert after.idle_w == pytest.approx(1.1 * before.idle_w)
    assert after.busy_w == pytest.approx(0.8 * before.busy_w)
    assert after.latency_band == pytest.approx(1.1)
    other = estimate([LARGE], "kernels", MODES[3], None, read_calibration(str(path)))
    assert other.latency_s == estimate([LARGE], "kernels", MODES[3]).latency_s
    assert other.latency_band == 1.5


def test_nothing_to_fit_and_nonsense():
    with pytest.raises(DataError, match="Nothing to calibrate"):
        fit([], [])
    with pytest.raises(DataError, match="too far"):
        fit([MeasuredVersusPredicted("tensorrt", 500.0, 1.0, 1.0)], [])
    with pytest.raises(DataError, match="too far"):
        fit([MeasuredVersusPredicted("tensorrt", float("nan"), 1.0, 1.0)], [])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "pneumonia.tx2-calibration/1"}',
     '{"schema": "x", "engines": {}, "idle": 1, "sources": []}',
     '{"schema": "pneumonia.tx2-calibration/1", "engines": {"a": {"b": 1}}, "idle": 1, '
     '"sources": []}',
     '{"schema": "pneumonia.tx2-calibration/1", "engines": {}, "idle": 1e9, "sources": []}',
     '{"schema": "pneumonia.tx2-calibration/1", "engines": {"a": {"latency": 0}}, "idle": 1, '
     '"sources": []}'],
)  # fmt: skip
def test_files_that_are_no_calibration(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ArtefactError, match="calibration"):
        read_calibration(str(path))
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_calibration(str(tmp_path / "missing"))


def test_document_round_trip(tmp_path):
    made = fit([MeasuredVersusPredicted("kernels", 1.2, 1.0, 1.0)], ["b" * 64])
    path = tmp_path / "c.json"
    path.write_text(json.dumps(made.document()))
    assert read_calibration(str(path)) == EstimateCalibration(made.engines, made.idle, ["b" * 64])
