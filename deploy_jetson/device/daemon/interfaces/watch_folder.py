"""The watch folder: files that no longer change are accepted, and removed once they are stored."""

import contextlib
import io
import os
import stat
import threading
import time
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.settings import WatchSettings
from deploy_jetson.device.daemon.store.intake import AcceptedImage, IntakeRefused

BLOCK = 1 << 18
MAX_SEEN = 20000  # files of one scan
UNFINISHED = (".part", ".tmp", ".filepart", ".crdownload")

Signature = Tuple[int, int, int]  # inode, size, modification time in ns


class _Seen(NamedTuple):
    """A file of the last scan: its stamp, and since when the stamp is unchanged."""

    signature: Signature
    since: float


class FolderWatcher:
    """Scans one folder.

    Args:
        settings: `[watch]`.
        accept: Stores an image from its blocks.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: WatchSettings,
        accept: Callable[[Iterator[bytes]], AcceptedImage],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._accept = accept
        self._clock = clock
        self._seen: Dict[str, _Seen] = {}
        self._left: Dict[str, Signature] = {}
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
        there = os.path.isdir(self._settings.folder)
        if not there and self._was_there:
            logs.warning("watch_folder_missing")
        self._was_there = there
        seen: Dict[str, _Seen] = {}
        taken = 0
        for path, signature in self._files():
            before = self._seen.get(path)
            if before is None or before.signature != signature:
                before = _Seen(signature, now)
            seen[path] = before
            rested = now - before.since >= self._settings.quiet_s
            if rested and self._left.get(path) != signature and not self._stop.is_set():
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
                        yield path, (status.st_ino, status.st_size, status.st_mtime_ns)
                if count >= MAX_SEEN:
                    return

    def _take(self, path: str, signature: Signature) -> int:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return self._leave(path, signature, "not_readable")
        with io.open(handle, "rb") as stream:
            try:
                self._accept(_blocks(stream))
            except IntakeRefused as refused:
                if refused.later:
                    return 0
                return self._leave(path, signature, refused.reason)
            except OSError:
                return self._leave(path, signature, "not_readable")
            status = os.fstat(stream.fileno())
        if (status.st_ino, status.st_size, status.st_mtime_ns) != signature:
            return (
                0  # it grew while it was read: the bytes so far are one job, the whole file another
            )
        try:
            os.unlink(path)
        except OSError:
            return self._leave(path, signature, "not_removable")
        return 1

    def _leave(self, path: str, signature: Signature, reason: str) -> int:
        """Skip this file until it changes; its name may identify a patient: not logged."""
        self._left[path] = signature
        logs.warning("watched_file_left", reason=reason)
        return 0


def _blocks(stream: io.BufferedReader) -> Iterator[bytes]:
    for block in iter(lambda: stream.read(BLOCK), b""):
        yield block
