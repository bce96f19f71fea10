"""The HTTP interface: images in, answers out, health and figures."""

import hmac
import re
import socket
import ssl
import time
from typing import Callable, Iterator, NamedTuple, Optional

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.interfaces.http_head import (
    LENGTH_REQUIRED,
    RequestHead,
    RequestRefused,
)
from deploy_jetson.device.daemon.interfaces.http_server import Body, HttpServer, Reply, json_reply
from deploy_jetson.device.daemon.settings import RestSettings
from deploy_jetson.device.daemon.store.intake import AcceptedImage, IntakeRefused

PLAIN = "text/plain; charset=utf-8"
BODY = "the file itself as the body: curl --data-binary @FILE"
CODES = {  # of the reasons of IntakeRefused; 503 for all others
    "disk_full": 507,
    "spool_not_writable": 507,
    "journal_not_usable": 507,
    "too_large": 413,
    "empty": 400,
}
HEALTH = ("/livez", "/readyz", "/metrics")
OPEN = "/livez"  # the one path that needs no token
IMAGES = "/v1/images"
NOT_FOUND = json_reply(404, {"error": "no such path"})
JOB_PATH = re.compile(r"^/v1/jobs/([0-9a-f]{32})(/result|/sr|/gsps|/sc)?$")


class RestBackend(NamedTuple):
    """Functions of the daemon that the interface calls."""

    accept: Callable[[Iterator[bytes]], AcceptedImage]  # stores an image from its blocks
    refusal: Callable[[], Optional[str]]  # why no image is accepted at present, None when one is
    # (path, query) of a GET -> reply, None for an unknown path
    answer: Callable[[str, str], Optional[Reply]]
    refused: Callable[[str], None]  # counts a refusal by its reason


class RestInterface:
    """Answers the requests of one server.

    Args:
        token: Bearer token, empty for none.
    """

    def __init__(self, token: bytes, max_bytes: int, backend: RestBackend) -> None:
        self._token = token
        self._max_bytes = max_bytes
        self._backend = backend

    def check(self, head: RequestHead) -> None:
        """Check the token, before anything else of a request is looked at.

        Raises:
            RequestRefused: It is missing or wrong.
        """
        if not self._token or head.path == OPEN:
            return
        given = head.fields.get("authorization", "").encode("ascii")
        if not hmac.compare_digest(given, b"Bearer " + self._token):
            raise RequestRefused(401, "unauthorized")

    def respond(self, head: RequestHead, body: Body) -> Reply:
        """Answer a request.

        Raises:
            RequestRefused: It is not one that this interface answers, or its body is late.
            OSError: The client has closed the connection.
        """
        try:
            if head.method == "POST":
                return self._post(head, body)
            if head.method in ("GET", "HEAD"):
                return self._backend.answer(head.path, head.query) or NOT_FOUND
        except (RequestRefused, ConnectionError, socket.timeout, ssl.SSLError):
            raise
        except Exception:
            logs.broken("rest_internal_error")
            return json_reply(500, {"error": "internal_error"})
        raise RequestRefused(501, "bad_request", "GET, HEAD or POST")

    def _post(self, head: RequestHead, body: Body) -> Reply:
        if head.path != IMAGES:
            return NOT_FOUND
        if head.length is None:
            raise RequestRefused(411, *LENGTH_REQUIRED)
        if head.fields.get("content-type", "").lower().startswith("multipart/"):
            raise RequestRefused(415, "multipart", BODY)
        if head.length > self._max_bytes:
            raise RequestRefused(413, "too_large")
        expectation = head.fields.get("expect", "").lower()
        if expectation not in ("", "100-continue"):
            raise RequestRefused(417, "bad_request", "100-continue")
        reason = self._backend.refusal() if expectation else None
        if reason:  # before the body is sent
            raise RequestRefused(CODES.get(reason, 503), reason)
        try:
            accepted = self._backend.accept(body())
        except IntakeRefused as refused:
            return json_reply(CODES.get(refused.reason, 503), {"error": refused.reason})
        job = accepted.job
        value = {"job": job.key, "status": job.state, "known": accepted.known}
        return json_reply(200 if accepted.known else 202, value)


def rest_server(
    settings: RestSettings,
    token: bytes,
    context: Optional[ssl.SSLContext],
    max_bytes: int,
    backend: RestBackend,
    clock: Callable[[], float] = time.monotonic,
) -> HttpServer:
    """The server of the HTTP interface.

    Args:
        token: Bearer token, empty for none.

    Raises:
        OSError: The address is taken.
    """
    interface = RestInterface(token, max_bytes, backend)
    return HttpServer(
        settings, context, interface.check, interface.respond, lambda path: path not in HEALTH,
        backend.refused, clock,
    )  # fmt: skip
