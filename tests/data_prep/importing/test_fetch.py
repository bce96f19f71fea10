"""Fetching: a stand-in for the Kaggle client shows each way it can end."""

import os
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from data_prep.importing import fetch
from data_prep.importing.fetch import COMPETITION, fetch_rsna
from pneumonia.runtime.errors import DataError, OutputError


@pytest.fixture(autouse=True)
def enough_space(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage(10**12, 0, 10**12))


def client(folder: Path, body: str) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "kaggle"
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return str(path)


def archive(folder: Path, members: dict[str, str]) -> Path:
    path = folder / "prepared.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in members.items():
            packed.writestr(name, text)
    return path


MEMBERS = {"stage_2_train_labels.csv": "patientId\n", "stage_2_train_images/a.dcm": "x"}


def test_it_downloads_unpacks_and_is_done_the_second_time(tmp_path: Path) -> None:
    prepared = archive(tmp_path, MEMBERS)
    log = tmp_path / "log"
    body = f'echo "$@" >> {log}\ncp {prepared} "$6/{COMPETITION}.zip"\n'
    out = tmp_path / "out"
    program = client(tmp_path / "bin", body)
    assert fetch_rsna(out, program) == out
    assert (out / "stage_2_train_images" / "a.dcm").read_text() == "x"
    assert not (out / f"{COMPETITION}.zip").exists()
    assert log.read_text().split() == [
        "competitions",
        "download",
        "-c",
        COMPETITION,
        "-p",
        str(out),
    ]
    fetch_rsna(out, program)
    assert len(log.read_text().splitlines()) == 1


def test_a_missing_client_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not installed.*pip install kaggle"):
        fetch_rsna(tmp_path / "out", "no-such-kaggle-client")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("OSError: Could not find kaggle.json. Make sure it is located in /home/x", "login failed"),
        ("401 - Unauthorized", "login failed"),
        ("403 Client Error: Forbidden for url", "accept its rules once on https"),
        ("404 - Not Found", "Update the client"),
        ("Max retries exceeded: Failed to resolve 'www.kaggle.com'", "cannot be reached"),
        ("Something new", "client failed.*Something new.*by hand"),
    ],
)
def test_each_complaint_has_a_remedy(tmp_path: Path, output: str, message: str) -> None:
    program = client(tmp_path / "bin", f"cat >&2 <<'END'\n{output}\nEND\nexit 1\n")
    with pytest.raises(DataError, match=message) as caught:
        fetch_rsna(tmp_path / "out", program)
    assert "\n" not in str(caught.value)


def test_no_archive_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no archive"):
        fetch_rsna(tmp_path / "out", client(tmp_path / "bin", "exit 0\n"))
    body = f'echo broken > "$6/{COMPETITION}.zip"\n'
    with pytest.raises(DataError, match="damaged"):
        fetch_rsna(tmp_path / "out", client(tmp_path / "bin", body))


def test_members_cannot_leave_the_folder(tmp_path: Path) -> None:
    prepared = archive(tmp_path, {**MEMBERS, "../../escaped.txt": "x"})
    body = f'cp {prepared} "$6/{COMPETITION}.zip"\n'
    fetch_rsna(tmp_path / "deep" / "out", client(tmp_path / "bin", body))
    escaped = list(tmp_path.rglob("escaped.txt"))
    assert [path.parent for path in escaped] == [tmp_path / "deep" / "out"]


def test_too_little_space_is_an_error_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage(1, 1, 10**9))
    program = client(tmp_path / "bin", "touch started\n")
    with pytest.raises(OutputError, match=r"8 GB; found 1\.0 GB"):
        fetch_rsna(tmp_path / "out", program)
    assert shutil.which(program)
    assert os.listdir(tmp_path / "out") == []
