"""A DICOMweb service: its address, credentials, certificates and proxies (DICOM PS3.18)."""

import logging
import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, get_netrc_auth
from urllib3.exceptions import InvalidHeader, MaxRetryError, ResponseError
from urllib3.util.retry import Retry

from pneumonia.runtime.connections import client_context
from pneumonia.runtime.errors import ConfigError

log = logging.getLogger(__name__)
DICOMWEB, SEND = "PNEUMONIA_DICOMWEB", "PNEUMONIA_SEND"  # begin the names of the variables below
TOKEN, USER, PASSWORD = "_TOKEN", "_USER", "_PASSWORD"
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, between two bytes
MAX_RETRY_AFTER_SECONDS = 60.0
REPORTED_RETRY_AFTER_SECONDS = 5.0  # longer waits are reported
JSON_TYPE = "application/dicom+json"


class PoliteRetry(Retry):  # type: ignore[misc]
    """Waits as long as the server asks, up to MAX_RETRY_AFTER_SECONDS; reports long waits.

    A request is not repeated when the server asks for a longer wait.
    """

    def get_retry_after(self, response: Any) -> float | None:
        """The seconds in the header Retry-After; None when it is absent or malformed."""
        try:
            seconds: float | None = super().get_retry_after(response)
        except InvalidHeader:
            return None
        return seconds

    def increment(self, method: Any = None, url: Any = None, response: Any = None,
                  *others: Any, **named: Any) -> Any:  # fmt: skip
        """Count a try; refuses a further one after a TLS error, or for too long a wait."""
        pool = others[1] if len(others) > 1 else named.get("_pool")
        error = others[0] if others else named.get("error")
        tls = next((e for e in _causes(error) if isinstance(e, ssl.SSLError)), None)
        if tls is not None and not isinstance(tls, ssl.SSLEOFError):
            raise MaxRetryError(pool, url, error)
        wait = self.get_retry_after(response) if response is not None else None
        if wait is not None and wait > MAX_RETRY_AFTER_SECONDS:
            raise MaxRetryError(pool, url, ResponseError("asked to wait too long"))
        return super().increment(method, url, response, *others, **named)

    def sleep_for_retry(self, response: Any) -> bool:
        """Wait as long as the server asks; False when it does not ask."""
        wait = self.get_retry_after(response)
        if not wait:
            return False
        if wait >= REPORTED_RETRY_AFTER_SECONDS:
            log.warning("DICOMweb server asks to wait %.0f s (HTTP %s)", wait, response.status)
        sleep(wait)
        return True


RETRIES = PoliteRetry(
    total=3, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), raise_on_status=False
)


# With TLS 1.3 a client may see the end of the connection before the reason for it.
CLIENT_CERTIFICATE = (
    "perhaps it asks for a client certificate (--client-cert) or does not accept the client "
    "certificate given"
)
# parts of OpenSSL's names of errors
TLS_REASONS = {
    "CERTIFICATE_REQUIRED": "the server asks for a client certificate (--client-cert)",
    "UNKNOWN_CA": "the server does not trust the client certificate",
    "CERTIFICATE_EXPIRED": "the client certificate has expired",
    "BAD_CERTIFICATE": "the server does not accept the client certificate",
    "HANDSHAKE_FAILURE": f"the server refuses: {CLIENT_CERTIFICATE}",
    "EOF": f"the server ends the TLS connection: {CLIENT_CERTIFICATE}",
    "PROTOCOL_VERSION": "the server has no TLS 1.2 or 1.3",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS on this port",
}


