"""What a newcomer meets: a patient CD, odd files, own results, and hints that name the way out.

Spans: pneumonia.scoring.batch, pneumonia.scoring.inputs, pneumonia.scoring.outputs.
"""

import ast
import gzip
import json
import re
import struct

import numpy as np
import pytest

from pneumonia.cli import group, run
from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.image.read_limits import ReadLimits
from pneumonia.runtime.text import counted
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.image.selection import load_rules
from pneumonia.scoring.inputs import files
from pneumonia.scoring.inputs.query import RemoteImage
from pneumonia.scoring.outputs import OutputSettings
from pneumonia.scoring.outputs.wording import reason_text
from tests.contracts.tree import ROOT, source_files
from tests.runtime import dicoms
from tests.runtime.dicoms import chest_dataset, save
from tests.scoring.patients import patient

PROGRAMS = ("LICENSE", "COPYRIGHT", "viewer.jar", "back.gif", "next.gif", "bin/java", "cacerts")
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture(scope="module")
def disc(tmp_path_factory, detector, bright):
    """A patient CD with one good and three bad images among a viewer's files; its outputs."""
    root = tmp_path_factory.mktemp("disc")
    images = root / "in" / "DICOM"
    images.mkdir(parents=True)
    (root / "in" / "bin").mkdir()
    save(images / "IM000001", chest_dataset(bright, **patient(1)))
    (images / "IM000002").write_bytes(b"\1\2\3" * 99)
    (images / "1.2.840.3").write_bytes(b"\1\2\3" * 99)
    (images / "four.dcm").write_bytes(b"\1\2\3" * 99)
    for name in PROGRAMS:
        (root / "in" / name).write_bytes(b"\xca\xfe\xba\xbe" * 9)
    (root / "in" / "five.dcm.gz").write_bytes(gzip.compress((images / "IM000001").read_bytes()))
    score_batch(root / "in", root / "out", detector)
    return root


def test_files_that_are_no_images_do_not_hide_bad_images(disc):
    page = (disc / "out" / "report.html").read_text(encoding="utf-8")
    failures = page[page.index('id="failures"') : page.index('id="reading"')]
    table = failures[failures.index("<table>") : failures.index("</table>")]
    assert re.findall(r'class="name">([^<]+)<', table) == [
        "DICOM/1.2.840.3", "DICOM/IM000002", "DICOM/four.dcm", "five.dcm.gz",
    ]  # fmt: skip
    assert "Not scored: 4 of 12 files" in failures
    rest = failures[failures.index("</table>") :]
    assert rest.count("<summary>") == 1
    assert "7 files that are not images" in rest
    assert all(f"<li>{name}</li>" in rest for name in PROGRAMS)
    worklist = page[page.index('<section id="worklist"') : page.index('<section id="cases"')]
    assert worklist.count("data-flag") == 5


def test_every_file_still_has_its_line_in_the_manifest(disc):
    lines = [json.loads(line) for line in (disc / "out" / "manifest.jsonl").open()]
    assert {line["path"]: line["status"] for line in lines if line["path"] in PROGRAMS} == (
        dict.fromkeys(PROGRAMS, "rejected")
    )


