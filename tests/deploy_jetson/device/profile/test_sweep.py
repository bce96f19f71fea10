"""`profile` as a whole: predictions, runs on a pretended board, verification, tampering."""

import json
import os
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from deploy_jetson.device.profile import sweep as sweep_module
from deploy_jetson.device.profile.__main__ import main
from deploy_jetson.device.profile.recording import RAW_FILES, ProtocolSettings, read_recording
from deploy_jetson.device.profile.request import ProfileRequest
from deploy_jetson.device.profile.summary import check_flags
from deploy_jetson.device.profile.sweep import profile
from deploy_jetson.device.profile.verify import (
    NO_DIFFERENCE,
    calibrate,
    compare,
    differences,
    ratio_of,
    read_energy,
    verify,
)
from deploy_jetson.device.tensorrt import engine as engine_module
from pneumonia.cli import group, run
from pneumonia.runtime.errors import (
    ArtefactError,
    ConfigError,
    DataError,
    DeviceError,
    OutputError,
)
from pneumonia.runtime.storage.bundle import load_bundle
from tests.deploy_jetson.device.tensorrt.fake_tensorrt import Host, HostCuda, fake_module
from tests.deploy_jetson.device.trees import NVPMODEL, iio_tree, tx2_board, write
from tests.runtime.bundles import brightness_detector, varied_detector, write_bundle

QUICK = ProtocolSettings(3, 0.15, 3, 0.2, 40, 2.0, 50.0)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    dense = write_bundle(folder / "dense", *varied_detector())
    small = write_bundle(folder / "pruned", *brightness_detector())
    return str(dense), str(small)


@pytest.fixture(scope="module")
def predicted(bundles, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("predicted") / "p")
    document = profile(
        ProfileRequest(bundles, out, sensor="model", engines=("tensorrt", "kernels"))
    )
    return out, document


# --- prediction ------------------------------------------------------------------------------


def test_prediction_sweeps_modes_engines_and_stages(predicted):
    out, document = predicted
    assert len(document["runs"]) == 5 * 2 * 2
    assert document["estimated"] is True
    for entry in document["runs"]:
        about, found = entry["about"], entry["figures"]
        expected = about["prediction"]
        assert about["latency_basis"] == about["power_basis"] == "estimated"
        # The virtual run gives back exactly what was put in, to the microsecond of the stamps.
        assert found["latency_ms"]["p50"] == pytest.approx(expected["latency_ms"], abs=2e-3)
        total = found["total"]
        assert total["mean_w"] == pytest.approx(expected["busy_w"], rel=1e-4)
        assert total["idle_w"] == pytest.approx(expected["idle_w"], rel=1e-4)
        assert total["gross_j_per_inference"]["median"] == pytest.approx(
            expected["energy_j"], rel=0.02
        )
        assert found["flags"] == []
        for name in RAW_FILES:
            assert os.path.isfile(os.path.join(out, entry["folder"], name))
    assert verify(out) == 20


def test_document_is_what_was_written(predicted):
    out, document = predicted
    assert json.loads(json.dumps(document)) == read_energy(out)
    assert document["schema"] == "pneumonia.energy/1"
    assert document["disclaimer"] == "Research use only. Not a medical device."


def test_page_says_that_nothing_was_measured(predicted):
    page = Path(predicted[0], "report.html").read_text(encoding="utf-8")
    assert "ESTIMATED" in page
    assert "Research use only. Not a medical device." in page
    for engine in ("tensorrt", "kernels"):
        assert f"by power mode and stage of pruning: {engine}" in page
    assert page.count("<svg") == 2 + 12
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page


def test_page_names_the_most_frugal_and_the_fastest_run(predicted):
    out, document = predicted
    page = Path(out, "report.html").read_text(encoding="utf-8")

    def name(entry):
        mode = entry["about"]["mode"]
        return (
            f"{entry['about']['bundle']['label']}, {entry['about']['engine']}, "
            f"mode {mode['number']} {mode['name']}"
        )

    found = [entry["figures"] for entry in document["runs"]]
    energies = [one["total"]["gross_j_per_inference"]["median"] for one in found]
    times = [one["latency_ms"]["p50"] for one in found]
    frugal, fast = (document["runs"][int(np.argmin(some))] for some in (energies, times))
    assert f"Least energy per inference: {name(frugal)}, " in page
    assert f"Fastest: {name(fast)}, " in page


