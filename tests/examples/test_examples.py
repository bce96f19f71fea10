"""Examples run, and do what they print.

Spans: examples.
"""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonia.exporting.bundle import export
from pneumonia.runtime.model.predictions import Prediction, write_predictions

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def shown(capsys):
    """Runs an example's `main` and returns the lines it prints."""

    def run(name, *arguments):
        runpy.run_path(str(EXAMPLES / name))["main"](*map(str, arguments))
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (96, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return tmp_path / "x.png"


def test_detect(shown, picture):
    (first, *_) = shown("detect.py", picture)
    assert first.startswith(f"{picture} ")
    assert "highest score 0." in first


def test_read_radiograph(shown, picture, tmp_path):
    assert shown("read_radiograph.py", picture)[0].startswith("(96, 80) uint8")
    (tmp_path / "notes").write_text("nothing")
    assert shown("read_radiograph.py", tmp_path / "notes")[0].startswith("not read: Neither DICOM")


def test_make_dataset(shown, tmp_path):
    assert shown("make_dataset.py", tmp_path / "x", "phantoms", 4) == [f"{tmp_path}/x: made"]
    assert shown("make_dataset.py", tmp_path / "x", "phantoms", 4) == [f"{tmp_path}/x: up to date"]
    again = [f"{tmp_path}/y: made"]
    assert shown("make_dataset.py", tmp_path / "y", "rsna", tmp_path / "x") == again
    table = tmp_path / "own.csv"
    names = sorted(path.stem for path in (tmp_path / "x" / "dicom").iterdir())
    table.write_text("image,x1,y1,x2,y2\n" + "".join(f"{name},9,9,40,60\n" for name in names))
    lines = shown("make_dataset.py", tmp_path / "z", "own", tmp_path / "x" / "dicom", table)
    assert lines == [f"{tmp_path}/z: made"]


def test_score(shown, picture, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(picture, tmp_path / "in")
    (tmp_path / "in" / "y.dcm").write_bytes(b"nothing")
    first, *failed = shown("score.py", tmp_path / "in", tmp_path / "out")
    assert "'scored': 1" in first
    assert failed == ["  y.dcm: rejected, not_dicom"]
    assert (tmp_path / "out" / "worklist.csv").is_file()


def test_constraints(shown):
    distance = {line.split()[0]: float(line.split()[2].rstrip(",")) for line in
                shown("constraints.py")}  # fmt: skip
    # of as many weights kept, the set with fewer rules is nearer
    assert distance["irregular"] < distance["columns"] < distance["filters"]


def test_admm(shown):
    assert shown("own_network/admm.py") == ["8x fewer weights, at 0 8 16 24 32 40 48 56"]


def test_remove_blocks(shown):
    assert shown("own_network/remove_blocks.py") == ["3 of 6 blocks left, 2.0x fewer weights"]


def test_prune_own_network(shown):
    assert shown("own_network/prune.py") == ["8 of 16 filters left"]


def test_shrink_and_export(shown, tmp_path):
    lines = shown("own_network/shrink_and_export.py", tmp_path / "small.onnx")
    assert lines[0] == "together: 0 + 1 3"
    assert lines[1].startswith("8 of 16 channels, error ")
    assert float(lines[1].split()[-1]) < 1e-5
    assert (tmp_path / "small.onnx").is_file()


def test_memory_devices(shown):
    bits, *targets = shown("memory_devices.py")
    # 8 x 864 + 4 x 4608 = 25,344 cells; with a body of 6 bits they are 34,560
    assert bits == "bits: {'stem': 8, 'body': 4}"
    # steps of (1 - 0.1) / 16 microsiemens above the lowest conductance, on one side only
    assert targets[0] == "+0.3: 0.269 and 0.100 microsiemens"
    assert targets[1] == "-0.1: 0.100 and 0.156 microsiemens"


def test_ternary(shown):
    assert shown("own_network/ternary.py") == ["[1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]"]


def test_evaluate_and_compare(shown, tmp_path):
    """Twelve images, six with a box: the first model ranks them rightly, the second does not."""
    box = np.array([[9, 9, 40, 40]], np.float32)
    rows = [f"i{n},9,9,31,31,1" if n % 2 else f"i{n},,,,,0" for n in range(12)]
    text = "\n".join(["patientId,x,y,width,height,Target", *rows])
    (tmp_path / "labels.csv").write_text(text + "\n")
    for name, scores in (("good", (0.1, 0.9)), ("poor", (0.6, 0.3))):
        found = [
            Prediction(f"i{n}", box, np.array([scores[n % 2]], np.float32), 1024, 1024)
            for n in range(12)
        ]
        write_predictions(str(tmp_path / f"{name}.csv"), found)
    files = [tmp_path / "good.csv", tmp_path / "poor.csv"]
    lines = shown("evaluate_and_compare.py", tmp_path / "labels.csv", tmp_path / "out", *files, 200)
    assert lines == ["AUROC 1.000", "difference -1.000, too few"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "compare.html").is_file()


def test_export_and_compile(shown, tiny_run, tmp_path):
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
    lines = shown("export_and_compile.py", tiny_run.run, tmp_path / "bundle", "x86-avx2")
    assert lines[0].startswith("model ")
    assert lines[1].startswith("libmodel-x86-avx2.so in ")
    assert lines[2] in ("positive", "negative")


def test_compile_own_network(shown, tmp_path):
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
    (line,) = shown("own_network/compile.py", tmp_path / "net.so", "x86-avx2")
    size, error = line.partition(" bytes for x86-avx2, error ")[::2]
    assert int(size.replace(",", "")) == (tmp_path / "net.so").stat().st_size
    assert float(error) < 1e-5


def test_int8(shown, tiny_run, tmp_path):
    export(tiny_run.run, tmp_path / "bundle")
    lines = shown("int8.py", tmp_path / "bundle", tiny_run.data, tmp_path / "int8")
    assert lines[0].startswith("rsna ")
    assert lines[-1].endswith("times as fast here, in ONNX Runtime")
    assert (tmp_path / "int8" / "manifest.json").is_file()


@pytest.mark.slow
def test_train(shown, tiny_run, tmp_path):
    changes = ("model.name=yolov3-tiny", "model.width=0.125", "model.size=64",
               "model.anchors=zoo", "batch_size=8", "workers=0")  # fmt: skip
    lines = shown("train.py", tiny_run.data, tmp_path / "run", 1, *changes)
    assert "best epoch 1 of 1" in lines[-1]
    assert (tmp_path / "run" / "best" / "weights.safetensors").is_file()


@pytest.mark.slow
def test_prune(shown, tiny_run, tmp_path):
    changes = ("ladder=1", "admm.epochs=1", "admm.rho=[0.01]", "retrain.epochs=1",
               "rates.stem_limit=2", "constraint.round_to=2")  # fmt: skip
    lines = shown("prune.py", tiny_run.run, tmp_path / "pruned", 3, *changes)
    assert float(lines[0].rpartition("(")[2].removesuffix("x)")) >= 2.97


@pytest.mark.slow
def test_finetune(shown, tiny_run, tmp_path):
    arguments = (tiny_run.run, tiny_run.data, tmp_path / "tuned", "retrain.epochs=1")
    lines = shown("finetune.py", *arguments)
    assert any(line.startswith("ap50") and "->" in line for line in lines)


@pytest.mark.slow
def test_quantize(shown, tiny_run, tmp_path):
    changes = ("admm.epochs=1", "admm.rho=[0.01]", "fixed=[0.5,1.0]", "snap_epochs=1",
               "batch_norm_batches=1")  # fmt: skip
    lines = shown("quantize.py", tiny_run.run, tmp_path / "few", "quant-4", *changes)
    assert lines[0] == "bits of a weight: [4]"


def test_examples_do_nothing_when_imported(capsys):
    for path in EXAMPLES.glob("*.py"):
        assert "main" in runpy.run_path(str(path))
    assert capsys.readouterr().out == ""
