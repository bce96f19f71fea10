"""Images of a DICOMweb server: QIDO-RS to find them, WADO-RS to fetch them (DICOM PS3.18)."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import requests
from pydicom.datadict import tag_for_keyword

from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.image.read_limits import DEFAULT_LIMITS
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.scoring.image.expected import AMBIGUOUS, STATUS_OF, WRONG_OBJECT
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.inputs import IsDone
from pneumonia.scoring.inputs.object_uids import object_uids
from pneumonia.scoring.inputs.query import (
    SERIES_ANSWER,
    STUDY_ANSWER,
    FoundStudies,
    Query,
    RemoteImage,
    fetched_entry,
    fetched_path,
    is_uid,
    was_fetched,
)
from pneumonia.scoring.network.dicomweb_service import (
    DICOMWEB,
    JSON_TYPE,
    TIMEOUT_SECONDS,
    TOKEN,
    DicomwebService,
    answer_of,
    status_of_answer,
)
from pneumonia.scoring.settings import ScoreSettings

PAGE = 200
MAX_PAGES = 1000
MAX_ANSWER_BYTES = 32 << 20
THREADS = 4
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
MODALITY, BODY_PART, DESCRIPTION = "00080060", "00180015", "0008103E"
DICOM_TYPE = 'multipart/related; type="application/dicom"; transfer-syntax=*'
MAX_PART_HEAD = 16 << 10


def boundary_of(content_type: str) -> bytes:
    """The boundary of a multipart answer; empty when the answer is the object itself.

    Raises:
        ValueError: The type is multipart without a valid boundary.
    """
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_maintype() != "multipart":
        return b""
    boundary = header.get_boundary() or ""
    if not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise ValueError("multipart without boundary")
    return boundary.encode("ascii")


def parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """The contents of all parts of a multipart/related body (RFC 2046 5.1, PS3.18 8.7.3).

    Raises:
        ValueError: The closing delimiter is missing, or a part has no end of its header.
    """
    delimiter = re.compile(rb"(?:\A|\r\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r\n|\Z)")
    before = delimiter.search(body)
    while before is not None and not before.group(1):
        # the line break that ends a delimiter may be the one that begins the next
        after = delimiter.search(body, before.end())
        head = body.find(b"\r\n\r\n", before.end())
        if after is None or not 0 <= head <= after.start() or head - before.end() > MAX_PART_HEAD:
            raise ValueError("multipart is cut off or malformed")
        yield body[head + 4 : after.start()]
        before = after
    if before is None:
        raise ValueError("multipart is cut off or malformed")


@dataclass(frozen=True)
class DicomwebInput:
    """The images of some studies on a DICOMweb server.

    Attributes:
        url, ca_file, client_cert, client_key: See `DicomwebService`.
        wanted: Query that selects the studies.
        max_file_bytes: Larger images are refused.
        service: The server.
    """

    url: str
    wanted: Query
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    max_file_bytes: int = DEFAULT_LIMITS.max_file_bytes
    kind: str = "dicomweb"
    service: DicomwebService = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        service = DicomwebService(self.url, self.ca_file, self.client_cert, self.client_key)
        object.__setattr__(self, "service", service)

    @property
    def endpoint(self) -> str:
        """The address of the service."""
        return self.service.endpoint

    def check(self, out: Path) -> None:
        """Accept any output folder, since a server is never written to."""

    def query(self, settings: ScoreSettings) -> list[FoundFile]:
        """The instances of all studies that match, by their UIDs; and studies that do not match."""
        found = FoundStudies()
        for asked in self.wanted.study_queries():
            answers = self._search("/studies", asked)
            found.add(asked, [_named(answer, STUDY_ANSWER) for answer in answers])
        return found.entries(lambda uid: self._images(uid, found), settings.rules)

    def _images(self, study: str, found: FoundStudies) -> Iterator[RemoteImage]:
        for series in self._search(f"/studies/{study}/series", {"includefield": BODY_PART}):
            uid = _value(series, SERIES)
            if not found.is_series_of(study, _named(series, SERIES_ANSWER)):
                continue
            for instance in self._search(f"/studies/{study}/series/{uid}/instances", {}):
                name = _value(instance, INSTANCE)
                place = (_value(instance, STUDY), _value(instance, SERIES))
                if is_uid(name) and place[0] in ("", study) and place[1] in ("", uid):
                    yield RemoteImage(
                        study,
                        uid,
                        name,
                        _values(series, MODALITY),
                        _values(series, BODY_PART),
                        _value(series, DESCRIPTION),
                        found.studies[study],
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
            with self.service.session().get(
                self.endpoint + path,
                params=asked,
                headers={"Accept": JSON_TYPE},
                timeout=TIMEOUT_SECONDS,
                stream=True,
            ) as answer:
                if answer.status_code == 204:  # nothing matches
                    return []
                if answer.status_code != 200:
                    raise self._refused(status_of_answer(answer))
                data = b"".join(_bounded(answer, MAX_ANSWER_BYTES))
            found = json.loads(data)
        except requests.RequestException as error:
            raise self._refused(answer_of(error)) from None
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
            fix=f"Check address, certificate and {DICOMWEB}{TOKEN}",
        )

    def fetch(
        self, entries: list[FoundFile], folder: Path, is_done: IsDone, progress: Progress | None
    ) -> list[FoundFile]:
        """Fetch the entries that have no status yet and are not scored."""
        needed = [entry for entry in entries if not entry.status and not is_done(entry)]
        if not needed:
            return entries
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: dict[str, FoundFile] = {}
        with ThreadPoolExecutor(THREADS, "fetch") as pool:
            jobs = [pool.submit(self._fetch_one, entry, folder) for entry in needed]
            try:
                for number, job in enumerate(jobs, start=1):
                    entry = job.result()
                    found[entry.relative] = entry
                    report_progress(progress, number, len(needed), "fetch")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [found.get(entry.relative, entry) for entry in entries]

    def _fetch_one(self, entry: FoundFile, folder: Path) -> FoundFile:
        """Fetch one image unless an interrupted run did; an error affects this image only."""
        if not was_fetched(folder, entry):
            study, series, instance = uids = entry.relative.removesuffix(".dcm").split("/")
            of_series = f"{self.endpoint}/studies/{study}/series/{series}"
            found = self._retrieved(f"{of_series}/instances/{instance}", uids)
            if isinstance(found, _Refusal) and found.may_be_in_series:
                # a service that searches by instance UID alone may have found another study's
                again = self._retrieved(of_series, uids)
                found = again if isinstance(again, bytes) else found
            if isinstance(found, _Refusal):
                return replace(entry, status=found.status, reason=found.reason, detail=found.detail)
            write_bytes(str(fetched_path(folder, entry)), found)
        return fetched_entry(entry, folder)

    def _retrieved(self, url: str, uids: list[str]) -> "bytes | _Refusal":
        """The requested object, else one that cannot be parsed (decoding reports the reason).

        Args:
            url: Of the instance, or of its series.
            uids: Study, Series and SOP Instance UID.
        """
        fitting, unreadable = set(), []
        try:
            body, boundary = self._answer(url)
            for data in parts(body, boundary) if boundary else (body,):
                found = object_uids(data)
                if found == tuple(uids):
                    fitting.add(data)
                elif found is None:
                    unreadable.append(data)
        except _TooLargeError:
            return _Refusal("rejected", "resource_limit")
        except (requests.RequestException, ValueError) as error:
            return _Refusal("failed", "not_retrieved", answer_of(error))
        if len(fitting) > 1:  # perhaps of two patients
            return _Refusal(STATUS_OF[AMBIGUOUS], AMBIGUOUS)
        candidates = [*fitting, *unreadable]
        return candidates[0] if candidates else _Refusal(STATUS_OF[WRONG_OBJECT], WRONG_OBJECT)

    def _answer(self, url: str) -> tuple[bytes, bytes]:
        """The body of an answer, and its boundary if it is multipart."""
        with self.service.session().get(
            url, headers={"Accept": DICOM_TYPE}, timeout=TIMEOUT_SECONDS, stream=True
        ) as answer:
            answer.raise_for_status()
            boundary = boundary_of(answer.headers.get("Content-Type", ""))
            limit = self.max_file_bytes + (MAX_PART_HEAD if boundary else 0)
            return b"".join(_bounded(answer, limit)), boundary


class _Refusal(NamedTuple):
    """Status, reason and detail of an image that was not retrieved."""

    status: str
    reason: str
    detail: str = ""

    @property
    def may_be_in_series(self) -> bool:
        """Whether the service has no such instance, or delivered another."""
        return self.reason == WRONG_OBJECT or self.detail.startswith(("HTTP 404", "HTTP 410"))


class _TooLargeError(ValueError):
    """An answer has more bytes than the limit."""


def _named(item: dict[str, Any], keywords: Sequence[str]) -> Mapping[str, str]:
    """First values of attributes in an answer, by keyword."""
    return {keyword: _value(item, f"{tag_for_keyword(keyword):08X}") for keyword in keywords}


def _values(item: dict[str, Any], tag: str) -> list[str]:
    """Values of an attribute in DICOM JSON (PS3.18 F.2) as text, without padding."""
    try:
        found = item[tag]["Value"]
        values = (
            found if isinstance(found, list) else [found]
        )  # some servers send a single value without a list
        return [str(value).strip(" \0") for value in values if value is not None]
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