def test_prediction_of_what_is_unknown(bundles, tmp_path):
    with pytest.raises(ConfigError, match="No estimate for this engine"):
        profile(
            ProfileRequest(bundles, str(tmp_path / "o"), sensor="model", engines=("reference",))
        )


# --- measurement -----------------------------------------------------------------------------


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A TX2's files under a root, and an nvpmodel on PATH."""
    root = tmp_path / "root"
    iio_tree(root)
    tx2_board(root)
    state = tmp_path / "state"
    state.write_text("3")
    programs = tmp_path / "bin"
    write(programs / "nvpmodel", NVPMODEL.format(state=state, works=1))
    (programs / "nvpmodel").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr(sweep_module, "SETTLE_S", 0.0)
    return root, state


def test_measured_run_on_a_pretended_tx2(bundles, board, tmp_path):
    root, state = board
    out = str(tmp_path / "out")
    request = ProfileRequest(
        bundles[:1], out, (1, 0), ("reference",), "auto", QUICK, root=str(root)
    )
    document = profile(request)
    assert [entry["about"]["mode"]["name"] for entry in document["runs"]] == ["MAXQ", "MAXN"]
    assert state.read_text() == "3"  # as it was
    assert document["estimated"] is False
    entry = document["runs"][0]
    about, found = entry["about"], entry["figures"]
    assert (about["latency_basis"], about["power_basis"]) == ("measured", "measured")
    assert about["board"]["tx2"] is True
    total = found["total"]
    assert total["rail"] == "VDD_IN"
    # The files never change, so every joule is 9.273 W times the latency and what time passes
    # between two runs: more on a busy machine (exact answers: the tests on a pretended clock).
    latency = found["latency_ms"]["mean"] / 1e3
    assert total["gross_j_per_inference"]["median"] / (9.273 * latency) > 0.5
    assert total["mean_w"] == pytest.approx(9.273)
    assert found["image_latency_ms"]["p50"] > 0
    names = {item["flag"] for item in found["flags"]}
    assert {"short_windows", "constant_reading"} <= names
    assert verify(out) == 2
    with pytest.raises(DeviceError, match="Profile is flagged"):
        check_flags(document)


@pytest.mark.slow
def test_every_engine_of_a_sweep_is_closed(bundles, board, tmp_path, monkeypatch):
    root, _ = board
    real, closed = sweep_module.open_engine, []

    def opening(*arguments):
        engine = real(*arguments)
        monkeypatch.setattr(engine, "close", lambda: closed.append(engine))
        return engine

    monkeypatch.setattr(sweep_module, "open_engine", opening)
    request = ProfileRequest(bundles, str(tmp_path / "o"), (), ("reference",), "auto",
                      QUICK._replace(windows=1), root=str(root))  # fmt: skip
    document = profile(request)
    assert len(closed) == len(document["runs"]) == 2
    hashes = [entry["about"]["input_sha256"] for entry in document["runs"]]
    assert len(set(hashes)) == 2  # two sizes of input


