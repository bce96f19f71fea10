"""Zip archives and DICOMDIRs: honest ones are scored, hostile ones cost themselves only.

Spans: pneumonia.scoring.inputs.files, pneumonia.runtime.child.archives.
"""

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.fileset import FileSet

from pneumonia.runtime.child import ChildLimits, DecodingChild
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.image.read_limits import ReadLimits
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.inputs.files import FileInput
from tests.runtime.dicoms import chest_dataset, save
from tests.scoring.patients import patient
from tests.support.processes import child_processes, open_files

SMALL = ScoreSettings(limits=ChildLimits(read=ReadLimits(max_file_bytes=4 << 20), memory_mb=600))


def png_bytes(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def dicom_bytes(folder, pixels, number=1):
    return save(folder / "x.dcm", chest_dataset(pixels, **patient(number))).read_bytes()


def outcomes(source, out, detector, settings=SMALL):
    summary = score_batch(source, out, detector, settings)
    assert sum(summary.document["totals"]["statuses"].values()) == len(summary.records)
    return {r.file.relative: (r.status, r.reason) for r in summary.records}


def test_members_are_scored_as_files_are(tmp_path, detector, bright, dark):
    source = tmp_path / "in"
    source.mkdir()
    with zipfile.ZipFile(source / "export.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("IMAGES/", b"")
        archive.writestr("IMAGES/a.dcm", dicom_bytes(tmp_path, bright))
        archive.writestr("b.png", png_bytes(dark))
        archive.writestr("readme.txt", "text")
        archive.writestr("inner.zip", "PK")
    (source / "c.png").write_bytes(png_bytes(bright))
    out = tmp_path / "out"
    assert outcomes(source, out, detector) == {
        "c.png": ("scored", ""),
        "export.ZIP/IMAGES/a.dcm": ("scored", ""),
        "export.ZIP/b.png": ("scored", ""),
        "export.ZIP/inner.zip": ("skipped", "nested_archive"),
        "export.ZIP/readme.txt": ("skipped", "other_file"),
    }
    flags = {r.file.image_id: r.flag(0.5) for r in score_batch(source, out, detector, SMALL).records
             if r.status == "scored"}  # fmt: skip
    assert flags == {"c": "positive", "a": "positive", "b": "negative"}
    again = score_batch(source, out, detector, SMALL)
    assert again.document["totals"]["reused"] == 3


def test_an_archive_of_any_name_given_by_itself(tmp_path, detector, bright):
    with zipfile.ZipFile(tmp_path / "export.bin", "w") as archive:
        archive.writestr("a.png", png_bytes(bright))
    found = outcomes(tmp_path / "export.bin", tmp_path / "out", detector)
    assert found == {"export.bin/a.png": ("scored", "")}


def write_raw(path, name, data, flags=0, method=0, size=None, crc=None):
    """A zip of one stored member whose header says what the test wants."""
    size = len(data) if size is None else size
    crc = zipfile.crc32(data) if crc is None else crc
    encoded = name.encode()
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 33, crc, len(data), size,
                        len(encoded), 0) + encoded  # fmt: skip
    central = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, flags, method, 0, 33, crc, len(data),
                          size, len(encoded), 0, 0, 0, 0, 0, 0) + encoded  # fmt: skip
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(data), 0)
    path.write_bytes(local + data + central + end)


HOSTILE = [
    ("../../evil.png", {}, ("rejected", "unsafe_path")),
    ("/etc/evil.png", {}, ("rejected", "unsafe_path")),
    ("..\\evil.png", {}, ("rejected", "unsafe_path")),
    ("C:\\evil.png", {}, ("rejected", "unsafe_path")),
    ("a.png", {"flags": 1}, ("rejected", "encrypted")),
    ("a.png", {"method": 97}, ("rejected", "archive_compression")),
    ("a.png", {"size": 5 << 20}, ("rejected", "resource_limit")),
    ("a.png", {"size": 2 << 20}, ("rejected", "resource_limit")),
    ("a.png", {"crc": 1}, ("failed", "archive_damaged")),
    ("a..png", {}, ("scored", "")),
]


