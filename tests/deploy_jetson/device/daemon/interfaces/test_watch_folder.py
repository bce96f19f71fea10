"""The watch folder: what is taken, what is left, and when."""

import itertools
import os

import pytest

from deploy_jetson.device.daemon.interfaces.watch_folder import RETRY_S, FolderWatcher
from deploy_jetson.device.daemon.settings import WatchSettings
from deploy_jetson.device.daemon.store.intake import IntakeRefused
from tests.deploy_jetson.device.daemon.rig import film, running, settings
from tests.support.waiting import wait_for


class Door:
    """Takes what it is given, or refuses."""

    def __init__(self):
        self.taken = []
        self.refuse = None
        self.refused = []

    def __call__(self, blocks):
        data = b"".join(blocks)
        if self.refuse:
            raise self.refuse
        self.taken.append(data)


@pytest.fixture
def watched(tmp_path):
    folder, door, now = tmp_path / "in", Door(), [0.0]
    folder.mkdir()
    settings = WatchSettings(str(folder), quiet_s=2.0, max_depth=2)
    return folder, door, now, FolderWatcher(settings, door, door.refused.append, lambda: now[0])


def rest(watcher, now, seconds=3.0):
    watcher.scan()
    now[0] += seconds
    return watcher.scan()


def test_a_file_at_rest_is_taken_and_removed(watched):
    folder, door, now, watcher = watched
    (folder / "a").write_bytes(b"one")
    assert watcher.scan() == 0
    now[0] += 1.9
    assert watcher.scan() == 0
    now[0] += 0.1
    assert watcher.scan() == 1
    assert (door.taken, list(folder.iterdir())) == ([b"one"], [])


def test_a_growing_file_waits_until_it_is_quiet(watched):
    folder, door, now, watcher = watched
    for part in range(4):
        with (folder / "a").open("ab") as stream:
            stream.write(b"%d" % part)
        assert rest(watcher, now, 1.5) == 0
    now[0] += 2
    assert watcher.scan() == 1
    assert door.taken == [b"0123"]


def test_links_pipes_hidden_and_unfinished_files_are_left(watched, tmp_path):
    folder, door, now, watcher = watched
    (tmp_path / "secret").write_bytes(b"secret")
    os.symlink(tmp_path / "secret", folder / "link")
    os.symlink(folder, folder / "loop")
    os.mkfifo(folder / "pipe")
    (folder / ".hidden").write_bytes(b"x")
    (folder / "a.PART").write_bytes(b"x")
    deep = folder / "1" / "2" / "3"
    deep.mkdir(parents=True)
    (deep / "too-deep").write_bytes(b"x")
    (folder / "1" / "2" / "taken").write_bytes(b"deep")
    (folder / os.fsdecode(b"odd\n\xff")).write_bytes(b"odd")
    assert rest(watcher, now) == 2
    assert sorted(door.taken) == [b"deep", b"odd"]
    assert (tmp_path / "secret").exists()
    assert (folder / "a.PART").exists()


def test_a_full_queue_leaves_the_file_for_later_and_too_large_for_good(watched):
    folder, door, now, watcher = watched
    (folder / "a").write_bytes(b"one")
    door.refuse = IntakeRefused("queue_full")
    assert rest(watcher, now) == 0
    door.refuse = IntakeRefused("too_large", later=False)
    assert rest(watcher, now) == 0
    door.refuse = None
    assert rest(watcher, now) == 0, "not tried again before it changes"
    (folder / "a").write_bytes(b"another")
    assert rest(watcher, now) == 1


def test_a_file_that_cannot_be_removed_is_taken_once(watched, monkeypatch):
    folder, door, now, watcher = watched
    (folder / "a").write_bytes(b"one")
    monkeypatch.setattr(os, "unlink", lambda path: (_ for _ in ()).throw(OSError(13, "no")))
    for _ in range(3):
        rest(watcher, now)
    assert door.taken == [b"one"]


@pytest.fixture
def blocked(monkeypatch):
    """Paths that cannot be opened or removed: root, who may run the tests, has every right."""
    paths = {"open": set(), "unlink": set()}

    def guarded(name):
        real = getattr(os, name)

        def call(path, *arguments):
            if os.path.basename(path) in paths[name]:
                raise PermissionError(13, "no", path)
            return real(path, *arguments)

        return call

    for name in paths:
        monkeypatch.setattr(os, name, guarded(name))
    return paths


def test_a_file_that_becomes_readable_is_taken(watched, blocked):
    """Its rights change: at once. Something else does, as the server of a share: after a while."""
    folder, door, now, watcher = watched
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode())
    blocked["open"] |= {"a", "b"}
    assert rest(watcher, now) == 0
    assert door.refused == ["not_readable"] * 2
    blocked["open"] -= {"a", "b"}
    (folder / "a").chmod(0o640)
    assert rest(watcher, now) == 1
    assert door.taken == [b"a"]
    assert rest(watcher, now, RETRY_S - 10) == 0
    assert rest(watcher, now, 10) == 1
    assert door.taken == [b"a", b"b"]


def test_a_file_that_stays_unreadable_is_tried_ever_less(watched, blocked, monkeypatch):
    folder, door, now, watcher = watched
    (folder / "a").write_bytes(b"a")
    blocked["open"].add("a")
    times, real = [], os.open

    def counted(path, *arguments):
        times.append(now[0])
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", counted)
    watcher.scan()
    for _ in range(400):
        now[0] += 10
        watcher.scan()
    waits = [round(b - a) for a, b in itertools.pairwise(times)]
    assert waits == [30, 60, 120, 240, 480, 600, 600, 600, 600, 600]
    assert door.refused == ["not_readable"]


def test_a_file_that_becomes_removable_goes_and_is_not_sent_again(watched, blocked):
    folder, door, now, watcher = watched
    (folder / "a").write_bytes(b"one")
    blocked["unlink"].add("a")
    for _ in range(3):
        assert rest(watcher, now, 40) == 0
    blocked["unlink"].clear()
    assert rest(watcher, now, 120) == 1
    assert (door.taken, list(folder.iterdir())) == ([b"one"], [])
    assert door.refused == ["not_removable"]


def test_a_folder_that_cannot_be_listed_is_named(watched, monkeypatch):
    folder, door, now, watcher = watched
    (folder / "a").write_bytes(b"one")
    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", lambda path: (_ for _ in ()).throw(OSError(13, "no")))
        watcher.scan()
        watcher.scan()
    assert door.refused == ["watch_folder_missing"]
    assert rest(watcher, now) == 1


def test_a_folder_that_goes_and_comes_back(watched):
    folder, _, now, watcher = watched
    folder.rmdir()
    assert watcher.scan() == 0
    folder.mkdir()
    (folder / "a").write_bytes(b"one")
    assert rest(watcher, now) == 1


def test_in_the_daemon(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    watch = WatchSettings(str(folder), scan_s=0.05, quiet_s=0.1)
    with running(settings(tmp_path / "state", watch=watch), child=True) as rig:
        film(folder / "a.dcm")
        wait_for(lambda: rig.service.journal.counts()["done"] == 1)
        wait_for(lambda: not list(folder.iterdir()))  # removed once it was taken