def test_tensorrt_on_a_gpu_below_its_cap(bundles, board, tmp_path, monkeypatch):
    root, _ = board
    tx2_board(root, gpu=(850000000, 1300500000))
    loaded = load_bundle(bundles[0])
    host = Host(loaded)
    module = types.ModuleType("tensorrt")
    module.__dict__.update(vars(fake_module("8.2.1.8", host)))
    module.__spec__ = types.SimpleNamespace(name="tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(engine_module, "CudaRuntime", lambda: HostCuda(host))
    monkeypatch.setenv("PNEUMONIA_CACHE", str(tmp_path / "cache"))
    out = str(tmp_path / "o")
    request = ProfileRequest(bundles[:1], out, (), ("tensorrt",), "auto", QUICK._replace(windows=1),
                      root=str(root))  # fmt: skip
    entry = profile(request)["runs"][0]
    details = entry["about"]["engine_details"]
    assert (details["precision"], details["compute_capability"]) == ("fp16", "62")
    assert entry["about"]["board"]["libraries"]["tensorrt"] == "8.2.1.8"
    assert entry["about"]["prediction"]["engine"] == "tensorrt"
    flagged = {item["flag"]: item["why"] for item in entry["figures"]["flags"]}
    assert "gpu at 850 MHz, cap 1300 MHz, nvhost_podgov" in flagged["governor"]
    assert "throttled" not in flagged  # nothing holds the clock back
    with pytest.raises(DataError, match="Nothing to calibrate"):
        calibrate([out])  # a low clock: another board than the one predicted


def test_mode_is_put_back_after_a_failure(bundles, board, tmp_path, monkeypatch):
    root, state = board

    def broken(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module, "measure", broken)
    request = ProfileRequest(bundles[:1], str(tmp_path / "o"), (0,), ("reference",), "auto", QUICK,
                      root=str(root))  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        profile(request)
    assert state.read_text() == "3"


def test_engine_that_is_not_here_is_skipped_with_its_reason(bundles, board, tmp_path):
    root, _ = board
    request = ProfileRequest(bundles[:1], str(tmp_path / "o"), (), ("kernels", "reference"), "auto",
                      QUICK._replace(windows=1), root=str(root))  # fmt: skip
    document = profile(request)
    assert [entry["about"]["engine"] for entry in document["runs"]] == ["reference"]
    assert "no generated library" in document["skipped"][0]["why"]
    alone = request._replace(out=str(tmp_path / "alone"), engines=("kernels",))
    with pytest.raises(DeviceError, match=r"No engine could be profiled.*no generated library"):
        profile(alone)
    assert not (tmp_path / "alone").exists()


def test_output_that_cannot_be_written_is_an_error_before_measuring(bundles, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "measure", None)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "o", "/proc/pneumonia-out"):
        with pytest.raises(OutputError, match="cannot be written"):
            profile(ProfileRequest(bundles, str(out), sensor="model"))


def test_tx2_without_a_sensor_models_power_only(bundles, board, tmp_path):
    root, _ = board
    request = ProfileRequest(bundles[:1], str(tmp_path / "o"), (), ("onnxruntime",), "model",
                      QUICK._replace(windows=1), threads=1, root=str(root))  # fmt: skip
    about = profile(request)["runs"][0]["about"]
    assert (about["latency_basis"], about["power_basis"]) == ("measured", "estimated")


def test_replayed_power_is_called_replayed(bundles, tmp_path):
    path = tmp_path / "samples.csv"
    stamps = np.arange(0, 60, 0.02)
    rows = [f"{t:.2f},{3000 + 38 * (i % 5)}" for i, t in enumerate(stamps)]
    path.write_text("stamp_s,VDD_IN_mw\n" + "\n".join(rows) + "\n")
    request = ProfileRequest(
        bundles[1:], str(tmp_path / "o"), (), ("reference",), f"replay:{path}", QUICK
    )
    document = profile(request)
    entry = document["runs"][0]
    assert entry["about"]["power_basis"] == "replayed"
    assert entry["figures"]["total"]["mean_w"] == pytest.approx(3.076, rel=0.01)
    assert entry["figures"]["rails"][0]["quality"]["resolution_mw"] == 38.0


def test_calibration_from_a_measured_run(bundles, board, tmp_path):
    root, _ = board
    out = str(tmp_path / "measured")
    profile(ProfileRequest(bundles[:1], out, (), ("onnxruntime",), "auto", QUICK, threads=1,
                    root=str(root)))  # fmt: skip
    entry = read_energy(out)["runs"][0]
    factors = entry["figures"]["latency_ms"]["p50"] / entry["about"]["prediction"]["latency_ms"]
    found = calibrate([out])
    assert found.engines["onnxruntime"].latency == pytest.approx(factors)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(found.document()))
    request = ProfileRequest(bundles[:1], str(tmp_path / "again"), (3,), ("onnxruntime",), "model",
                      threads=1, calibration=str(path))  # fmt: skip
    again = profile(request)["runs"][0]
    assert again["figures"]["latency_ms"]["p50"] == pytest.approx(
        entry["figures"]["latency_ms"]["p50"], rel=0.01, abs=2e-3
    )
    assert "calibrated by 1 run" in again["about"]["prediction"]["basis"]


def test_predictions_calibrate_nothing(predicted):
    with pytest.raises(DataError, match="Nothing to calibrate"):
        calibrate([predicted[0]])


