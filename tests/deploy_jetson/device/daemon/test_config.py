"""The configuration file: what it may say, and how a mistake is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy_jetson.device.daemon import config as module
from deploy_jetson.device.daemon.config import (
    DaemonConfigError,
    allowed,
    check_config,
    load_config,
)
from deploy_jetson.device.daemon.settings import DaemonSettings, ResultDestination
from tests.contracts.tree import ROOT
from tests.deploy_jetson.device.daemon.certificates import make_certificates
from tests.deploy_jetson.device.daemon.rig import BUNDLE

BASE = f"[daemon]\nbundle = {BUNDLE}\nstate = /tmp/state\n"


def written(tmp_path, text):
    path = tmp_path / "daemon.ini"
    path.write_text(text)
    return str(path)


def refused(tmp_path, text):
    with pytest.raises(DaemonConfigError) as caught:
        load_config(written(tmp_path, text))
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_set_has_its_default(tmp_path):
    found = load_config(written(tmp_path, BASE))
    assert found._replace(daemon=DaemonSettings().daemon) == DaemonSettings()._replace(
        destinations={}
    )
    assert (found.daemon.bundle, found.daemon.state) == (BUNDLE, "/tmp/state")


def test_every_kind_of_value(tmp_path):
    text = BASE + (
        "threads = 2\n[results]\ndicom = sr, sc\n[queue]\nmax_mb = 1.5\n[rules]\nview = ap\n"
        "[dicom]\nport = 104\nallow = 10.0.0.0/8, fd00::/8\nallow_aets = CT 1,PACS\n"
        "[destination main-pacs]\nhost = pacs\naet = PACS\nkinds = sc\n"
    )
    found = load_config(written(tmp_path, text))
    assert found.daemon.threads == 2
    assert found.queue.max_mb == 1.5
    assert found.rules.view == ("AP",)
    assert found.dicom.allow == ("10.0.0.0/8", "fd00::/8")
    assert found.dicom.allow_aets == ("CT 1", "PACS")
    assert found.destinations == {
        "main-pacs": ResultDestination(host="pacs", aet="PACS", kinds=("sc",))
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "nonsense = 1\n", ["line 4", "[daemon] nonsense", "Unknown key"]),
        (BASE + "[rest]\nhost = [::1]\n", ["line 5", "[rest] host", "without brackets", "[::1]"]),
        (BASE + "[destination a]\nhost = http://x\naet = A\n", ["line 5", "destination a"]),
        (BASE + "[queue]\nmax_images = many\n", ["line 5", "whole number from 1", "'many'"]),
        (BASE + "[queue]\nmax_images = 0\n", ["line 5", "max_images"]),
        (BASE + "[rest]\nport = 70000\n", ["line 5", "-1 to 65535"]),
        (BASE + "[queue]\nmax_mb = nan\n", ["line 5", "max_mb"]),
        (BASE + "engine = magic\n", ["line 4", "onnxruntime"]),
        (BASE + "[nonsense]\n", ["line 4", "Unknown section", "watch"]),
        (BASE + "[destinations]\n", ["Unknown section"]),
        (BASE + "[daemon]\n", ["not INI", "line 4"]),
        (BASE + "no equals sign\n", ["not INI", "line 4"]),
        ("x = 1\n", ["not INI", "line 1"]),
        ("[daemon]\nstate = /tmp/x\n", ["bundle", "missing"]),
        ("[daemon]\nbundle = /nowhere\nstate = /tmp/x\n", ["not there", "line 2"]),
        (BASE + "[rest]\nallow = 10.0.0.1/8\n", ["line 5", "networks"]),
        (BASE + "[dicom]\naet = SEVENTEEN-LETTERS\n", ["line 5", "1 to 16"]),
        (BASE + "[rules]\nview = SIDEWAYS\n", ["line 5", "LATERAL"]),
        (BASE + "[rest]\nhost = 0.0.0.0\n", ["line 5", "token_file"]),
        (BASE + "[dicom]\nport = 104\nhost = 0.0.0.0\n", ["line 6", "allow_aets"]),
        (BASE + "[rest]\ntls_cert = a.pem\n", ["half configured"]),
        (BASE + "[watch]\nfolder = /tmp/state/in\n", ["line 5", "inside the state"]),
        (BASE + "[destination a]\nhost = h\naet = A\n", ["not made", "line 4"]),
        (BASE + "[destination a]\naet = A\n", ["host", "missing"]),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_key_and_line(tmp_path, text, words):
    message = refused(tmp_path, text)
    assert [word for word in words if word not in message] == [], message


@pytest.fixture
def layout(tmp_path):
    """Folders of a daemon, and links to them."""
    for name in ("state", "inbox/deep", "bundle/inside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link-to-state").symlink_to(tmp_path / "state")
    (tmp_path / "link-to-inbox").symlink_to(tmp_path / "inbox")
    (tmp_path / "link-to-all").symlink_to(tmp_path)
    return tmp_path


NESTED = {
    "watch is state": ("state", "state", BUNDLE, "inside the state"),
    "watch in state": ("state", "state/in/box", BUNDLE, "inside the state"),
    "state in watch": ("inbox/state", "inbox", BUNDLE, "holds the state"),
    "watch in state, by a link": ("state", "link-to-state/in", BUNDLE, "inside the state"),
    "state in watch, by a link": ("link-to-inbox/new", "inbox", BUNDLE, "holds the state"),
    "state in watch, two links": ("link-to-all/inbox/new", "link-to-inbox", BUNDLE, "holds the"),
    "dots": ("inbox/deep/../../state", "state/../state/new", BUNDLE, "inside the state"),
    "bundle in watch": ("state", "link-to-all/bundle", "bundle/inside", "holds the bundle"),
    "watch in bundle": ("state", "bundle/inside", "bundle", "inside the bundle"),
    "state in bundle": ("bundle/state", "inbox", "bundle", "State folder lies inside the bundle"),
    "bundle in state": ("link-to-all", "", "bundle", "Bundle lies inside the state folder"),
    "watch holds the program": ("/var/lib/x", str(ROOT), BUNDLE, "holds the"),
    "watch is the root": ("/var/lib/x", "/", BUNDLE, "holds the state"),
}


@pytest.mark.parametrize("name", NESTED)
def test_folders_inside_one_another_are_refused(layout, tmp_path, name):
    state, watch, bundle, words = NESTED[name]
    text = f"[daemon]\nbundle = {tmp_path / bundle}\nstate = {tmp_path / state}\n"
    if watch:
        text += f"[watch]\nfolder = {tmp_path / watch}\n"
    (tmp_path / "etc").mkdir()
    assert words in refused(tmp_path / "etc", text)


def test_a_part_of_the_state_folder_that_is_linked_into_the_inbox_is_refused(layout):
    (layout / "state" / "incoming").symlink_to(layout / "inbox" / "deep")
    text = f"[daemon]\nbundle = {BUNDLE}\nstate = {layout}/state\n"
    (layout / "etc").mkdir()
    assert "holds the state" in refused(
        layout / "etc", text + f"[watch]\nfolder = {layout}/inbox\n"
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[rest]\ntoken_file = {inbox}/token\n", "[rest] token_file"),
        ("[dicom]\ntls_cert = {inbox}/c\ntls_key = {inbox}/k\nport = 0\n", "[dicom] tls_cert"),
        ("[destination a]\nhost = h\naet = A\ntls_ca = {inbox}/deep/ca\n[results]\ndicom = "
         "sr,sc,gsps\n", "[destination a] tls_ca"),
    ],
)  # fmt: skip
def test_files_the_daemon_needs_may_not_lie_in_the_watch_folder(layout, tmp_path, more, words):
    (tmp_path / "etc").mkdir()
    text = f"[daemon]\nbundle = {BUNDLE}\nstate = {layout}/state\n[watch]\nfolder = {layout}/"
    text += "link-to-inbox\n" + more.format(inbox=layout / "inbox")
    assert "holds " + words in refused(tmp_path / "etc", text)
    assert "holds the configuration" in refused(layout / "inbox", text.partition("[rest]")[0])


def test_a_bind_mount_is_the_folder_that_is_mounted(layout):
    mounted = layout / "mounted"
    mounted.mkdir()
    command = ["mount", "--bind", str(layout / "state"), str(mounted)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here: needs root")
    try:
        (layout / "etc").mkdir()
        text = f"[daemon]\nbundle = {BUNDLE}\nstate = {layout}/state\n"
        text += f"[watch]\nfolder = {mounted}/new\n"
        assert "inside the state" in refused(layout / "etc", text)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_folders_beside_one_another_are_accepted(layout, tmp_path):
    (tmp_path / "etc").mkdir()
    for watch in ("state-of-others", "inbox", "not/yet/there"):
        text = f"[daemon]\nbundle = {BUNDLE}\nstate = {layout}/state\n"
        load_config(written(tmp_path / "etc", text + f"[watch]\nfolder = {layout}/{watch}\n"))


# --- --check: the files that a configuration names ----------------------------------------------


@pytest.fixture
def certified(tmp_path):
    """A configuration with a token and TLS, and its files by key."""
    files = dict(make_certificates(tmp_path), token=str(tmp_path / "token"))
    Path(files["token"]).write_text("0123456789abcdef\n")
    Path(files["token"]).chmod(0o600)
    text = (
        f"[daemon]\nbundle = {BUNDLE}\nstate = {tmp_path}/state\n[rest]\n"
        f"token_file = {files['token']}\ntls_cert = {files['cert']}\ntls_key = {files['key']}\n"
    )
    (tmp_path / "etc").mkdir()
    return written(tmp_path / "etc", text), files


def checked(path):
    """Exit code and message of `--check`, whose standard input holds no passphrase."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy_jetson.device.daemon", "--config", path, "--check"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=180,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def remove(files):
    Path(files["token"]).unlink()


