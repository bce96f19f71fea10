"""A whole batch against a detector whose answers are known by hand.

Spans: pneumonia.scoring.batch.
"""

import csv
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from pneumonia.runtime.child import ChildLimits
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import Engine
from pneumonia.runtime.errors import DISCLAIMER, ConfigError, OutputError
from pneumonia.runtime.model.predictions import read_predictions
from pneumonia.scoring.batch.folder import FolderInUse, locked_folder
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from tests.runtime.dicoms import chest_dataset, save, save_compressed
from tests.scoring.batches import (
    counting,
    fill,
    manifest,
    png,
    without_times,
)
from tests.support.warm_child import ODD

QUICK = ScoreSettings(limits=ChildLimits(command=ODD, seconds=120))


@pytest.fixture(scope="module")
def run(tmp_path_factory, detector, bright, dark):
    root = tmp_path_factory.mktemp("run")
    fill(root / "in", bright, dark)
    before = snapshot(root / "in")
    summary = score_batch(root / "in", root / "out", detector, QUICK)
    assert snapshot(root / "in") == before
    return root / "out", summary


def snapshot(folder):
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def test_every_file_has_exactly_one_status(run):
    out, summary = run
    found = {path: (line["status"], line["reason"]) for path, line in manifest(out).items()}
    assert found == {
        "a/sick.dcm": ("scored", ""),
        "abort.dcm": ("failed", "decoder_crash"),
        "blank.png": ("rejected", "blank_image"),
        "broken.dcm": ("rejected", "rows"),
        "child.dcm": ("scored", ""),
        "cut.dcm": ("failed", "pixel_data_truncated"),
        "fifo": ("skipped", "not_a_file"),
        "noise.dcm": ("failed", "decode_error"),
        "notes.txt": ("skipped", "other_file"),
        "picture.png": ("scored", ""),
        "side.dcm": ("skipped", "not_frontal_chest"),
        "text.dcm": ("rejected", "not_dicom"),
        "well.dcm": ("scored", ""),
    }
    totals = summary.document["totals"]
    assert totals["files"] == len(found) == sum(totals["statuses"].values())
    assert totals["statuses"] == {
        "scored": 4, "skipped": 3, "rejected": 3, "failed": 3, "pending": 0,
    }  # fmt: skip
    assert totals["flags"] == {"positive": 3, "indeterminate": 0, "negative": 1}
    assert manifest(out)["side.dcm"]["view"] == "LL"
    assert {record.file.image_id for record in summary.failures()} == {
        "abort", "blank", "broken", "cut", "noise", "text",
    }  # fmt: skip


def test_predictions_by_hand(run):
    out, _ = run
    found = {item.image_id: item for item in read_predictions(out / "predictions.csv")}
    assert set(found) == {"sick", "child", "picture", "well"}
    for name in ("sick", "child", "picture"):
        np.testing.assert_allclose(found[name].boxes, [[32, 16, 48, 32]], atol=1e-4)
        np.testing.assert_allclose(found[name].scores, [1], atol=1e-6)
    assert len(found["well"].scores) == 0
    assert (found["well"].width, found["well"].height) == (64, 64)


def test_worklist_is_sorted_by_what_needs_eyes_first(run):
    out, _ = run
    raw = (out / "worklist.csv").read_bytes()
    assert raw.count(b"\r\n") == 11
    rows = list(csv.DictReader(raw.decode("utf-8").splitlines()))
    assert [(row["flag"], row["image_id"]) for row in rows] == [
        ("positive", "sick"),
        ("positive", "child"),
        ("positive", "picture"),
        ("not scored", "abort"),
        ("not scored", "blank"),
        ("not scored", "broken"),
        ("not scored", "cut"),
        ("not scored", "noise"),
        ("not scored", "text"),
        ("negative", "well"),
    ]
    assert [row["rank"] for row in rows] == [str(i) for i in range(1, 11)]
    assert rows[0]["boxes"] == "1"
    assert rows[0]["threshold_name"] == "balanced"
    assert rows[1]["view"] == "OTHER"
    assert "outside_indication" in rows[1]["warnings"]
    assert rows[3]["max_score"] == ""
    assert {row["accession"] + row["study_date"] for row in rows} == {""}


