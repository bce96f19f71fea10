"""Objects to a DICOMweb service by STOW-RS (DICOM PS3.18 10.5)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import requests
from pydicom.filereader import read_file_meta_info

from pneumonia.scoring.network import dicomweb_service
from pneumonia.scoring.network.delivery import (
    NOT_SENT,
    REFUSED,
    SENT,
    WITH_WARNING,
    Delivery,
)
from pneumonia.scoring.network.dicomweb_service import (
    JSON_TYPE,
    MAX_RETRY_AFTER_SECONDS,
    TIMEOUT_SECONDS,
    DicomwebService,
    answer_of,
    status_of_answer,
)

# Worth a retry, like 5xx: Request Timeout, Too Many Requests.
TRANSIENT = (408, 429)
REFERENCED, FAILED, INSTANCE = "00081199", "00081198", "00081155"
WARNING_REASON, FAILURE_REASON = "00081196", "00081197"
MAX_ANSWER_BYTES = 4 << 20


class StowSender:
    """Sends each object in a request of its own, so that each has its own answer."""

    def __init__(self, service: DicomwebService) -> None:
        self._service = service

    def close(self) -> None:
        """Do nothing: the session stays open for further requests."""

    def attempt(self, path: Path) -> Delivery:
        """Send one object."""
        data = path.read_bytes()
        boundary = hashlib.sha256(data).hexdigest()
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode("ascii")
        try:
            with self._service.session().post(
                f"{self._service.endpoint}/studies",
                data=head + data + f"\r\n--{boundary}--\r\n".encode("ascii"),
                headers={
                    "Accept": JSON_TYPE,
                    "Content-Type": "multipart/related; "
                    f'type="application/dicom"; boundary={boundary}',
                },
                timeout=TIMEOUT_SECONDS,
                stream=True,
            ) as answer:
                return self._outcome(answer, str(read_file_meta_info(path)[0x00020003].value))
        except requests.RequestException as error:
            return Delivery(NOT_SENT, None, answer_of(error))

    def _outcome(self, answer: requests.Response, instance: str) -> Delivery:
        code = answer.status_code
        if code in TRANSIENT or code >= 500:
            retries = dicomweb_service.RETRIES
            if (retries.get_retry_after(answer.raw) or 0) <= MAX_RETRY_AFTER_SECONDS:
                retries.sleep_for_retry(answer.raw)
            return Delivery(NOT_SENT, None, status_of_answer(answer))
        found = _named(_document(answer), instance)
        if found is not None:
            return found
        if 200 <= code < 300:
            return Delivery(REFUSED, None, "the answer does not confirm the object")
        return Delivery(REFUSED, None, f"HTTP {code}")


def _document(answer: requests.Response) -> Any:
    """The answer's JSON; None when it is not valid JSON or too long."""
    try:
        data = b""
        for block in answer.iter_content(1 << 16):
            data += block
            if len(data) > MAX_ANSWER_BYTES:
                return None
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _named(document: Any, instance: str) -> Delivery | None:
    """The entry of a response (PS3.18 table 10.5.3-2) for an instance; None if it has none."""
    for tag, reason in ((FAILED, FAILURE_REASON), (REFERENCED, WARNING_REASON)):
        for item in _items(document, tag):
            if str(next(iter(_items(item, INSTANCE)), "")) != instance:
                continue
            code = next(iter(_items(item, reason)), None)
            number = int(code) if isinstance(code, int | float) else None
            if tag == FAILED:
                return Delivery(REFUSED, number, "" if number else "the service failed to store it")
            return Delivery(SENT if number is None else WITH_WARNING, number)
    return None


def _items(document: Any, tag: str) -> list[Any]:
    """Values of an attribute in DICOM JSON."""
    try:
        found = document[tag]["Value"]
    except (KeyError, TypeError, IndexError):
        return []
    return found if isinstance(found, list) else []