def test_the_terminal_groups_them_as_well(disc, tmp_path, bundle_folder, capsys):
    arguments = ["score", str(disc / "in"), str(tmp_path / "out"), "--bundle", bundle_folder]
    assert run(group, [*arguments, "--engine", "reference"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["not scored"] * 4 + ["not images", "error"]
    assert lines[4] == "not images: 7 files (COPYRIGHT, LICENSE, back.gif, ...)"
    assert "Unpack it first" in lines[3]


def _no_preamble(path):
    data = save(path, chest_dataset(RAMP), dicoms.IMPLICIT).read_bytes()
    path.write_bytes(data[144 + struct.unpack("<I", data[140:144])[0] :])


ODD = {
    "force_read": _no_preamble,
    "allow_deflated": lambda path: save(path, chest_dataset(RAMP), dicoms.DEFLATED),
    "first_frame": lambda path: save(path, chest_dataset(np.stack([RAMP] * 3))),
}


@pytest.mark.parametrize("setting", [k for k, v in ReadLimits()._asdict().items() if v is False])
def test_a_refusal_that_an_option_lifts_names_the_option(setting, tmp_path):
    ODD[setting](tmp_path / "x")
    with pytest.raises(DicomError) as caught:
        read_radiograph(tmp_path / "x")
    assert f"--{setting.replace('_', '-')}" in reason_text(caught.value.reason)
    read_radiograph(tmp_path / "x", ReadLimits(**{setting: True}))


@pytest.fixture(scope="module")
def with_own_results(tmp_path_factory, detector, bright):
    """A scored image beside the SR, GSPS and SC made of it, as they come back from a PACS."""
    root = tmp_path_factory.mktemp("own")
    (root / "in").mkdir()
    save(root / "in" / "one.dcm", chest_dataset(bright, **patient(1)))
    settings = ScoreSettings(outputs=OutputSettings(dicom=("sr", "gsps", "sc")))
    score_batch(root / "in", root / "first", detector, settings)
    for path in (root / "first" / "dicom").iterdir():
        path.rename(root / "in" / path.name.partition("-")[2])
    return root / "in"


def test_own_results_are_named_as_such(with_own_results, detector, tmp_path):
    summary = score_batch(with_own_results, tmp_path / "out", detector)
    found = {r.file.relative: (r.status, r.reason) for r in summary.records}
    assert found.pop("one.dcm") == ("scored", "")
    assert found == dict.fromkeys(("sr.dcm", "gsps.dcm", "sc.dcm"), ("skipped", "own_result"))


def test_a_foreign_report_is_not_called_another_examination(bright, detector, tmp_path):
    (tmp_path / "in").mkdir()
    report = chest_dataset(bright, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    save(tmp_path / "in" / "sr.dcm", report)
    (record,) = score_batch(tmp_path / "in", tmp_path / "out", detector).records
    assert (record.status, record.reason) == ("skipped", "not_an_image")


@pytest.mark.parametrize(
    ("modality", "description", "reason"),
    [
        ("SR", "RESEARCH ONLY: yolov3", "own_result"),
        ("PR", "RESEARCH ONLY: yolov3", "own_result"),
        ("OT", "RESEARCH ONLY: yolov3", "own_result"),
        ("SR", "Radiologist's report", "not_an_image"),
        ("OT", "Scanned film", "not_frontal_chest"),
        ("DX", "RESEARCH ONLY: yolov3", ""),
    ],
)
def test_series_of_a_server_are_named_without_fetching_them(modality, description, reason):
    image = RemoteImage("1", "2", "3", [modality], ["CHEST"], description)
    assert image.entry(load_rules()).reason == reason


def test_boxes_below_the_threshold_are_marked(disc):
    (study,) = (disc / "out" / "studies").iterdir()
    document = json.loads(study.read_text())
    threshold = document["operating_point"]["threshold"]
    assert document["boxes_above_threshold"] == [s >= threshold for s in document["scores"]]
    assert len(document["boxes_above_threshold"]) == len(document["boxes_xyxy"]) > 0


def test_after_a_server_the_next_step_is_the_report(
    disc, tmp_path, bundle_folder, capsys, monkeypatch
):
    monkeypatch.setattr(files.FileInput, "kind", "pacs", raising=False)
    original = files.FileInput.__init__

    def from_server(self, source, kind="pacs", endpoint=""):
        original(self, source, kind, endpoint)

    monkeypatch.setattr(files.FileInput, "__init__", from_server)
    arguments = ["score", str(disc / "in" / "DICOM" / "IM000001"), str(tmp_path / "out")]
    assert run(group, [*arguments, "--bundle", bundle_folder, "--engine", "reference"]) == 0
    shown = capsys.readouterr().out
    assert f"next: open {tmp_path / 'out' / 'report.html'}" in shown
    assert "evaluate" not in shown


def test_counts_have_the_right_number():
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert counted(1200, "study", "studies") == "1,200 studies"


PLURAL = re.compile(
    r"^ (?:[a-z]+ )?(?:files|images|runs|lines|studies|wheels|folders|boxes)\b(?!/)"
)


def test_no_message_says_1_files():
    """A number before a plural goes through `counted`."""
    found = []
    for path in source_files("pneumonia/cli", "pneumonia/scoring"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for before, after in zip(node.values, node.values[1:], strict=False):
                text = str(after.value) if isinstance(after, ast.Constant) else ""
                constant = ast.unparse(before).strip("f'{}").isupper()
                if isinstance(before, ast.FormattedValue) and not constant and PLURAL.match(text):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
    assert found == []
