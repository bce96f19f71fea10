"""Folders of the images: full, not writable, of two daemons."""

import errno
import os

import pytest

from deploy_jetson.device.daemon.store.spool import AlreadyRunning, ImageSpool
from tests.deploy_jetson.device.daemon.rig import (
    film,
    image,
    running,
    settings,
)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "spool_not_writable"),
        (errno.EIO, "spool_not_writable"),
    ],
)
def test_a_disk_that_takes_nothing_refuses_images(tmp_path, monkeypatch, code, reason):
    def fail(handle):
        raise OSError(code, "CANARY^PHI")

    with running(settings(tmp_path), work=False) as rig:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            assert rig.post(image()) == (507, {"error": reason})
        assert list((tmp_path / "incoming").iterdir()) == []
        assert rig.service.journal.waiting()[0] == 0
        assert rig.post(image())[0] == 202


@pytest.mark.parametrize("name", ["incoming", "results", "dicom", "quarantine"])
def test_a_folder_that_cannot_be_written_is_not_ready(tmp_path, name):
    with running(settings(tmp_path), work=False) as rig:
        assert rig.get("/readyz")[1]["ready"]
        (tmp_path / name).rename(tmp_path / "away")
        for is_file in (False, True):  # gone, and a file where the folder was
            if is_file:
                (tmp_path / name).touch()
            assert rig.get("/readyz")[1]["reasons"] == ["spool_not_writable"]
            assert "pneumonia_ready 0.0" in rig.request("GET", "/metrics")[1].decode()
            if name == "incoming":
                assert rig.post(image()) == (507, {"error": "spool_not_writable"})
        (tmp_path / name).unlink()
        (tmp_path / "away").rename(tmp_path / name)
        assert rig.get("/readyz")[1]["ready"]
        assert rig.post(image())[0] == 202


def test_a_folder_without_rights_is_not_ready(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    with running(settings(tmp_path), work=False) as rig:
        (tmp_path / "incoming").chmod(0o500)
        assert rig.get("/readyz")[1]["reasons"] == ["spool_not_writable"]
        assert rig.post(image()) == (507, {"error": "spool_not_writable"})
        (tmp_path / "incoming").chmod(0o700)


def test_two_daemons_do_not_share_a_state_folder(tmp_path):
    first = ImageSpool(tmp_path)
    with pytest.raises(AlreadyRunning) as caught:
        ImageSpool(tmp_path)
    assert caught.value.exit_code == 75
    first.close()
    ImageSpool(tmp_path).close()


def test_preamble_and_meta_are_not_the_image(tmp_path):
    data = film(tmp_path / "a.dcm").read_bytes()
    with running(settings(tmp_path / "state"), work=False) as rig:
        first = rig.post(data)[1]
        again = rig.post(b"MZ" + data[2:])[1]
        assert (again["job"], again["known"]) == (first["job"], True)