def test_tables_say_what_they_were_made_with(run, detector):
    out, summary = run
    model = summary.document["model"]
    with (out / "worklist.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        assert row["model"] == detector.bundle.model_name
        assert row["model_version"] == model["version"]
        assert row["model_hash"] == detector.bundle.model_hash[:12]
        assert row["threshold"] == f"{model['threshold']:.4f}"
        assert row["disclaimer"] == DISCLAIMER
    for line in manifest(out).values():
        for word in (detector.bundle.model_name, model["version"], model["threshold_name"]):
            assert word in line["model"]
        assert detector.bundle.model_hash[:12] in line["model"]
        assert line["disclaimer"] == DISCLAIMER
    begun = json.loads((out / "audit.jsonl").read_text().splitlines()[0])
    assert begun["model"] == detector.bundle.model_name
    assert begun["model_version"] == model["version"]
    assert begun["disclaimer"] == DISCLAIMER


def test_study_documents_and_overlays(run, detector):
    out, summary = run
    records = {record.file.image_id: record for record in summary.records}
    document = json.loads((out / "studies" / f"{records['sick'].key}.json").read_text())
    assert document["schema"] == "pneumonia.study/1"
    assert document["flag"] == "positive"
    np.testing.assert_allclose(document["boxes_xyxy"], [[32, 16, 48, 32]], atol=1e-4)
    # spacing is (row, column): x in 0.25 mm, y in 0.5 mm
    np.testing.assert_allclose(document["boxes_xyxy_mm"], [[8, 8, 12, 16]], atol=1e-3)
    assert document["model"]["hash"] == detector.bundle.model_hash
    assert document["preprocessing"]["decoder"] == "pydicom"
    assert set(document["timings_ms"]) == {"decode", "detect"}
    assert len(list((out / "studies").iterdir())) == 4
    pictures = {path.stem for path in (out / "overlay").iterdir()}
    assert pictures == {records[name].key for name in ("sick", "child", "picture")}


def test_no_identifier_leaves(run):
    out, _ = run
    for path in out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"CANARY" not in data, path
            assert b"1.2.826.0.1.3680043.10.999" not in data, path


def copy_input(run, tmp_path):
    """An own output folder with the results of the shared run."""
    import shutil

    out = tmp_path / "out"
    shutil.copytree(run[0], out)
    return run[0].parent / "in", out


def test_a_second_run_scores_nothing_twice(run, tmp_path, detector):
    source, out = copy_input(run, tmp_path)
    engine, again = counting(detector)
    summary = score_batch(source, out, again, QUICK)
    assert engine.count == 0
    assert summary.document["totals"]["reused"] == 4
    assert without_times(out) == without_times(run[0])


def test_same_bytes_out_for_same_bytes_in(run, tmp_path, detector):
    source, out = run[0].parent / "in", tmp_path / "out"
    out.mkdir()
    (out / ".salt").write_bytes((run[0] / ".salt").read_bytes())
    score_batch(source, out, detector, ScoreSettings(limits=QUICK.limits, jobs=3))
    assert without_times(out) == without_times(run[0])


def test_another_threshold_fresh_and_lost_overlays_score_again(run, tmp_path, detector):
    source, out = copy_input(run, tmp_path)
    engine, again = counting(detector)
    score_batch(source, out, again, ScoreSettings("sensitive", QUICK.limits))
    assert engine.count == 4
    score_batch(source, out, again, ScoreSettings("sensitive", QUICK.limits, fresh=True))
    assert engine.count == 8
    next((out / "overlay").iterdir()).unlink()
    score_batch(source, out, again, ScoreSettings("sensitive", QUICK.limits))
    assert engine.count == 9
    assert len(list((out / "overlay").iterdir())) == 3


def test_changed_and_vanished_files(tmp_path, detector, bright, dark):
    source, out = tmp_path / "in", tmp_path / "out"
    png(source / "a.png", bright)
    png(source / "b.png", bright)
    score_batch(source, out, detector, QUICK)
    png(source / "a.png", dark)
    (source / "b.png").unlink()
    (out / "overlay" / "mine.png").write_bytes(b"not ours")
    summary = score_batch(source, out, detector, QUICK)
    assert [(r.file.image_id, r.flag(0.5)) for r in summary.records] == [("a", "negative")]
    assert [path.name for path in (out / "overlay").iterdir()] == ["mine.png"]
    assert len(list((out / "studies").iterdir())) == 1


@pytest.mark.parametrize("damage", ["", "{", '{"schema": "pneumonia.study/1"}'])
def test_damaged_results_are_made_again(tmp_path, detector, bright, damage):
    source, out = tmp_path / "in", tmp_path / "out"
    png(source / "a.png", bright)
    score_batch(source, out, detector, QUICK)
    (study,) = (out / "studies").iterdir()
    whole = json.loads(study.read_text())
    study.write_text(damage)
    score_batch(source, out, detector, QUICK)
    again = json.loads(study.read_text())
    assert again["boxes_xyxy"] == whole["boxes_xyxy"]


def test_all_overlays_or_none(tmp_path, detector, bright, dark):
    png(tmp_path / "in" / "a.png", bright)
    png(tmp_path / "in" / "b.png", dark)
    for choice, count in (("all", 2), ("none", 0), ("findings", 1)):
        score_batch(tmp_path / "in", tmp_path / "out", detector, ScoreSettings(
            limits=QUICK.limits, overlays=choice))  # fmt: skip
        folder = tmp_path / "out" / "overlay"
        assert len(list(folder.iterdir())) == count


def test_identifiers_only_when_asked_and_never_as_formulas(tmp_path, detector, bright):
    (tmp_path / "in").mkdir()
    dataset = chest_dataset(bright, AccessionNumber="=HYPERLINK(1)", StudyDate="20200102")
    save(tmp_path / "in" / "@a.dcm", dataset)
    score_batch(tmp_path / "in", tmp_path / "out", detector, ScoreSettings(
        limits=QUICK.limits, identifiers=True))  # fmt: skip
    with (tmp_path / "out" / "worklist.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["accession"] == "'=HYPERLINK(1)"
    assert row["image_id"] == "'@a"
    assert row["study_date"] == "20200102"
    assert read_predictions(tmp_path / "out" / "predictions.csv")[0].image_id == "@a"
    (study,) = (tmp_path / "out" / "studies").iterdir()
    told = json.loads(study.read_text())["identity"]
    assert told["SOPInstanceUID"] == str(dataset.SOPInstanceUID)
    assert told["StudyInstanceUID"] == str(dataset.StudyInstanceUID)
    # without them the next run leaves nothing of it
    score_batch(tmp_path / "in", tmp_path / "out", detector, QUICK)
    assert json.loads(study.read_text())["identity"] == {}
    assert "HYPERLINK" not in (tmp_path / "out" / "worklist.csv").read_text()


def test_keys_differ_between_output_folders(tmp_path, detector, bright):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.dcm", chest_dataset(bright))
    first = score_batch(tmp_path / "in", tmp_path / "o1", detector, QUICK).records[0]
    second = score_batch(tmp_path / "in", tmp_path / "o2", detector, QUICK).records[0]
    assert first.key != second.key
    assert first.study_key != second.study_key


def test_two_images_of_a_study_share_its_key(tmp_path, detector, bright, dark):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.dcm", chest_dataset(bright))
    save(tmp_path / "in" / "b.dcm", chest_dataset(dark))
    png(tmp_path / "in" / "c.png", dark)
    one, two, three = score_batch(tmp_path / "in", tmp_path / "out", detector, QUICK).records
    assert one.study_key == two.study_key != three.study_key
    assert len({one.key, two.key, three.key}) == 3


class BrokenEngine(Engine):
    name = "broken"

    def _run(self, batch):
        raw = np.zeros((len(batch), 6, 4, 4), np.float32)
        if batch.max() > 0.9:
            raw[:] = np.nan
        return {"boxes": raw}


def test_outputs_that_are_not_numbers_fail_one_image(tmp_path, detector, bright, dark):
    png(tmp_path / "in" / "a.png", bright)
    png(tmp_path / "in" / "b.png", dark)
    broken = Detector(detector.bundle, BrokenEngine(detector.bundle.spec))
    one, two = score_batch(tmp_path / "in", tmp_path / "out", broken, QUICK).records
    assert (one.status, one.reason) == ("failed", "invalid_output")
    assert two.status == "scored"
    assert "nan" not in (tmp_path / "out" / "predictions.csv").read_text().lower()


def test_too_many_boxes_are_capped_with_a_warning(tmp_path, detector, dark):
    png(tmp_path / "in" / "a.png", dark)
    capped = Detector(
        detector.bundle,
        BrokenEngine(detector.bundle.spec),
        detector.settings._replace(max_boxes=3),
    )
    (record,) = score_batch(tmp_path / "in", tmp_path / "out", capped, QUICK).records
    assert len(record.prediction.scores) == 3
    assert record.warnings == ("box_limit_reached",)


def test_degraded_without_finding_is_indeterminate(tmp_path, detector, dark):
    (tmp_path / "in").mkdir()
    from tests.runtime.dicoms import jpeg_bytes

    frame = jpeg_bytes(dark)[:-2]  # the end marker is missing, every pixel is there
    save_compressed(tmp_path / "in" / "a.dcm", chest_dataset(dark), frame + b"\0\0")
    (record,) = score_batch(tmp_path / "in", tmp_path / "out", detector, QUICK).records
    assert record.warnings == ("degraded",)
    assert record.flag(0.5) == "indeterminate"
    assert [path.stem for path in (tmp_path / "out" / "overlay").iterdir()] == [record.key]


# --- the output folder --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", "out", "deep/er/out"])
def test_output_inside_the_input_is_refused_before_anything(tmp_path, detector, bright, name):
    png(tmp_path / "in" / "a.png", bright)
    with pytest.raises(ConfigError, match="inside the input"):
        score_batch(tmp_path / "in", tmp_path / "in" / name, detector, QUICK)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.png"]


def test_output_inside_the_input_through_a_link(tmp_path, detector, bright):
    png(tmp_path / "in" / "a.png", bright)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(ConfigError, match="inside the input"):
        score_batch(tmp_path / "in", tmp_path / "link" / "out", detector, QUICK)


def test_output_that_cannot_be_written(tmp_path, detector, bright):
    png(tmp_path / "in" / "a.png", bright)
    (tmp_path / "file").write_bytes(b"x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot be written"):
            score_batch(tmp_path / "in", out, detector, QUICK)
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["dataset.json", "spec.json", "config.yaml", "run.json", "dicom"])
def test_an_output_folder_of_something_else_is_left_as_it_is(tmp_path, detector, bright, name):
    png(tmp_path / "in" / "a.png", bright)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(OutputError, match=f"holds other files.*{name}.*another folder"):
        score_batch(tmp_path / "in", tmp_path / "out", detector, QUICK)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    (tmp_path / "out" / name).rename(tmp_path / "out" / "notes.txt")
    assert score_batch(tmp_path / "in", tmp_path / "out", detector, QUICK).records


def test_a_second_run_on_a_folder_in_use_is_refused(tmp_path, detector, bright):
    png(tmp_path / "in" / "a.png", bright)
    with (
        locked_folder(tmp_path / "out"),
        pytest.raises(FolderInUse, match="Another run") as caught,
    ):
        score_batch(tmp_path / "in", tmp_path / "out", detector, QUICK)
    assert caught.value.exit_code == 75
    assert score_batch(tmp_path / "in", tmp_path / "out", detector, QUICK).records


def test_unknown_operating_point_before_anything_is_written(tmp_path, detector, bright):
    png(tmp_path / "in" / "a.png", bright)
    with pytest.raises(ConfigError, match="balanced, sensitive"):
        score_batch(tmp_path / "in", tmp_path / "out", detector, ScoreSettings("best"))
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_a_result(tmp_path, detector):
    (tmp_path / "in").mkdir()
    summary = score_batch(tmp_path / "in", tmp_path / "out", detector, QUICK)
    assert summary.records == ()
    assert summary.document["exit_reason"] == "all_scored"
    assert read_predictions(tmp_path / "out" / "predictions.csv") == []


def test_interrupt_finishes_the_image_and_the_next_run_the_rest(tmp_path, detector, bright):
    n_images = 60  # more than the queues hold
    for number in range(n_images):
        png(tmp_path / "in" / f"{number:02d}.png", bright)

    sent = []

    def interrupt(done, total, note):
        if done >= 2 and not sent:  # a second signal would end the run at once
            sent.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    summary = score_batch(tmp_path / "in", tmp_path / "out", detector, QUICK, interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert summary.interrupted
    statuses = [record.status for record in summary.records]
    done = statuses.count("scored")
    assert done >= 2
    assert statuses == ["scored"] * done + ["pending"] * (n_images - done)
    assert len(list((tmp_path / "out" / "studies").iterdir())) == done
    assert len(manifest(tmp_path / "out")) == n_images
    engine, again = counting(detector)
    summary = score_batch(tmp_path / "in", tmp_path / "out", again, QUICK)
    assert engine.count == n_images - done > 0
    assert {record.status for record in summary.records} == {"scored"}


def test_no_child_outlives_the_batch(run):
    names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    assert not [name for name in names if "ThreadPool" in name]
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if children.exists():
        # Other tests of the same process may own children, such as multiprocessing's tracker.
        assert [pid for pid in children.read_text().split() if _is_decoder(pid)] == []


def _is_decoder(pid):
    try:
        return b"runtime.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False  # it has just ended
