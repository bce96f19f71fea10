"""The watch folder: files that no longer change are accepted, and removed once they are stored."""

import contextlib
import io
import math
import os
import stat
import threading
import time
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.settings import WatchSettings
from deploy_jetson.device.daemon.store.intake import AcceptedImage, IntakeRefused

BLOCK = 1 << 18
NOT_READABLE, NOT_REMOVABLE = "not_readable", "not_removable"
MAX_SEEN = 20000  # files of one scan
RETRY_S, LONGEST_RETRY_S = 30.0, 600.0  # of a file whose rights or disk prevented it
UNFINISHED = (".part", ".tmp", ".filepart", ".crdownload")

Signature = Tuple[int, int, int, int]  # inode, size, times of modification and of change in ns


class _Seen(NamedTuple):
    """A file of the last scan: its stamp, and since when the stamp is unchanged."""

    signature: Signature
    since: float


class _LeftFile(NamedTuple):
    """A file that was not taken, or not removed: its stamp, why, and when it is tried again."""

    signature: Signature
    reason: str
    retry_at: float  # on the watcher's clock; infinite: when the file changes
    wait_s: float  # of the next failure


class FolderWatcher:
    """Scans one folder.

    Args:
        refused: Counts a file that is left, by its reason.
    """

    def __init__(
        self,
        settings: WatchSettings,
        accept: Callable[[Iterator[bytes]], AcceptedImage],
        refused: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._accept = accept
        self._refused = refused
        self._clock = clock
        self._seen: Dict[str, _Seen] = {}
        self._left: Dict[str, _LeftFile] = {}
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._was_there = True

    def start(self) -> None:
        """Scan in a thread."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current file."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.scan()
            except Exception:  # errors of a network drive are temporary
                logs.broken("watch_failed")
            self._stop.wait(self._settings.scan_s)

    def scan(self) -> int:
        """Scan once; returns the number of accepted files."""
        now = self._clock()
        there = _is_readable(self._settings.folder)
        if not there and self._was_there:
            logs.warning("watch_folder_missing")
            self._refused("watch_folder_missing")
        self._was_there = there
        seen: Dict[str, _Seen] = {}
        taken = 0
        for path, signature in self._files():
            before = self._seen.get(path)
            if before is None or before.signature != signature:
                before = _Seen(signature, now)
            seen[path] = before
            rested = now - before.since >= self._settings.quiet_s
            if rested and not self._stop.is_set() and self._is_due(path, signature, now):
                taken += self._take(path, signature)
        self._seen = seen
        self._left = {path: known for path, known in self._left.items() if path in seen}
        return taken

    def _files(self) -> Iterator[Tuple[str, Signature]]:
        """Regular files, oldest names first; links, pipes and devices are not followed."""
        root, count = self._settings.folder, 0
        for folder, folders, names in os.walk(root):
            depth = os.path.relpath(folder, root).count(os.sep) + (folder != root)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if depth >= self._settings.max_depth:
                del folders[:]
            for name in sorted(names):
                if name.startswith(".") or name.lower().endswith(UNFINISHED):
                    continue
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    if stat.S_ISREG(status.st_mode):
                        count += 1
                        yield path, _signature(status)
                if count >= MAX_SEEN:
                    return

    def _is_due(self, path: str, signature: Signature, now: float) -> bool:
        left = self._left.get(path)
        return left is None or left.signature != signature or now >= left.retry_at

    def _take(self, path: str, signature: Signature) -> int:
        left = self._left.get(path)
        if left is not None and left.reason == NOT_REMOVABLE and left.signature == signature:
            return self._remove(path, signature)  # its bytes are safe
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return self._skip_file(path, signature, NOT_READABLE)
        with io.open(handle, "rb") as stream:
            try:
                self._accept(_blocks(stream))
            except IntakeRefused as refused:
                if refused.later:
                    return 0
                return self._skip_file(path, signature, refused.reason)
            except OSError:
                return self._skip_file(path, signature, NOT_READABLE)
            status = os.fstat(stream.fileno())
        if _signature(status) != signature:
            # it grew while it was read: the bytes so far are one job, the whole file another
            return 0
        return self._remove(path, signature)

    def _remove(self, path: str, signature: Signature) -> int:
        try:
            os.unlink(path)
        except OSError:
            return self._skip_file(path, signature, NOT_REMOVABLE)
        self._left.pop(path, None)
        return 1

    def _skip_file(self, path: str, signature: Signature, reason: str) -> int:
        """Skip this file until it changes, or, where rights or a disk are at fault, for a while.

        Logged and counted once; without its name, which may identify a patient.
        """
        before = self._left.get(path)
        is_known = before is not None and before[:2] == (signature, reason)
        wait_s = before.wait_s if before is not None and is_known else RETRY_S
        is_temporary = reason in (NOT_READABLE, NOT_REMOVABLE)
        retry_at = self._clock() + wait_s if is_temporary else math.inf
        wait_s = min(2 * wait_s, LONGEST_RETRY_S)
        self._left[path] = _LeftFile(signature, reason, retry_at, wait_s)
        if not is_known:
            logs.warning("watched_file_left", reason=reason)
            if is_temporary:  # the intake has counted its own reasons
                self._refused(reason)
        return 0


def _signature(status: os.stat_result) -> Signature:
    """What changes with a file's contents or rights."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_readable(folder: str) -> bool:
    try:
        os.listdir(folder)
    except OSError:
        return False
    return True


def _blocks(stream: io.BufferedReader) -> Iterator[bytes]:
    for block in iter(lambda: stream.read(BLOCK), b""):
        yield block
