"""The archive for a board: whole, the same every time, installed without touching anything else.

Spans: deploy_jetson.package.archive, deploy_jetson.package.boards, deploy_jetson.package.wheels.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from deploy_jetson.package import archive
from deploy_jetson.package.archive import NAME, make_package
from deploy_jetson.package.boards import BOARDS
from deploy_jetson.package.wheels import requirements
from pneumonia.cli import group, run
from pneumonia.runtime.errors import ConfigError, DeviceError
from tests.runtime.bundles import brightness_detector, write_bundle

JETPACK4 = BOARDS["jetpack4"]
PINNED = JETPACK4.pinned
NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None, reason="needs gcc-aarch64-linux-gnu"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Path(write_bundle(tmp_path_factory.mktemp("model") / "bundle", *brightness_detector()))


@pytest.fixture(scope="module")
def packed(tmp_path_factory, bundle):
    """An archive without wheels: this machine has the packages."""
    out = tmp_path_factory.mktemp("packed") / "device.tar.gz"
    return make_package(bundle, out, with_wheels=False, with_kernels=False)


@pytest.fixture
def unpacked(packed, tmp_path):
    with tarfile.open(packed.path) as found:
        found.extractall(tmp_path, filter="data")
    return tmp_path / NAME


def install(unpacked, root, *options, python=sys.executable, cwd=None, path=os.environ["PATH"]):
    command = ["sh", str(unpacked / "install.sh"), "--root", str(root), "--python", python]
    return subprocess.run(
        [*command, "--any-machine", *options], capture_output=True, text=True, check=False,
        env={"PATH": path}, cwd=cwd, timeout=120,
    )  # fmt: skip


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_same_bytes_every_time(packed, bundle, tmp_path):
    again = make_package(bundle, tmp_path / "b.tar.gz", with_wheels=False, with_kernels=False)
    assert again.path.read_bytes() == packed.path.read_bytes()
    assert again.sha256 == hashlib.sha256(packed.path.read_bytes()).hexdigest()


def test_every_file_is_listed_with_its_sum(unpacked):
    lines = (unpacked / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    found = {path.relative_to(unpacked).as_posix(): path for path in files_below(unpacked)}
    assert set(sums) == set(found) - {"SHA256SUMS"}
    for name, expected in sums.items():
        assert hashlib.sha256(found[name].read_bytes()).hexdigest() == expected
    assert not [name for name in found if "__pycache__" in name]
    assert {"install.sh", "README.md", "LICENSE", "VERSION", "daemon.ini"} <= set(found)
    assert "lib/deploy_jetson/kernels" not in " ".join(found)  # the generator stays at home


def test_all_of_it_runs_on_python_36(unpacked):
    program = str(Path(sys.executable).with_name("vermin"))
    vermin = [program, "-t=3.6-", "--no-tips", "--eval-annotations",
              "--violations", str(unpacked / "lib"),
              str(unpacked / "unpack_wheels.py")]  # fmt: skip
    done = subprocess.run(vermin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_installed_it_runs_from_its_own_folder(unpacked, tmp_path):
    root = tmp_path / "root"
    done = install(unpacked, root)
    assert done.returncode == 0, done.stderr
    assert "installed 0.1.0" in done.stdout
    current = root / "opt/pneumonia/current"
    assert os.readlink(current).startswith("/opt/pneumonia/releases/0.1.0-")
    release = root / os.readlink(current).lstrip("/")
    config = root / "etc/pneumonia/daemon.ini"
    assert "bundle = /opt/pneumonia/current/bundle" in config.read_text()
    here = tmp_path / "here.ini"
    text = config.read_text().replace("/opt/pneumonia/current", str(release))
    here.write_text(text.replace("/var/lib/pneumonia", str(root / "var/lib/pneumonia")))
    check = subprocess.run(
        [sys.executable, "-m", "deploy_jetson.device.daemon", "--config", str(here), "--check"],
        env={"PYTHONPATH": str(release / "lib"), "PATH": ""}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr
    assert check.stdout.strip().endswith("valid")
    assert (root / "var/lib/pneumonia").stat().st_mode & 0o077 == 0


def test_the_operators_command_uses_the_installed_program_and_the_units_cache(unpacked, tmp_path):
    root = tmp_path / "root"
    assert install(unpacked, root).returncode == 0
    command = root / "usr/local/bin/pneumonia-device"
    text = command.read_text()
    unit = (root / "etc/systemd/system/pneumonia-daemon.service").read_text()
    assert "PNEUMONIA_CACHE=/var/lib/pneumonia/cache" in unit
    assert "PNEUMONIA_CACHE:-/var/lib/pneumonia/cache" in text
    assert "@" not in text.replace('"$@"', "")
    release = root / os.readlink(root / "opt/pneumonia/current").lstrip("/")
    here = tmp_path / "device.sh"
    here.write_text(text.replace("/opt/pneumonia/current", str(release)))
    for arguments, code in (("--help", 0), ("profile --help", 0), ("nonsense", 2)):
        done = subprocess.run(
            ["sh", str(here), *arguments.split()], capture_output=True, text=True, check=False,
            cwd=tmp_path, env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    config = (root / "etc/pneumonia/daemon.ini").read_text()
    page = re.search(r"/opt/pneumonia/current/(docs/\S+\.md)", config).group(1)
    assert (release / page).is_file()
    assert install(unpacked, root, "--uninstall").returncode == 0
    assert not command.exists()


def test_systemd_accepts_the_unit(unpacked, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    assert install(unpacked, tmp_path / "root").returncode == 0
    unit = tmp_path / "root/etc/systemd/system/pneumonia-daemon.service"
    text = unit.read_text()
    assert "@" not in text.replace("@system-service", "")
    assert "PYTHONPATH=/opt/pneumonia/current/lib" in text
    assert "--config /etc/pneumonia/daemon.ini" in text
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "pneumonia-daemon" in line]
    assert not [line for line in ours if "not executable" not in line], done.stderr


@pytest.mark.slow
def test_an_upgrade_keeps_configuration_and_images(unpacked, tmp_path, bundle):
    root = tmp_path / "root"
    assert install(unpacked, root).returncode == 0
    before = os.readlink(root / "opt/pneumonia/current")
    (root / "etc/pneumonia/daemon.ini").write_text("; mine\n")
    (root / "var/lib/pneumonia/image").write_bytes(b"x")
    (unpacked / "VERSION").write_text("0.2.0 0123456789ab\n")
    (unpacked / "SHA256SUMS").write_text(archive.sums_of(unpacked))
    assert install(unpacked, root).returncode == 0
    after = os.readlink(root / "opt/pneumonia/current")
    assert (before != after, after.endswith("0.2.0-0123456789ab")) == (True, True)
    assert len(list((root / "opt/pneumonia/releases").iterdir())) == 1
    assert (root / "etc/pneumonia/daemon.ini").read_text() == "; mine\n"
    assert (root / "var/lib/pneumonia/image").read_bytes() == b"x"
    state = files_below(root)
    assert install(unpacked, root).returncode == 0  # once more changes nothing
    assert files_below(root) == state


def test_uninstall_leaves_what_is_the_users_until_purged(unpacked, tmp_path):
    root = tmp_path / "root"
    assert install(unpacked, root).returncode == 0
    assert install(unpacked, root, "--uninstall").returncode == 0
    assert not (root / "opt/pneumonia").exists()
    assert not (root / "etc/systemd/system/pneumonia-daemon.service").exists()
    assert (root / "etc/pneumonia/daemon.ini").exists()
    assert install(unpacked, root, "--uninstall", "--purge").returncode == 0
    assert files_below(root) == []


def test_relative_paths_are_those_of_the_user(unpacked, tmp_path):
    fake_python(tmp_path / "python", f'exec {sys.executable} "$@"')
    for _ in range(2):  # the first one left files in the archive, which the second one refused
        done = install(unpacked, "stage", python="./python", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    unit = (tmp_path / "stage/etc/systemd/system/pneumonia-daemon.service").read_text()
    assert f"ExecStart={tmp_path}/./python" in unit


def test_uninstall_removes_only_what_was_installed(unpacked, tmp_path):
    root = tmp_path / "root"
    other = root / "opt/other/program"
    other.parent.mkdir(parents=True)
    other.write_text("x")
    assert install(unpacked, root, "--prefix", "/opt").returncode == 0
    wrong = install(unpacked, root, "--prefix", "/opt/other", "--uninstall")
    assert (wrong.returncode, "nothing is installed in" in wrong.stderr) == (2, True)
    assert install(unpacked, root, "--prefix", "/opt", "--uninstall").returncode == 0
    assert [path.name for path in (root / "opt").iterdir()] == ["other"]
    assert other.read_text() == "x"


@pytest.mark.parametrize("name", ["releases", "daemon.ini"])
def test_a_full_disk_leaves_no_half_of_anything(unpacked, tmp_path, name):
    """Programs that write fail as on a full disk: first the copy, then the configuration."""
    tools = tmp_path / "tools"
    tools.mkdir()
    tool = "cp" if name == "releases" else "cat"
    fake_python(tools / tool, "echo half; echo 'No space left on device' >&2; exit 1")
    root = tmp_path / "root"
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    done = install(unpacked, root, path=path)
    assert done.returncode == 5, done.stderr
    assert f"error: cannot write below {root}" in done.stderr
    assert not [path for path in root.rglob("*") if path.name.endswith((".new", "daemon.ini"))]
    assert install(unpacked, root).returncode == 0
    assert "bundle = " in (root / "etc/pneumonia/daemon.ini").read_text()


def flip_a_byte(unpacked):
    path = unpacked / "bundle" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda unpacked: (unpacked / "lib" / "more.py").write_text("x = 1\n"),
        lambda unpacked: (unpacked / "lib/pneumonia/__init__.py").unlink(),
        lambda unpacked: (unpacked / "SHA256SUMS").unlink(),
        lambda unpacked: (unpacked / "SHA256SUMS").write_text(""),
    ],
)
def test_a_damaged_archive_installs_nothing(unpacked, tmp_path, damage):
    damage(unpacked)
    done = install(unpacked, tmp_path / "root")
    assert done.returncode != 0
    assert "error: " in done.stderr
    assert not (tmp_path / "root").exists()


def fake_python(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_an_old_python_is_refused(unpacked, tmp_path):
    old = fake_python(
        tmp_path / "python", 'case "$1" in -V) echo "Python 3.5.2";; *) exit 1;; esac'
    )
    done = install(unpacked, tmp_path / "root", python=old)
    assert done.returncode == 10
    assert "Python 3.6 or newer is needed, this is Python 3.5.2" in done.stderr
    assert not (tmp_path / "root").exists()


def test_missing_packages_are_named_and_nothing_stays(unpacked, tmp_path):
    bare = fake_python(tmp_path / "python", f'exec {sys.executable} -S -E "$@"')
    done = install(unpacked, tmp_path / "root", python=bare)
    assert done.returncode == 10
    assert "numpy, Pillow, pydicom and pynetdicom are needed" in done.stderr
    assert files_below(tmp_path / "root") == []


@pytest.mark.skipif(platform.machine() == "aarch64", reason="this is the right processor")
def test_another_processor_is_refused(unpacked, tmp_path):
    done = subprocess.run(
        ["sh", str(unpacked / "install.sh"), "--root", str(tmp_path / "root")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 10
    assert "for aarch64" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--nonsense",),
        ("--prefix",),
        ("--prefix", "relative"),
        ("--user", "a b;rm -rf x"),
        ("--user", ""),
    ],
)
def test_wrong_options_of_the_installer(unpacked, tmp_path, options):
    assert install(unpacked, tmp_path / "root", *options).returncode == 2
    assert not (tmp_path / "root").exists()


@NEEDS_COMPILER
def test_the_packed_library_is_for_the_board(bundle, tmp_path):
    made = make_package(bundle, tmp_path / "a.tar.gz", with_wheels=False)
    with tarfile.open(made.path) as found:
        library = found.extractfile(f"{NAME}/bundle/libmodel-cortex-a57.so").read()
        manifest = json.loads(found.extractfile(f"{NAME}/bundle/manifest.json").read())
    assert library[:5] == b"\x7fELF\x02"
    assert int.from_bytes(library[18:20], "little") == 183  # EM_AARCH64
    assert "libmodel-cortex-a57.so" in manifest["files"]
    path = tmp_path / "library.so"
    path.write_bytes(library)
    needed = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-T", str(path)], capture_output=True, text=True, check=True
    ).stdout
    asked = set(re.findall(r"GLIBC_2\.(\d+)", needed))
    assert asked
    assert max(map(int, asked)) <= 27, "JetPack 4 has glibc 2.27"
    assert not (bundle / "libmodel-cortex-a57.so").exists()  # the user's bundle is left alone
    again = make_package(bundle, tmp_path / "b.tar.gz", with_wheels=False)
    assert again.sha256 == made.sha256


def test_a_library_for_a_newer_board_is_not_packed(tmp_path):
    path = tmp_path / "libmodel-cortex-a57.so"
    path.write_bytes(b"\x7fELF..\0GLIBC_2.17\0GLIBC_2.27\0pthread_create\0")
    archive.check_glibc(path)
    path.write_bytes(b"\x7fELF..\0GLIBC_2.17\0GLIBC_2.34\0pthread_create\0")
    with pytest.raises(DeviceError, match=r"expected glibc 2.27 or older; found 2.34"):
        archive.check_glibc(path)


# --- wheels -------------------------------------------------------------------------------------


def write_wheels(folder, names=PINNED, tags="py3-none-any", member="x.py"):
    folder.mkdir()
    for pinned in names:
        name, version = pinned.split("==")
        path = folder / f"{name.replace('-', '_')}-{version}-{tags}.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(zipfile.ZipInfo(name + "_" + member), "")
    return folder


def unpack_wheels(wheels, target, text=None):
    """The installer's own program, on wheels; returns the finished process."""
    lines = text if text is not None else requirements(wheels, JETPACK4)
    (wheels.parent / "requirements.txt").write_text(lines)
    command = [sys.executable, "-I", str(archive.ASSETS / "unpack_wheels.py")]
    return subprocess.run(
        [*command, str(wheels.parent / "requirements.txt"), str(wheels), str(target)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_wheels_are_unpacked_without_pip(tmp_path):
    wheels = write_wheels(tmp_path / "wheels")
    assert unpack_wheels(wheels, tmp_path / "lib").returncode == 0
    found = sorted(path.name for path in (tmp_path / "lib").iterdir())
    assert found == sorted(pinned.split("==")[0] + "_x.py" for pinned in PINNED)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tags": "cp27-cp27m-manylinux2014_" + platform.machine()}, "does not fit Python 3"),
        ({"tags": "py3-none-manylinux2014_sparc"}, "does not fit Python 3"),
        ({"member": "1.data/purelib/x.py"}, "needs an installer"),
        ({"text": f"numpy==1 --hash=sha256:{'0' * 64}\n"}, "is not the file that was packed"),
    ],
)
def test_wheels_that_cannot_be_unpacked_leave_nothing(tmp_path, more, message):
    text = more.pop("text", None)
    wheels = write_wheels(tmp_path / "wheels", **more)
    done = unpack_wheels(wheels, tmp_path / "lib", text)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "lib").exists()