@dataclass(frozen=True)
class DicomwebService:
    """The root of a DICOMweb service.

    The environment gives the credentials: PNEUMONIA_DICOMWEB_TOKEN (bearer token), or
    PNEUMONIA_DICOMWEB_USER and PNEUMONIA_DICOMWEB_PASSWORD, or else a .netrc with the host; the
    same with PNEUMONIA_SEND for a server that results are sent to and images do not come from; the
    proxies (HTTPS_PROXY, NO_PROXY, ...); and without `ca_file` the certificates
    (REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE).

    Attributes:
        url: For example https://pacs.example/dicom-web.
        ca_file: Certificates to trust in place of all others.
        client_cert: Certificate that identifies this user to the server (PEM), with its chain.
        client_key: Its private key; None if `client_cert` holds it.
        variables: DICOMWEB or SEND, the beginning of the names of the variables.

    Raises:
        ConfigError: The address or a file is not valid.
    """

    url: str
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    variables: str = DICOMWEB
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and parts.hostname and not parts.query
            sound = sound and parts.port != 0
        except ValueError:  # brackets or port
            sound = False
        if not sound:
            raise ConfigError(
                "Not the address of a DICOMweb service",
                expected="https://HOST/PATH, an IPv6 address in brackets",
            )
        if parts.username or parts.password:
            raise ConfigError(
                "Credentials in an address end in logs",
                fix=f"Set {self.variables}{TOKEN}, or {self.variables}{USER} and "
                f"{self.variables}{PASSWORD}",
            )
        if self.ca_file is not None and not self.ca_file.is_file():
            raise ConfigError("File of certificates does not exist", where=str(self.ca_file))
        # opened here, since `requests` would ask the terminal for the passphrase of a key
        client_context(*(str(path or "") for path in self._tls_files))

    @property
    def _tls_files(self) -> tuple[Path | None, Path | None, Path | None]:
        return self.client_cert, self.client_key, self.ca_file

    @property
    def origin(self) -> tuple[str, str]:
        """Scheme and host with port: what credentials belong to."""
        parts = urlsplit(self.url.lower())
        return parts.scheme, parts.netloc

    @property
    def endpoint(self) -> str:
        """The address without a slash at its end."""
        return self.url.rstrip("/")

    def __str__(self) -> str:
        return self.endpoint

    def session(self) -> requests.Session:
        """The session of this thread: `requests` sessions are not thread-safe."""
        if not hasattr(self._local, "session"):
            self._local.session = self._new_session()
        found: requests.Session = self._local.session
        return found

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        # requests would let the environment and .netrc override what is set here
        session.trust_env = False
        session.proxies = get_environ_proxies(self.endpoint)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
        token, user, password = (
            os.environ.get(self.variables + name, "") for name in (TOKEN, USER, PASSWORD)
        )
        if token:
            session.headers["Authorization"] = f"Bearer {token}"
        elif user:
            session.auth = (user, password)
        else:
            session.auth = get_netrc_auth(self.endpoint)
        if self.client_cert is not None:
            session.cert = (str(self.client_cert), str(self.client_key or self.client_cert))
        bundles = [os.environ[name] for name in CA_VARIABLES if os.environ.get(name)]
        if self.ca_file is not None:
            session.verify = str(self.ca_file)
        elif bundles:
            session.verify = bundles[0]
        return session


def status_of_answer(answer: requests.Response) -> str:
    """The HTTP status of an answer, with the wait that the server asks for."""
    wait = answer.headers.get("Retry-After", "")
    return f"HTTP {answer.status_code}" + (f", retry after {wait[:32]}" if wait else "")


def answer_of(error: Exception) -> str:
    """How a request failed: the HTTP status with what the server asks for, or how it ended."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return status_of_answer(answer)
    causes = list(_causes(error))
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None:
        return _tls_reason(tls)
    request = getattr(error, "request", None)
    is_tls = str(getattr(request, "url", "")).startswith("https:")
    if is_tls and any(isinstance(c, ConnectionResetError | BrokenPipeError) for c in causes):
        return f"the server ends the connection: {CLIENT_CERTIFICATE}"
    reasons = (
        (requests.exceptions.ProxyError, "the proxy does not connect"),
        (requests.Timeout, "no answer in time"),
        (requests.exceptions.ChunkedEncodingError, "the transfer broke off"),
        (requests.exceptions.ContentDecodingError, "the compressed answer is damaged"),
        (requests.RequestException, "the connection failed"),
    )
    return next((text for kind, text in reasons if isinstance(error, kind)), str(error))


def _causes(error: object) -> Iterator[BaseException]:
    """An error and those that it was raised from or holds, each once."""
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None)]
            waiting += found.args


def _tls_reason(error: ssl.SSLError) -> str:
    """Why two sides have no TLS connection: whose certificate is not accepted, and why."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message.rstrip('.')}"
    reason = error.reason or type(error).__name__
    return next((text for part, text in TLS_REASONS.items() if part in reason), f"TLS: {reason}")