# --- requests that cannot work -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"bundles": ()}, ConfigError, "No bundle"),
        ({"engines": ("quantum",)}, ConfigError, "Unknown engine"),
        ({"modes": (7,)}, ConfigError, "Unknown power mode"),
        ({"sensor": "thermometer"}, ConfigError, "Unknown power sensor"),
        ({"settings": ProtocolSettings(windows=0)}, ConfigError, "cannot be run"),
        ({"settings": ProtocolSettings(rate_hz=0)}, ConfigError, "cannot be run"),
        ({"settings": ProtocolSettings(window_s=-1)}, ConfigError, "cannot be run"),
        ({"settings": ProtocolSettings(idle_s=float("nan"))}, ConfigError, "cannot be run"),
        ({"settings": ProtocolSettings(min_inferences=0)}, ConfigError, "cannot be run"),
        ({"settings": ProtocolSettings(window_s=float("inf"))}, ConfigError, "cannot be run"),
        ({"bundles": ("/no/such/bundle",)}, ArtefactError, "Not a model bundle"),
        ({"calibration": "/no/such/file"}, ArtefactError, "Calibration cannot be read"),
        ({"sensor": "replay:/no/such/file"}, DataError, "Not a recording"),
    ],
)
def test_requests_refused_before_anything_runs(bundles, tmp_path, change, error, text):
    out = tmp_path / "out"
    with pytest.raises(error, match=text):
        profile(ProfileRequest(bundles, str(out), sensor="model")._replace(**change))
    assert not out.exists()


def test_output_that_holds_something_is_not_touched(bundles, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds other files"):
        profile(ProfileRequest(bundles, str(tmp_path), sensor="model"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# --- verification ------------------------------------------------------------------------------


@pytest.fixture
def copied(predicted, tmp_path):
    """One run of a profile, free to be tampered with; gives (folder, run folder)."""
    out = tmp_path / "copy"
    shutil.copytree(predicted[0], out)
    document = json.loads((out / "energy.json").read_text())
    document["runs"] = document["runs"][:2]
    (out / "energy.json").write_text(json.dumps(document))
    return out, out / document["runs"][0]["folder"]


def rewrite(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rehash(out):
    """What a careful forger would do: make the hashes fit again."""
    from pneumonia.runtime.storage.bundle import file_sha256

    def change(document):
        for entry in document["runs"]:
            for name, record in entry["files"].items():
                record["sha256"] = file_sha256(out / entry["folder"] / name)

    rewrite(out / "energy.json", change)


def test_untouched_copy_agrees(copied):
    assert verify(str(copied[0])) == 2


def nicer(document):
    total = document["runs"][0]["figures"]["total"]
    total["gross_j_per_inference"]["median"] *= 0.999


def no_flags(document):
    document["runs"][1]["figures"]["flags"] = [{"flag": "x", "why": "y"}]


def other_engine(document):
    document["runs"][0]["about"]["engine"] = "kernels"


def same_id(document):
    ids = [entry["about"] for entry in document["runs"]]
    ids[1]["run_id"] = ids[0]["run_id"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (nicer, "figures.total.gross_j_per_inference.median is not what the raw samples give"),
        (no_flags, r"figures.flags is not what"),
        (other_engine, "about.engine"),
        (same_id, "same id"),
        (lambda d: d["runs"].clear(), "no run"),
        (lambda d: d["runs"][0]["figures"].pop("rails"), "figures.rails"),
    ],
)
def test_changed_figures_are_found(copied, change, text):
    rewrite(copied[0] / "energy.json", change)
    with pytest.raises(ArtefactError, match=text):
        verify(str(copied[0]))


@pytest.mark.parametrize("name", RAW_FILES)
def test_changed_raw_files_are_found(copied, name):
    path = copied[1] / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(ArtefactError, match=f"{name} was changed"):
        verify(str(copied[0]))
    path.unlink()
    with pytest.raises(ArtefactError, match=f"{name} is missing"):
        verify(str(copied[0]))


def test_forged_samples_with_fitting_hashes_are_found(copied):
    path = copied[1] / "samples.csv"
    lines = path.read_text().splitlines()
    lines[40] = lines[40].split(",")[0] + ",10.000"
    path.write_text("\n".join(lines) + "\n")
    rehash(copied[0])
    with pytest.raises(ArtefactError, match="is not what the raw samples give"):
        verify(str(copied[0]))


def test_shortened_window_with_fitting_hashes_is_found(copied):
    def change(document):
        window = next(p for p in document["phases"] if p["kind"] == "window")
        window["end_s"] = (window["start_s"] + window["end_s"]) / 2

    rewrite(copied[1] / "record.json", change)
    rehash(copied[0])
    with pytest.raises(ArtefactError, match=r"lasts only|outside"):
        verify(str(copied[0]))


def test_left_out_window_is_found(copied):
    def change(document):
        phases = document["phases"]
        phases.remove(next(p for p in phases if p["kind"] == "window"))

    rewrite(copied[1] / "record.json", change)
    rehash(copied[0])
    with pytest.raises(ArtefactError, match=r"not those of the protocol|phase that does"):
        verify(str(copied[0]))


@pytest.mark.parametrize("cut", [0, 1, 10, 1000])
@pytest.mark.parametrize("name", [*RAW_FILES, "energy.json"])
def test_cut_files_are_one_line_of_error(copied, name, cut):
    path = copied[0] / name if name == "energy.json" else copied[1] / name
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ArtefactError) as caught:
        verify(str(copied[0]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["phases", "settings", "sensor", "faults", "notes", "snapshots"])
@pytest.mark.parametrize("value", [None, 3, "x", [1], {"a": "b"}, [[1, 2]], {"kind": 1e999}])
def test_records_of_other_shapes_are_refused(copied, key, value):
    def change(document):
        document[key] = value

    rewrite(copied[1] / "record.json", change)
    with pytest.raises(ArtefactError):
        verify(str(copied[0]))


def test_folder_outside_the_profile_is_refused(copied):
    rewrite(copied[0] / "energy.json", lambda d: d["runs"][0].update(folder="../../etc"))
    with pytest.raises(ArtefactError, match="Not a profile"):
        verify(str(copied[0]))


@pytest.mark.parametrize("key", ["about", "figures", "settings", "files", "folder"])
@pytest.mark.parametrize("value", [None, 3, "x", [1], {"mode": 3}, {"bundle": [], "engine": 1}])
def test_entries_of_other_shapes_are_refused(copied, key, value):
    rewrite(copied[0] / "energy.json", lambda d: d["runs"][0].update({key: value}))
    for check in (verify, lambda folder: compare(folder, folder), lambda f: calibrate([f])):
        with pytest.raises(ArtefactError):
            check(str(copied[0]))


def test_differences_names_the_place():
    assert differences({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.0 + 1e-13}]}) == []
    assert differences({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.1}]}) == ["figures.a[1].b"]
    assert differences({"a": 1}, {}) == ["figures.a"]
    assert differences([1], [1, 2], "x") == ["x"]
    assert differences(True, 1) == ["figures"]
    assert differences(None, None) == []