def test_hostile_members(tmp_path, detector, bright):
    (tmp_path / "in").mkdir()
    for number, (name, changes, _) in enumerate(HOSTILE):
        write_raw(tmp_path / "in" / f"{number}.zip", name, png_bytes(bright), **changes)
    found = outcomes(tmp_path / "in", tmp_path / "out", detector)
    by_archive = {path.partition(".zip")[0]: outcome for path, outcome in found.items()}
    assert len(found) == len(HOSTILE)
    assert by_archive == {str(n): expected for n, (_, _, expected) in enumerate(HOSTILE)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert len(list((tmp_path / "in").iterdir())) == len(HOSTILE)


def test_damaged_archives(tmp_path, detector):
    (tmp_path / "in").mkdir()
    for number, data in enumerate([b"", b"PK", b"PK\3\4" + b"x" * 99, b"\0" * 5000]):
        (tmp_path / "in" / f"{number}.zip").write_bytes(data)
    found = outcomes(tmp_path / "in", tmp_path / "out", detector)
    assert found == {f"{number}.zip": ("rejected", "archive_damaged") for number in range(4)}


def test_a_truncated_archive(tmp_path, detector, bright):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", png_bytes(bright))
    (tmp_path / "x.zip").write_bytes((tmp_path / "x.zip").read_bytes()[:-30])
    found = outcomes(tmp_path / "x.zip", tmp_path / "out", detector)
    assert found == {"x.zip": ("rejected", "archive_damaged")}


def test_an_empty_archive_and_a_link_in_one(tmp_path, detector):
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    found = outcomes(tmp_path / "empty.zip", tmp_path / "out", detector)
    assert found == {"empty.zip": ("skipped", "empty_archive")}
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    found = outcomes(tmp_path / "link.zip", tmp_path / "out", detector)
    assert found == {"link.zip/link.dcm": ("skipped", "not_a_file")}


def test_a_bomb_costs_itself_only(tmp_path, detector, bright):
    """60 MB of zeros in 60 KB: refused by its ratio, and by its real size where that is hidden."""
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.dcm", b"\0" * (60 << 20))
        archive.writestr("fine.png", png_bytes(bright))
    data = bytearray((tmp_path / "in" / "bomb.zip").read_bytes())
    at = data.rindex(b"bomb.dcm") - 46  # its entry in the directory
    data[at + 24 : at + 28] = struct.pack("<L", 1000)
    (tmp_path / "in" / "liar.zip").write_bytes(data)
    assert len(data) < 100_000
    found = outcomes(tmp_path / "in", tmp_path / "out", detector)
    assert found["bomb.zip/bomb.dcm"] == ("rejected", "resource_limit")
    assert found["liar.zip/bomb.dcm"][1] in ("archive_damaged", "resource_limit")
    assert found["bomb.zip/fine.png"] == found["liar.zip/fine.png"] == ("scored", "")


def test_members_that_overlap(tmp_path, detector):
    """Fifield's bomb: thousands of entries for the same bytes."""
    write_raw(tmp_path / "x.zip", "a.png", b"x" * 2000)
    data = (tmp_path / "x.zip").read_bytes()
    at = data.index(b"PK\1\2")
    entry, end = data[at:-22], data[-22:]
    end = end[:8] + struct.pack("<2HL", 9, 9, 9 * len(entry)) + end[16:]
    (tmp_path / "x.zip").write_bytes(data[:at] + 9 * entry + end)
    found = outcomes(tmp_path / "x.zip", tmp_path / "out", detector)
    assert found == {"x.zip": ("rejected", "resource_limit")}


def test_too_many_members(tmp_path, monkeypatch):
    from pneumonia.runtime.child import archives
    from pneumonia.runtime.errors import DicomError

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}", "")
    assert len(archives.list_archive(str(tmp_path / "x.zip"), 99)) == 3
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(DicomError, match="too many"):
        archives.list_archive(str(tmp_path / "x.zip"), 99)


def test_two_members_of_one_name(tmp_path, detector, bright, dark):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", png_bytes(bright))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", png_bytes(dark))
    summary = score_batch(tmp_path / "x.zip", tmp_path / "out", detector, SMALL)
    assert [r.flag(0.5) for r in summary.records] == ["positive", "negative"]
    assert len({r.file.image_id for r in summary.records}) == 2
    assert len({r.key for r in summary.records}) == 2