def open_token(files):
    Path(files["token"]).chmod(0o644)


def open_key(files):
    Path(files["key"]).chmod(0o604)


def short_token(files):
    Path(files["token"]).write_text("short\n")


def foreign_token(files):
    Path(files["token"]).write_text("0123456789abcd\xe9f", encoding="latin-1")


def two_tokens(files):
    Path(files["token"]).write_text("0123456789abcdef\n0123456789abcdef\n")


def encrypt(files):
    command = ["openssl", "pkey", "-in", files["key"], "-aes256", "-passout", "pass:secret"]
    subprocess.run([*command, "-out", files["key"] + "2"], check=True, capture_output=True)
    Path(files["key"] + "2").rename(files["key"])
    Path(files["key"]).chmod(0o600)


def other_key(files):
    folder = Path(files["key"]).parent / "other"
    folder.mkdir()
    Path(make_certificates(folder)["key"]).rename(files["key"])


def no_key(files):
    Path(files["key"]).write_text("not PEM\n")


def no_certificate(files):
    Path(files["cert"]).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, "Token cannot be read"),
        (open_token, "open to other users"),
        (short_token, "too short"),
        (foreign_token, "in a header"),
        (two_tokens, "in a header"),
        (open_key, "open to other users"),
        (encrypt, "TLS key is encrypted"),
        (other_key, "belongs to another certificate"),
        (no_key, "TLS files cannot be used"),
        (no_certificate, "TLS files cannot be used"),
    ],
)
def test_check_opens_the_files_a_configuration_names(certified, damage, words):
    path, files = certified
    damage(files)
    with pytest.raises(DaemonConfigError, match=words) as caught:
        check_config(path)
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)


