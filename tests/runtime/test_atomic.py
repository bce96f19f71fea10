"""Groups of files: whole under their names, markers last, and whatever was staged before them."""

import os

import pytest

from pneumonia.runtime import atomic
from pneumonia.runtime.errors import OutputError


def names(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_nothing_is_in_place_before_the_commit(tmp_path):
    group = atomic.FileGroup()
    group.add({str(tmp_path / "a" / "x.png"): b"picture"})
    group.add({str(tmp_path / "b" / "x.json"): b"done"}, is_marker=True)
    assert names(tmp_path) == ["a/.part-x.png", "b/.part-x.json"]
    group.commit()
    assert names(tmp_path) == ["a/x.png", "b/x.json"]
    assert (tmp_path / "a" / "x.png").read_bytes() == b"picture"
    group.commit()  # nothing is left to do


@pytest.mark.parametrize("whole_file_system", [True, False])
def test_files_are_synced_then_named_then_markers(tmp_path, monkeypatch, whole_file_system):
    log = []
    replace, fsync = os.replace, os.fsync

    def sync_all(handle, device):
        log.append("sync all")
        return whole_file_system

    def note_fsync(handle):
        log.append("fsync")
        fsync(handle)

    def note_replace(part, path):
        log.append(os.path.basename(path))
        replace(part, path)

    monkeypatch.setattr(atomic, "_sync_file_system", sync_all)
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    group = atomic.FileGroup()
    for name in ("1", "2"):
        group.add({str(tmp_path / "done" / f"{name}.json"): b"{}"}, is_marker=True)
        group.add({str(tmp_path / "out" / f"{name}.png"): b"p"})
    group.commit()
    files = ["sync all"] if whole_file_system else ["sync all", "fsync"] * 4
    assert log == [*files, "1.png", "2.png", "fsync", "1.json", "2.json", "fsync"]


def test_a_group_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        atomic.FileGroup().add({str(tmp_path / "file" / "x"): b""})
    group = atomic.FileGroup()
    (tmp_path / "y").mkdir()
    group.add({str(tmp_path / "y"): b"a file cannot replace a folder"})
    with pytest.raises(OutputError):
        group.commit()
