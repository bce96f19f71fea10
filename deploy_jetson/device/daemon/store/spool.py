"""The state folder: a file under its final name is always complete."""

import contextlib
import fcntl
import hashlib
import hmac
import io
import os
import re
import shutil
import struct
import time
from typing import Any, BinaryIO, Iterator, List, NamedTuple, Optional

from pneumonia.runtime.atomic import sync_folder, write_bytes
from pneumonia.runtime.errors import OutputError, PneumoniaError, os_errors_as

PART = ".part-"
IMAGE = ".img"
FOLDERS = ("incoming", "results", "dicom", "quarantine")
BLOCK = 1 << 18
META_BYTES = 1 << 16
SALT_BYTES = 16
LONG_FORMS = (b"OB", b"OW", b"SQ", b"UN", b"UT")
UID = re.compile(r"^[0-9.]{1,64}$")


class AlreadyRunning(PneumoniaError):  # noqa: N818 - the condition's name
    """Another daemon uses the state folder; 75 is sysexits' EX_TEMPFAIL."""

    exit_code = 75


class TooLarge(Exception):  # noqa: N818 - a refusal, which each interface reports by its own status
    """The image has more bytes than `[queue] max_image_mb`."""


class SpooledUpload(NamedTuple):
    """A file in the spool under a temporary name."""

    path: str  # where it lies
    bytes: int  # its size
    sop_uid: str  # of its file meta information; empty for pictures
    # of the data set behind the meta information, so that the same image sent by another way is the
    # same image; of the whole file for pictures
    sha256: str


def dataset_offset(head: bytes) -> int:
    """Where the data set begins: behind the file meta information, 0 for what is not DICOM."""
    if head[128:132] != b"DICM" or head[132:136] != b"\x02\x00\x00\x00" or len(head) < 144:
        return 0
    return 144 + int(struct.unpack("<I", head[140:144])[0])


def sop_uid_of(head: bytes) -> str:
    """Media Storage SOP Instance UID (0002,0003), empty where there is none.

    The group is Explicit VR Little Endian whatever follows it (PS3.10 7.1). Read here by hand: it
    is the one thing this process looks at in a file it does not trust.
    """
    end, at = min(dataset_offset(head), len(head)), 132
    while at + 8 <= end:
        group, element, kind, size = struct.unpack("<HH2sH", head[at : at + 8])
        at += 8
        if kind in LONG_FORMS:
            if at + 4 > end:
                break
            size = struct.unpack("<I", head[at : at + 4])[0]
            at += 4
        if (group, element) == (2, 3) and at + size <= end:
            text = head[at : at + size].rstrip(b"\0 ").decode("ascii", "replace")
            return text if UID.match(text) else ""
        at += size
    return ""