# --- comparison --------------------------------------------------------------------------------


def test_ratio_with_its_interval():
    less = ratio_of([1.0, 1.01, 0.99, 1.0, 1.0], [2.0, 2.02, 1.98, 2.0, 2.0], "x")
    assert less.ratio == 0.5
    assert 0.48 < less.low <= 0.5 <= less.high < 0.52
    assert less.verdict == "less"
    assert ratio_of([2.0] * 5, [1.0] * 5, "x").verdict == "more"
    noisy = ratio_of([1.0, 3.0, 2.0, 1.5, 2.5], [2.1, 1.2, 2.9, 1.9, 2.0], "x")
    assert noisy.verdict == NO_DIFFERENCE
    few = ratio_of([1.0, 1.0], [2.0, 2.0], "x")
    assert (few.low, few.verdict) == (None, NO_DIFFERENCE)


def test_compare_matches_engine_and_mode(bundles, predicted, tmp_path):
    out = str(tmp_path / "slow")
    profile(ProfileRequest(bundles, out, (1,), ("tensorrt",), "model"))
    found = compare(out, predicted[0])
    assert [item.name for item in found] == ["dense, tensorrt, 1", "pruned, tensorrt, 1"]
    assert all(item.verdict == NO_DIFFERENCE for item in found)
    other = str(tmp_path / "other")
    profile(ProfileRequest(bundles, other, (1,), ("onnxruntime",), "model"))
    with pytest.raises(DataError, match="no run in common"):
        compare(out, other)


# --- both front ends ---------------------------------------------------------------------------


