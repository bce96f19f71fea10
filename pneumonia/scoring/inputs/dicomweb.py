"""Images of a DICOMweb server: QIDO-RS to find them, WADO-RS to fetch them (DICOM PS3.18)."""

import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from pneumonia.runtime.errors import ConfigError, DataError, OutputError
from pneumonia.runtime.image.dicom_header import DEFAULT_LIMITS
from pneumonia.runtime.progress import Progress
from pneumonia.scoring.batch.settings import ScoreSettings
from pneumonia.scoring.image.find import SourceEntry
from pneumonia.scoring.inputs import IsDone
from pneumonia.scoring.inputs.query import Query, RemoteImage, arrived, fetched_path, is_uid

TOKEN = "PNEUMONIA_DICOMWEB_TOKEN"
USER, PASSWORD = "PNEUMONIA_DICOMWEB_USER", "PNEUMONIA_DICOMWEB_PASSWORD"
PAGE = 200
MAX_PAGES = 1000
MAX_ANSWER_BYTES = 32 << 20
MAX_PART_HEAD = 16 << 10
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, between two bytes
RETRIES = Retry(
    total=3, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), raise_on_status=False
)
THREADS = 4
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
MODALITY, BODY_PART, DESCRIPTION = "00080060", "00180015", "0008103E"
JSON_TYPE = "application/dicom+json"
DICOM_TYPE = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass(frozen=True)
class DicomwebInput:
    """The images of some studies on a DICOMweb server.

    The environment gives the credentials: PNEUMONIA_DICOMWEB_TOKEN (bearer token), or
    PNEUMONIA_DICOMWEB_USER and PNEUMONIA_DICOMWEB_PASSWORD.

    Attributes:
        url: Root of the service, for example https://pacs.example/dicom-web.
        wanted: Query that selects the studies.
        ca_file: Certificates to trust in place of the system's.
        max_file_bytes: Larger images are refused.
    """

    url: str
    wanted: Query
    ca_file: Path | None = None
    max_file_bytes: int = DEFAULT_LIMITS.max_file_bytes
    kind: str = "dicomweb"
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ConfigError("Not the address of a DICOMweb service", expected="https://HOST/PATH")
        if parts.username or parts.password:
            raise ConfigError(
                "Credentials in an address end in logs",
                fix=f"Set {TOKEN}, or {USER} and {PASSWORD}",
            )
        if self.ca_file is not None and not self.ca_file.is_file():
            raise ConfigError("File of certificates does not exist", where=str(self.ca_file))

    @property
    def endpoint(self) -> str:
        """The address of the service."""
        return self.url.rstrip("/")

    def check(self, out: Path) -> None:
        """Accept any output folder, since a server is never written to."""

    def query(self, settings: ScoreSettings) -> list[SourceEntry]:
        """The instances of all studies that match, by their UIDs."""
        images: dict[str, RemoteImage] = {}
        for study in self._studies():
            for image in self._images(study):
                images.setdefault(image.relative, image)
        return [images[name].entry(settings.rules) for name in sorted(images)]

    def _studies(self) -> list[str]:
        found: set[str] = set()
        for asked in self.wanted.each():
            found |= {_value(study, STUDY) for study in self._search("/studies", asked)}
        return sorted(uid for uid in found if is_uid(uid))

    def _images(self, study: str) -> Iterator[RemoteImage]:
        for series in self._search(f"/studies/{study}/series", {"includefield": BODY_PART}):
            uid = _value(series, SERIES)
            if not is_uid(uid):
                continue
            for instance in self._search(f"/studies/{study}/series/{uid}/instances", {}):
                name = _value(instance, INSTANCE)
                if is_uid(name):
                    yield RemoteImage(
                        study,
                        uid,
                        name,
                        _values(series, MODALITY),
                        _values(series, BODY_PART),
                        _value(series, DESCRIPTION),
                    )

    def _search(self, path: str, asked: dict[str, str]) -> Iterator[dict[str, Any]]:
        """All pages of a search; a server that ignores the offset is asked once."""
        seen: set[str] = set()
        for page in range(MAX_PAGES):
            paging = {"limit": str(PAGE), "offset": str(page * PAGE)}
            answers = self._page(path, {**asked, **paging})
            fresh = {str(item): item for item in answers if str(item) not in seen}
            seen |= fresh.keys()
            yield from fresh.values()
            if len(answers) < PAGE or not fresh:
                return

    def _page(self, path: str, asked: dict[str, str]) -> list[dict[str, Any]]:
        try:
            with self._session().get(
                self.endpoint + path,
                params=asked,
                headers={"Accept": JSON_TYPE},
                timeout=TIMEOUT_SECONDS,
                stream=True,
            ) as answer:
                if answer.status_code == 204:  # nothing matches
                    return []
                if answer.status_code != 200:
                    raise self._refused(f"HTTP {answer.status_code}")
                data = b"".join(_bounded(answer, MAX_ANSWER_BYTES))
            found = json.loads(data)
        except requests.RequestException as error:
            raise self._refused(type(error).__name__) from None
        except (ValueError, RecursionError):
            raise self._refused("no JSON, or too much of it") from None
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self._refused("JSON of another kind")
        return found

    def _refused(self, found: str) -> DataError:
        return DataError(
            "DICOMweb server does not answer the query",
            found=found,
            where=self.endpoint,
            fix=f"Check address, certificate and {TOKEN}",
        )

    def fetch(
        self, entries: list[SourceEntry], folder: Path, is_done: IsDone, progress: Progress | None
    ) -> list[SourceEntry]:
        """Fetch the entries that have no status yet and are not scored."""
        needed = [entry for entry in entries if not entry.status and not is_done(entry)]
        if not needed:
            return entries
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: dict[str, SourceEntry] = {}
        with ThreadPoolExecutor(THREADS, "fetch") as pool:
            jobs = [pool.submit(self._bring, entry, folder) for entry in needed]
            try:
                for number, job in enumerate(jobs, start=1):
                    entry = job.result()
                    found[entry.relative] = entry
                    if progress is not None:
                        progress(number, len(needed), "fetch")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [found.get(entry.relative, entry) for entry in entries]

    def _bring(self, entry: SourceEntry, folder: Path) -> SourceEntry:
        """Fetch one image unless an interrupted run did; an error affects this image only."""
        path = fetched_path(folder, entry.relative)
        if not path.is_file():
            study, series, instance = entry.relative.removesuffix(".dcm").split("/")
            url = f"{self.endpoint}/studies/{study}/series/{series}/instances/{instance}"
            try:
                self._download(url, path)
            except _TooLargeError:
                return entry._replace(status="rejected", reason="resource_limit")
            except (requests.RequestException, ValueError) as error:
                return entry._replace(
                    status="failed", reason="not_retrieved", detail=_answer_of(error)
                )
        return arrived(entry, folder)

    def _download(self, url: str, path: Path) -> None:
        handle, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
        try:
            with os.fdopen(handle, "w+b") as stream:
                with self._session().get(
                    url, headers={"Accept": DICOM_TYPE}, timeout=TIMEOUT_SECONDS, stream=True
                ) as answer:
                    answer.raise_for_status()
                    boundary = _boundary(answer.headers.get("Content-Type", ""))
                    for block in _bounded(answer, self.max_file_bytes + MAX_PART_HEAD):
                        stream.write(block)
                if boundary:
                    _keep_first_part(stream, boundary)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        except OSError as error:
            if isinstance(error, requests.RequestException):  # which are OSErrors as well
                raise
            raise OutputError(
                "Image cannot be stored", found=error.strerror, where=str(path.parent)
            ) from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(part)

    def _session(self) -> requests.Session:
        """The session of this thread: `requests` sessions are not thread-safe."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
            if os.environ.get(TOKEN):
                session.headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
            elif os.environ.get(USER):
                session.auth = (os.environ[USER], os.environ.get(PASSWORD, ""))
            if self.ca_file is not None:
                session.verify = str(self.ca_file)
            self._local.session = session
        found: requests.Session = self._local.session
        return found


class _TooLargeError(ValueError):
    """An answer has more bytes than the limit."""


def _answer_of(error: Exception) -> str:
    """Why the server did not deliver: its HTTP status, or how the transfer ended."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"HTTP {answer.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the transfer broke off"
    if isinstance(error, requests.RequestException):
        return "the connection failed"
    return str(error)  # raised here, about the multipart body


def _values(item: dict[str, Any], tag: str) -> list[str]:
    """Values of an attribute in DICOM JSON (PS3.18 F.2) as text."""
    try:
        return [str(value) for value in item[tag]["Value"] if value is not None]
    except (KeyError, TypeError):
        return []


def _value(item: dict[str, Any], tag: str) -> str:
    """First value of an attribute in DICOM JSON, empty when it has none."""
    return next(iter(_values(item, tag)), "")


def _bounded(answer: requests.Response, limit: int) -> Iterator[bytes]:
    left = limit
    for block in answer.iter_content(1 << 18):
        left -= len(block)
        if left < 0:
            raise _TooLargeError("answer is too long")
        yield block


def _boundary(content_type: str) -> bytes:
    """The boundary of a multipart answer; empty when the answer is the file itself."""
    if not content_type.lower().startswith("multipart/"):
        return b""
    found = re.search(r'boundary="?([^";,\s]{1,70})', content_type)
    if found is None:
        raise ValueError("multipart without boundary")
    return found.group(1).encode("latin-1")


def _keep_first_part(stream: BinaryIO, boundary: bytes) -> None:
    """Turn a multipart body into the body of its first part, in place (RFC 2046 5.1)."""
    stream.seek(0)
    body = stream.read()
    start = body.find(b"--" + boundary)
    head = body.find(b"\r\n\r\n", start)
    end = body.find(b"\r\n--" + boundary, head)
    if start < 0 or head < 0 or end < 0 or head - start > MAX_PART_HEAD:
        raise ValueError("multipart is cut off or malformed")
    stream.seek(0)
    stream.write(body[head + 4 : end])
    stream.truncate()