class ImageSpool:
    """The folders below `[daemon] state`.

    Args:
        root: The state folder; made when missing, readable by its owner alone.

    Raises:
        OutputError: It cannot be made or written.
        AlreadyRunning: Another daemon holds it.
    """

    def __init__(self, root: str) -> None:
        self.root = str(root)
        with os_errors_as(OutputError, "State folder cannot be used", self.root):
            for name in FOLDERS:
                os.makedirs(os.path.join(self.root, name), mode=0o700, exist_ok=True)
            os.chmod(self.root, 0o700)
            self._lock = io.open(self.path("lock"), "wb")  # noqa: SIM115 - held for good
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise AlreadyRunning(
                "Another daemon uses this state folder", where=self.root,
                fix="Stop it, or give this one its own [daemon] state",
            ) from None  # fmt: skip
        self._salt = self._read_salt()

    def close(self) -> None:
        """Let another daemon have the folder."""
        self._lock.close()

    def _read_salt(self) -> bytes:
        path = os.path.join(self.root, "salt")
        try:
            with io.open(path, "rb") as stream:
                salt = stream.read()
            if len(salt) == SALT_BYTES:
                return salt
        except OSError:
            pass
        salt = os.urandom(SALT_BYTES)
        write_bytes(path, salt)
        os.chmod(path, 0o600)
        return salt

    def path(self, folder: str, name: str = "") -> str:
        """A path below the state folder."""
        return os.path.join(self.root, folder, name) if name else os.path.join(self.root, folder)

    def image(self, key: str) -> str:
        """Where a job's image lies until it is answered."""
        return self.path("incoming", key + IMAGE)

    def result(self, key: str) -> str:
        """A job's answer."""
        return self.path("results", key + ".json")

    def dicom(self, key: str, kind: str) -> str:
        """A job's DICOM result."""
        return self.path("dicom", "{}-{}.dcm".format(key, kind))

    def key_of(self, sop_uid: str, sha256: str, model_hash: str) -> str:
        """The name of an image for a model: salted, so that it identifies nothing elsewhere."""
        text = "{} {} {}".format(sop_uid, sha256, model_hash).encode("utf-8")
        return hmac.new(self._salt, text, hashlib.sha256).hexdigest()[:32]

    def receive(self, blocks: Iterator[bytes], max_bytes: int) -> SpooledUpload:
        """Write an image under a temporary name and sync it.

        Raises:
            OSError: The disk is full or broken; nothing is left.
            TooLarge: More bytes than allowed; nothing is left.
        """
        path = self.path("incoming", PART + os.urandom(8).hex())
        try:
            with io.open(path, "wb") as stream:
                size = self._copy(blocks, stream, max_bytes)
                stream.flush()
                os.fsync(stream.fileno())
            return self.examine(path, size)
        except BaseException:
            self.remove(path)
            raise

    @staticmethod
    def _copy(blocks: Iterator[bytes], stream: BinaryIO, max_bytes: int) -> int:
        size = 0
        for block in blocks:
            size += len(block)
            if size > max_bytes:
                raise TooLarge
            stream.write(block)
        return size

    @staticmethod
    def examine(path: str, size: int) -> SpooledUpload:
        """Identity of a file in the spool."""
        digest = hashlib.sha256()
        with io.open(path, "rb") as stream:
            head = stream.read(META_BYTES)
            offset = dataset_offset(head)
            stream.seek(offset if offset <= size else 0)
            for block in iter(lambda: stream.read(BLOCK), b""):
                digest.update(block)
        return SpooledUpload(path, size, sop_uid_of(head), digest.hexdigest())

    def keep(self, upload: SpooledUpload, key: str) -> None:
        """Give an image its final name, durable on return."""
        os.replace(upload.path, self.image(key))
        sync_folder(self.path("incoming"))

    def names(self, folder: str, ending: str) -> List[str]:
        """Names in a folder without the ending, temporary ones left out."""
        return sorted(
            name[: -len(ending)]
            for name in os.listdir(self.path(folder))
            if name.endswith(ending) and not name.startswith(".")
        )

    def remove_parts(self) -> int:
        """Remove what a crash left half written; how many files."""
        count = 0
        for folder in FOLDERS:
            for name in os.listdir(self.path(folder)):
                if name.startswith(PART):
                    self.remove(self.path(folder, name))
                    count += 1
        return count

    def quarantine(self, key: str, error: bytes) -> None:
        """Set an image aside with its `.error.json` twin, durable on return.

        Raises:
            OutputError: The disk is full or broken.
        """
        write_bytes(self.path("quarantine", key + ".error.json"), error)
        if os.path.exists(self.image(key)):
            with os_errors_as(OutputError, "Image cannot be set aside", self.path("quarantine")):
                os.replace(self.image(key), self.path("quarantine", key + IMAGE))
                sync_folder(self.path("quarantine"))

    def forget(self, key: str) -> None:
        """Remove everything of a job."""
        self.remove(self.image(key))
        self.forget_answer(key)

    def forget_answer(self, key: str) -> None:
        """Remove what a job was answered with."""
        paths = [self.result(key)]
        paths += [self.dicom(key, kind) for kind in ("sr", "gsps", "sc")]
        paths += [self.path("quarantine", key + end) for end in (IMAGE, ".error.json")]
        for path in paths:
            self.remove(path)

    @staticmethod
    def remove(path: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(path)

    def set_aside_journal(self) -> str:
        """Move a damaged journal away; returns its new name."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        name = "journal.corrupt-{}-{}".format(stamp, os.urandom(2).hex())
        for ending in ("", "-wal", "-shm"):
            old = self.path("journal.sqlite" + ending)
            if os.path.exists(old):
                os.replace(old, self.path(name + ending))
        return name

    def is_writable(self) -> bool:
        """Whether a file can be made in each folder; tried, since rights do not say it all."""
        for name in FOLDERS:
            path = self.path(name, PART + "probe-" + os.urandom(8).hex())
            try:
                with io.open(path, "wb"):
                    pass
                os.unlink(path)
            except OSError:
                return False
        return True

    def disk(self) -> Optional[Any]:
        """Total, used and free bytes; None when the disk does not answer."""
        try:
            return shutil.disk_usage(self.root)
        except OSError:
            return None