def test_command_line(bundles, tmp_path, capsys):
    out = str(tmp_path / "o")
    words = ["profile", bundles[0], "--out", out, "--sensor", "model", "--modes", "0,3"]
    assert run(group, words) == 0
    printed = capsys.readouterr().out
    assert "ESTIMATED" in printed
    assert "dense-tensorrt-mode3" in printed
    assert run(group, ["profile", "verify", out]) == 0
    assert run(group, ["profile", "compare", out, out]) == 0
    assert "no difference" in capsys.readouterr().out
    assert run(group, words) == 5  # not empty any more
    assert run(group, ["profile", "--out", out + "2", bundles[0], "--sensor", "model"]) == 0
    assert run(group, ["profile", "calibrate", out, "--out", out + ".json"]) == 6


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["profile", "--out", "x"], 2),
        (["profile", "no-such-bundle", "--out", "x", "--sensor", "model"], 4),
        (["profile", "b", "--out", "x", "--modes", "fast"], 2),
        (["profile", "b", "--out", "x", "--sensor", "sundial"], 2),
        (["profile", "verify", "no-such-folder"], 4),
        (["profile", "compare", "a", "b"], 4),
        (["profile", "b"], 2),
    ],
)
def test_command_line_mistakes(words, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(group, words) == code
    assert list(tmp_path.iterdir()) == []


def test_strict_fails_but_keeps_the_figures(bundles, tmp_path, capsys):
    path = tmp_path / "s.csv"
    path.write_text("stamp_s,VDD_IN_mw\n" + "".join(f"{i / 20},3000\n" for i in range(400)))
    out = tmp_path / "o"
    words = ["profile", bundles[1], "--out", str(out), "--sensor", f"replay:{path}", "--engine",
             "reference", "--windows", "1", "--window-s", "0.2", "--min-inferences", "2",
             "--idle-s", "0.2", "--rate-hz", "20", "--strict"]  # fmt: skip
    assert run(group, words) == 10
    assert (out / "report.html").is_file()
    assert "Profile is flagged" in capsys.readouterr().err


def test_stand_alone(bundles, tmp_path, capsys):
    out = str(tmp_path / "o")
    assert main([bundles[0], "--out", out, "--sensor", "model", "--modes", "0,3"]) == 0
    assert "ESTIMATED" in capsys.readouterr().out
    assert main(["verify", out]) == 0
    assert main(["verify", str(tmp_path)]) == 4
    assert main(["no-such-bundle", "--out", out + "x", "--sensor", "model"]) == 4
    assert "error: Not a model bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "shown"),
    [
        (["verify"], 2, "usage: pneumonia-device profile verify"),
        (["verify", "--help"], 0, "usage: pneumonia-device profile verify"),
        (["--help"], 0, "usage: pneumonia-device profile"),
        (["B", "--out", "o", "--modes", "0,x"], 2, "expected numbers with commas, found '0,x'"),
    ],
)
def test_wrong_use_names_the_operators_command(words, code, shown, capsys):
    with pytest.raises(SystemExit, match=str(code)):
        main(words)
    assert shown in "".join(capsys.readouterr())


def test_both_front_ends_have_the_same_options():
    from deploy_jetson.device.profile.__main__ import parser
    from pneumonia.cli.device.profile import measure

    ours = set(re.findall(r"(?m)^  (--?[a-z][a-z-]*)", parser().format_help()))
    theirs = {name for option in measure.params for name in option.opts} - {"bundles"}
    assert theirs == ours - {"-h", "--help"}


def test_hostile_names_are_escaped(tmp_path):
    folder = tmp_path / '<img src=x onerror="alert(1)">&'
    bundle = write_bundle(folder, *brightness_detector())
    out = str(tmp_path / "o")
    profile(ProfileRequest((str(bundle),), out, (0, 1), ("tensorrt",), "model"))
    page = Path(out, "report.html").read_text(encoding="utf-8")
    assert "<img" not in page
    assert "&lt;img" in page
    assert verify(out) == 2


def test_interrupted_sweep_keeps_what_it_has(bundles, tmp_path, monkeypatch):
    out = str(tmp_path / "o")
    real, count = sweep_module.measure, []

    def stops(*arguments):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(sweep_module, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        profile(ProfileRequest(bundles, out, sensor="model"))
    assert verify(out) == 2
    assert Path(out, "report.html").is_file()


def test_recording_of_a_sweep_is_readable(predicted):
    out, document = predicted
    recording = read_recording(os.path.join(out, document["runs"][0]["folder"]))
    assert recording.sensor.basis == "estimated"
    assert recording.phases[0].start_s == 0.0