def test_check_accepts_good_files_and_asks_for_no_passphrase(certified):
    path, files = certified
    assert checked(path) == (0, "")
    Path(files["key"]).chmod(0o640)  # root:ssl-cert, as distributions have it
    check_config(path)
    encrypt(files)
    code, message = checked(path)
    assert (code, message.count("\n")) == (78, 1)
    assert "TLS key is encrypted" in message


def test_check_finds_an_operating_point_that_the_bundle_has_not(tmp_path):
    with pytest.raises(DaemonConfigError, match="nonsense"):
        check_config(written(tmp_path, BASE + "threshold = nonsense\n"))


def test_files_that_are_no_configuration(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    for path in (tmp_path / "none", tmp_path / "binary", tmp_path):
        with pytest.raises(DaemonConfigError, match="cannot be read"):
            load_config(str(path))
    refused(tmp_path, "")


def test_every_number_has_bounds_and_every_key_is_documented():
    page = (ROOT / "docs" / "reference" / "daemon-config.md").read_text()
    parts = [part for name, part in DaemonSettings()._asdict().items() if name != "destinations"]
    for part in [*parts, ResultDestination()]:
        for key, value in part._asdict().items():
            if isinstance(value, int | float):
                assert key in module.BOUNDS
            assert f"`{key}`" in page, key


@pytest.mark.parametrize(
    ("address", "networks", "expected"),
    [
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8",), False),
        ("::ffff:10.1.2.3", ("10.0.0.0/8",), True),
        ("::1", ("127.0.0.0/8", "::1/128"), True),
        ("fe80::1%eth0", ("fe80::/10",), True),
        ("nonsense", ("0.0.0.0/0",), False),
        ("10.1.2.3", (), False),
    ],
)
def test_allow_lists(address, networks, expected):
    assert allowed(address, networks) is expected


def test_the_commands_check_a_configuration(tmp_path):
    from pneumonia.cli import group, run

    good, bad = written(tmp_path, BASE), tmp_path / "bad.ini"
    bad.write_text(BASE + "nonsense = 1\n")
    assert run(group, ["daemon", "--config", good, "--check"]) == 0
    assert run(group, ["daemon", "--config", str(bad), "--check"]) == 78
    module_name = "deploy_jetson.device.daemon"
    done = subprocess.run(
        [sys.executable, "-m", module_name, "--config", str(bad)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stderr.startswith("error: Unknown key")


def test_the_example_is_valid_and_relative_to_the_sources(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = load_config("examples/daemon.ini")
    assert Path(found.daemon.bundle).is_dir()