def test_a_wheel_that_is_missing_is_named(tmp_path):
    wheels = write_wheels(tmp_path / "wheels")
    lines = requirements(wheels, JETPACK4)
    next(wheels.glob("zipp*")).unlink()
    done = unpack_wheels(wheels, tmp_path / "lib", lines)
    assert (done.returncode, "zipp==3.6.0 is missing" in done.stderr) == (1, True)


def test_wheels_go_in_with_their_hashes(bundle, tmp_path):
    wheels = write_wheels(tmp_path / "wheels")
    made = make_package(bundle, tmp_path / "a.tar.gz", wheels, with_kernels=False)
    assert made.wheels == len(PINNED)
    with tarfile.open(made.path) as found:
        lines = found.extractfile(f"{NAME}/requirements.txt").read().decode().splitlines()
    assert [line.split(" ")[0] for line in lines] == list(PINNED)
    numpy = next(wheels.glob("numpy-*"))
    assert lines[0].endswith("sha256:" + hashlib.sha256(numpy.read_bytes()).hexdigest())


def test_wheels_that_are_not_those_on_the_list(tmp_path):
    with pytest.raises(ConfigError, match="Wheel is missing; expected zipp"):
        requirements(write_wheels(tmp_path / "few", PINNED[:-1]), JETPACK4)
    with pytest.raises(ConfigError, match="not on the list; found requests==1"):
        requirements(write_wheels(tmp_path / "many", (*PINNED, "requests==1.0")), JETPACK4)
    (tmp_path / "many" / "numpy-1.19.4-py3-none-any.whl").write_text("no zip")
    with pytest.raises(ConfigError, match="Not a wheel"):
        requirements(tmp_path / "many", JETPACK4)


@pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))
def test_an_archive_for_every_board(bundle, tmp_path, board):
    wheels = write_wheels(tmp_path / "wheels", board.pinned)
    out = tmp_path / "a.tar.gz"
    made = make_package(bundle, out, wheels, with_kernels=False, board=board.name)
    assert made.wheels == len(board.pinned)
    with tarfile.open(made.path) as found:
        found.extractall(tmp_path, filter="data")
    assert (tmp_path / NAME / "BOARD").read_text().startswith(board.python.rpartition(".")[0] + " ")
    assert all(target.machine == "aarch64" for target in board.targets)
    done = install(tmp_path / NAME, tmp_path / "root")
    if sys.version_info[:2] == tuple(map(int, board.python.split(".")[:2])):
        assert done.returncode == 0, done.stderr
    else:
        assert f"for Python {board.python.rpartition('.')[0]} ({board.name}" in done.stderr
        assert done.returncode == 10
        assert not files_below(tmp_path / "root")


@NEEDS_COMPILER
@pytest.mark.slow
def test_a_board_gets_the_libraries_of_all_its_cores(bundle, tmp_path):
    made = make_package(bundle, tmp_path / "a.tar.gz", with_wheels=False, board="pi-os-12")
    with tarfile.open(made.path) as found:
        names = found.getnames()
    for target in ("cortex-a72", "cortex-a76"):
        assert f"{NAME}/bundle/libmodel-{target}.so" in names


def test_an_unknown_board_names_the_known_ones(bundle, tmp_path):
    with pytest.raises(ConfigError, match="jetpack4, jetpack5, jetpack6, pi-os-12"):
        make_package(bundle, tmp_path / "a.tar.gz", board="arduino")


def test_the_command(bundle, tmp_path, capsys):
    out = tmp_path / "device.tar.gz"
    arguments = ["device-package", str(bundle), "--out", str(out), "--without-kernels"]
    assert run(group, [*arguments, "--without-wheels"]) == 0
    shown = capsys.readouterr().out
    assert "without kernels" in shown
    assert "sudo ./pneumonia-device/install.sh" in shown
    assert run(group, [*arguments, "--without-wheels", "--wheels", str(tmp_path)]) == 2
    assert run(group, [*arguments, "--wheels", str(tmp_path / "none")]) == 2
    assert run(group, [*arguments, "--wheels", str(tmp_path)]) == 2
    assert f"(in {tmp_path})" in capsys.readouterr().err  # not in a folder that is gone by now
    assert run(group, ["device-package", str(bundle), "--out", str(tmp_path / "a.zip")]) == 2
    assert run(group, ["device-package", str(tmp_path), "--out", str(out)]) == 4
