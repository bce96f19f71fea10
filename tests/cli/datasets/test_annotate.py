"""`pneumonia annotate` refuses what cannot work before anything is made, in one line."""

import socket

import pytest
from PIL import Image

from pneumonia.cli import group, run


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    Image.new("L", (64, 64), 9).save(folder / "one.png")
    return folder


def refused(capsys, *arguments):
    code = run(group, ["annotate", *map(str, arguments)])
    said = capsys.readouterr()
    assert "login#" not in said.out  # no token of an application that does not start
    assert len(said.err.strip().splitlines()) == 1
    return code, said.err


def test_other_machines_need_a_certificate(studies, tmp_path, capsys):
    work = tmp_path / "work"
    code, said = refused(capsys, studies, "--work", work, "--host", "0.0.0.0")
    assert (code, "in the clear" in said) == (2, True)
    assert not work.exists()


def test_certificates_are_checked(studies, tmp_path, capsys):
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    both = ["--tls-cert", bad, "--tls-key", bad]
    assert refused(capsys, studies, "--work", tmp_path / "w", *both)[0] == 2
    assert refused(capsys, studies, "--work", tmp_path / "w", *both[:2])[0] == 2


@pytest.mark.parametrize("name", ["<b>", "manager", "", "x" * 41])
def test_names_are_checked_first(studies, tmp_path, capsys, name):
    assert refused(capsys, studies, "--work", tmp_path / "w", "--annotator", name)[0] == 6
    assert not (tmp_path / "w").exists()


def test_folders_and_tables_are_checked(studies, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    work = ["--work", tmp_path / "w", "--port", 0]
    assert refused(capsys, tmp_path / "empty", *work)[0] == 6
    assert refused(capsys, tmp_path / "missing", *work)[0] == 2
    assert refused(capsys, studies, *work, "--reports", tmp_path / "table.csv")[0] == 6
    assert refused(capsys, studies, *work, "--predictions", tmp_path / "table.csv")[0] == 6
    assert refused(capsys, studies, *work, "--concepts", tmp_path / "table.csv")[0] == 6
    assert not (tmp_path / "w").exists()


def test_a_taken_port(studies, tmp_path, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, said = refused(capsys, studies, "--work", tmp_path / "w", "--port", port)
    assert (code, "--port" in said) == (2, True)