def test_a_member_leaves_no_file_behind(tmp_path, bright):
    """Patients' images out of archives never reach a disk."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", png_bytes(bright))
    before = child_processes()
    with DecodingChild(ChildLimits()) as worker:
        found = worker.decode(str(tmp_path / "x.zip"), member=0)
        np.testing.assert_array_equal(found.pixels, bright)
        (child,) = child_processes() - before
        links = open_files(child)
    assert not [link for link in links if "pneumonia-member" in link]


# --- DICOMDIR -----------------------------------------------------------------------------------


@pytest.fixture
def medium(tmp_path, bright, dark):
    """An export medium of two images, as PS3.10 wants it."""
    fileset = FileSet()
    for number, pixels in ((1, bright), (2, dark)):
        tags = {**patient(number), "StudyID": str(number)}
        fileset.add(Path(save(tmp_path / "one.dcm", chest_dataset(pixels, **tags))))
    fileset.write(tmp_path / "medium")
    return tmp_path / "medium"


def referenced(medium):
    return sorted(
        path.relative_to(medium).as_posix()
        for path in medium.rglob("*")
        if path.is_file() and path.name != "DICOMDIR"
    )


def test_a_medium_by_its_folder_and_by_its_directory(tmp_path, medium, detector):
    names = referenced(medium)
    assert len(names) == 2
    whole = outcomes(medium, tmp_path / "o1", detector)
    scored = dict.fromkeys(names, ("scored", ""))
    assert whole == {"DICOMDIR": ("skipped", "not_an_image"), **scored}
    (medium / "notes.dcm").write_text("not on the list")
    by_list = outcomes(medium / "DICOMDIR", tmp_path / "o2", detector)
    assert by_list == dict.fromkeys(names, ("scored", ""))


def test_an_image_that_is_missing_on_the_medium_is_a_failure(tmp_path, medium, detector):
    first, second = referenced(medium)
    (medium / first).unlink()
    expected = {first: ("failed", "missing_file"), second: ("scored", "")}
    assert outcomes(medium / "DICOMDIR", tmp_path / "o1", detector) == expected
    found = outcomes(medium, tmp_path / "o2", detector)
    assert found == {"DICOMDIR": ("skipped", "not_an_image"), **expected}
    with zipfile.ZipFile(tmp_path / "medium.zip", "w") as archive:
        for path in sorted(medium.rglob("*")):
            archive.write(path, "EXPORT/" + path.relative_to(medium).as_posix())
    zipped = outcomes(tmp_path / "medium.zip", tmp_path / "o3", detector)
    root = "medium.zip/EXPORT/"
    assert zipped == {root + name: status for name, status in found.items()}


def test_a_medium_mounted_in_lower_case(tmp_path, medium, detector):
    names = referenced(medium)
    for path in sorted(medium.rglob("*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.lower()))
    found = outcomes(medium / "dicomdir", tmp_path / "out", detector)
    assert found == dict.fromkeys(names, ("scored", ""))


def test_a_directory_that_points_outside(tmp_path, medium, detector):
    import pydicom

    (tmp_path / "secret.dcm").write_bytes((medium / referenced(medium)[0]).read_bytes())
    directory = pydicom.dcmread(medium / "DICOMDIR")
    images = [r for r in directory.DirectoryRecordSequence if r.DirectoryRecordType == "IMAGE"]
    images[0].ReferencedFileID = ["..", "secret.dcm"]
    directory.save_as(medium / "DICOMDIR")
    found = outcomes(medium / "DICOMDIR", tmp_path / "out", detector)
    assert found["../secret.dcm"] == ("rejected", "unsafe_path")
    assert list(found.values()).count(("scored", "")) == 1


@pytest.mark.parametrize("data", [b"", b"text", b"\0" * 128 + b"DICM"])
def test_a_damaged_directory(tmp_path, detector, data):
    (tmp_path / "DICOMDIR").write_bytes(data)
    found = outcomes(tmp_path / "DICOMDIR", tmp_path.parent / f"{tmp_path.name}-out", detector)
    assert found == {"DICOMDIR": ("rejected", "dicomdir_damaged")}


def test_output_beside_a_directory_is_inside_the_medium(medium):
    with pytest.raises(ConfigError, match="inside the input"):
        FileInput(medium / "DICOMDIR").check(medium / "out")


def test_the_manifest_names_members(tmp_path, detector, bright):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("new\nline.png", png_bytes(bright))
    score_batch(tmp_path / "x.zip", tmp_path / "out", detector, SMALL)
    (line,) = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "x.zip/new\\nline.png"
