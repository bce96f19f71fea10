"""The demo: its table, its page, and the whole chain once."""

import json

import numpy as np
import pytest
from PIL import Image

from pneumonia.cli import group, run
from pneumonia.cli.demo.page import demo_result, result_rows
from pneumonia.cli.demo.processes import run_in_background
from pneumonia.runtime.errors import PneumoniaError

LATENCY_MS = {"dense": 1.4, "pruned": 1.0, "kernels": 0.5}


def compare_document():
    def metric(dense, pruned):
        return {"reference": {"value": dense}, "value": {"value": pruned}}

    def cost(scale):
        return {"parameters": 1000 * scale, "macs": 10**6 * scale, "file_bytes": 4000 * scale}

    metrics = {"rsna.kaggle": metric(0.6, 0.59), "coco.ap50": metric(0.9, 0.91)}
    return {
        "point": "kaggle",
        "cost": {"dense": cost(8), "pruned": cost(1)},
        "comparisons": [{"reference": "dense", "model": "pruned", "metrics": metrics}],
    }


def cells(result):
    return {row.title: (row.dense, row.pruned, row.change) for row in result_rows(result)}


def test_the_table_shows_cost_latency_and_accuracy():
    assert cells(demo_result(compare_document(), LATENCY_MS)) == {
        "parameters": ("8,000", "1,000", "8.0x less"),
        "MACs per image, millions": ("8.0", "1.0", "8.0x less"),
        "weights file, kB": ("32", "4", "8.0x less"),
        "latency, ms": ("1.40", "1.00", "1.4x faster"),
        "latency, ms, generated kernels": ("1.40", "0.50", "2.8x faster"),
        "RSNA score, test phantoms": ("0.600", "0.590", "-0.010"),
        "AP50, test phantoms": ("0.900", "0.910", "+0.010"),
    }


def test_without_kernels_the_table_says_so():
    latency_ms = {name: LATENCY_MS[name] for name in ("dense", "pruned")}
    found = cells(demo_result(compare_document(), latency_ms))
    assert found["latency, ms, generated kernels"] == ("1.40", "none", "")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert run(group, ["demo", "--smoke", "--out", str(tmp_path)]) != 0
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_verb_that_fails_beside_the_pruning_ends_the_demo(tmp_path):
    missing = ["inspect", tmp_path / "missing"]
    with pytest.raises(PneumoniaError, match="missing"), run_in_background([missing]):
        pass


def test_verbs_beside_the_pruning_show_their_output(capsys):
    with run_in_background([["--version"], ["train", "--help"]]):
        capsys.readouterr()
    shown = capsys.readouterr().out
    assert "$ pneumonia train --help" in shown
    assert "Train a detector on a dataset folder." in shown


@pytest.mark.slow
def test_the_whole_chain(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "demo"
    assert run(group, ["demo", "--smoke", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    for verb in ("data phantom", "train", "prune", "export", "score", "compare"):
        assert f"$ pneumonia {verb}" in shown
    assert f"page:    {out / 'index.html'}" in shown
    assert "pneumonia data import-rsna" in shown.partition("next:")[2]
    result = json.loads((out / "result.json").read_text())
    assert result["dense"]["parameters"] > 8 * result["pruned"]["parameters"]
    assert set(result["latency_ms"]) >= {"dense", "pruned"}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 6
    for link in ("report/compare.html", "dense-scores/report.html", "pruned-scores/report.html"):
        assert f'href="{link}"' in page
        assert (out / link).is_file()
    assert "blank frame" not in (out / "report" / "compare.html").read_text(encoding="utf-8")
    sheet = np.asarray(Image.open(out / "side-by-side.png").convert("L"), dtype=float)
    assert sheet[40:440, 10:410].std() > 20  # a film, not an even frame
