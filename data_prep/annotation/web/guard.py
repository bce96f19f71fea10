"""Checks of every request (host, origin, size, time) and headers of every answer."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

LOG = logging.getLogger("pneumonia.annotate")
MAX_BODY_BYTES = 256 << 10
BODY_SECONDS = 30.0  # for the whole body of a request
IMPORT_PATH = "/api/manage/import"  # request bodies are files: larger limits, any content
MAX_IMPORT_BYTES = 64 << 20
OWN_HEADER = b"x-annotate"  # another origin's page cannot send it without a CORS preflight
_SAFE = ("GET", "HEAD")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = (
    (b"content-security-policy",
     b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
     b"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)  # fmt: skip


class RequestGuard:
    """ASGI middleware that checks requests and adds security headers.

    Args:
        app: The wrapped ASGI application.
        hosts: Accepted host names without port; protects against DNS rebinding.
        body_s: Seconds for the whole body of a request; an import has ten times as many.
    """

    def __init__(self, app: App, hosts: Collection[str], body_s: float = BODY_SECONDS) -> None:
        self._app = app
        self._body_s = body_s
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check and forward a request; log method, route and status, but no query or address."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        start = time.monotonic()
        answered: list[int] = []
        is_import = scope["path"] == IMPORT_PATH
        body = (
            _Body(receive, MAX_IMPORT_BYTES, 10 * self._body_s)
            if is_import
            else _Body(receive, MAX_BODY_BYTES, self._body_s)
        )

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                if body.too_large:  # overrides the application's answer to the truncated body
                    message["status"] = 413
                elif body.too_slow:
                    message["status"] = 408
                answered.append(message["status"])
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        fault = self._fault(scope)
        if fault:
            await _refuse(guarded_send, *fault)
        else:
            await self._app(scope, body.receive, guarded_send)
        route = scope.get("route")
        LOG.info(
            "%s %s %d %.0f ms", scope["method"], getattr(route, "path", "-"),
            answered[0] if answered else 500, 1000 * (time.monotonic() - start),
        )  # fmt: skip

    def _fault(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if _name_of(host) not in self._hosts:
            return 421, "Host name is not accepted by this application"
        length = headers.get(b"content-length", b"0")
        is_import = scope["path"] == IMPORT_PATH
        limit = MAX_IMPORT_BYTES if is_import else MAX_BODY_BYTES
        if not length.isdigit() or len(length) > 18 or int(length) > limit:
            return 413, "Request is too large"
        if scope["method"] in _SAFE:
            return None
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").partition("://")[2] != host:
            return 403, "Request comes from another site"
        kind = b"application/octet-stream" if is_import else b"application/json"
        if OWN_HEADER not in headers or headers.get(b"content-type") != kind:
            return 403, "Request does not come from the application's own page"
        return None


def _name_of(host: str) -> str:
    """The host name in a Host header, without the port; empty when malformed."""
    try:
        return urlsplit("//" + host).hostname or ""
    except ValueError:
        return ""


class _Body:
    """Request body that reports a disconnect once it exceeds the size or time limit."""

    def __init__(self, receive: Receive, max_bytes: int, seconds: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._count = 0
        self._whole = False
        self._until = time.monotonic() + seconds
        self.too_large = False
        self.too_slow = False

    async def receive(self) -> Message:
        """Next ASGI message; `http.disconnect` when a limit is exceeded."""
        if self._whole:  # the body is complete: only the disconnect follows, without time limit
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._until - time.monotonic())
        except TimeoutError:
            self.too_slow = True
            return {"type": "http.disconnect"}
        self._whole = not message.get("more_body", False)
        self._count += len(message.get("body", b""))
        if self._count > self._max_bytes:
            self.too_large = True
            return {"type": "http.disconnect"}
        return message


async def _refuse(send: Send, status: int, text: str) -> None:
    body = b'{"error": "' + text.encode() + b'"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
