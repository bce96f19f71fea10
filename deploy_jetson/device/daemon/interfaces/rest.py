"""The HTTP interface: images in, answers out, health and figures.

One request per connection, a bounded number of connections, and one deadline per connection, so
that slow clients cannot occupy the server.
"""

import contextlib
import hmac
import json
import re
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.config import allowed
from deploy_jetson.device.daemon.settings import RestSettings
from deploy_jetson.device.daemon.store.intake import AcceptedImage, IntakeRefused

BLOCK = 1 << 16
POLL_S = 0.1
JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
RETRY_AFTER_S = 5
BODY = "the file itself as the body: curl --data-binary @FILE"
CODES = {  # of the reasons of IntakeRefused; 503 for all others
    "disk_full": 507,
    "spool_not_writable": 507,
    "journal_not_usable": 507,
    "too_large": 413,
    "empty": 400,
}
JOB_PATH = re.compile(r"^/v1/jobs/([0-9a-f]{32})(/result|/sr|/gsps|/sc)?$")

Reply = Tuple[int, str, bytes]  # status, content type, body


class RestBackend(NamedTuple):
    """Functions of the daemon that the interface calls.

    Attributes:
        accept: Stores an image from its blocks.
        refusal: Why no image is accepted at present, None when one is.
        answer: (path, query) of a GET -> reply, None for an unknown path.
    """

    accept: Callable[[Iterator[bytes]], AcceptedImage]
    refusal: Callable[[], Optional[str]]
    answer: Callable[[str, str], Optional[Reply]]


def json_reply(status: int, value: Any) -> Reply:
    """A JSON reply."""
    return status, JSON, (json.dumps(value, allow_nan=False) + "\n").encode("ascii")


class RestRequestHandler(BaseHTTPRequestHandler):
    """One request."""

    server_version = "pneumonia"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    server = None  # type: RestServer  # type: ignore[assignment]

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing: a request line may hold identifiers."""

    def send_error(
        self, code: int, message: Optional[str] = None, explain: Optional[str] = None
    ) -> None:
        """Send an error of the base class as JSON, without quoting the request."""
        self._reply(json_reply(code, {"error": self.responses.get(code, ("error",))[0]}))

    def parse_request(self) -> bool:
        """Check the token before the rest of the request is handled."""
        if not super().parse_request():
            return False
        path = self.path.split("?")[0]
        if self.server.token and path != "/livez":
            given = self.headers.get("Authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(given, b"Bearer " + self.server.token):
                self._reply(json_reply(401, {"error": "unauthorized"}))
                return False
        return True

    def handle_expect_100(self) -> bool:
        """Refuse a request with Expect: 100-continue before its body is sent."""
        reason = self.server.backend.refusal() if self.command == "POST" else None
        if reason or not 0 <= self._length() <= self.server.max_bytes:
            self._reply(self._refusal(reason or "too_large"))
            return False
        return super().handle_expect_100()

    def do_GET(self) -> None:
        """Answer a query."""
        path, _, query = self.path.partition("?")
        self._reply(self._guarded(lambda: self.server.backend.answer(path, query)))

    def do_POST(self) -> None:
        """Accept an image (POST)."""
        if self.path.split("?")[0] != "/v1/images":
            self._reply(json_reply(404, {"error": "no such path"}))
        elif "Content-Length" not in self.headers:
            self._reply(json_reply(411, {"error": "Content-Length is needed"}))
        elif self.headers.get("Content-Type", "").lower().startswith("multipart/"):
            self._reply(json_reply(415, {"error": "multipart", "expected": BODY}))
        elif not 0 <= self._length() <= self.server.max_bytes:
            self._reply(self._refusal("too_large"))
        else:
            self._reply(self._guarded(self._take))

    def _take(self) -> Reply:
        try:
            accepted = self.server.backend.accept(self._body())
        except IntakeRefused as refused:
            return self._refusal(refused.reason)
        job = accepted.job
        value = {"job": job.key, "status": job.state, "known": accepted.known}
        return json_reply(200 if accepted.known else 202, value)

    def _length(self) -> int:
        text = self.headers.get("Content-Length", "0").strip()
        return int(text) if text.isdigit() and len(text) < 20 else -1

    def _body(self) -> Iterator[bytes]:
        left = self._length()
        while left > 0:
            block = self.rfile.read(min(BLOCK, left))
            if not block:
                raise ConnectionError("body ended early")
            left -= len(block)
            yield block

    @staticmethod
    def _refusal(reason: str) -> Reply:
        return json_reply(CODES.get(reason, 503), {"error": reason})

    def _guarded(self, work: Callable[[], Optional[Reply]]) -> Optional[Reply]:
        try:
            return work() or json_reply(404, {"error": "no such path"})
        except (ConnectionError, socket.timeout, ssl.SSLError):
            return None  # the client has closed the connection
        except Exception:
            logs.broken("rest_internal_error")
            return json_reply(500, {"error": "internal_error"})

    def _reply(self, reply: Optional[Reply]) -> None:
        self.close_connection = True
        if reply is None:
            return
        status, kind, body = reply
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.send_header("X-Content-Type-Options", "nosniff")
            if status in (503, 507):
                self.send_header("Retry-After", str(RETRY_AFTER_S))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            pass


class RestServer(ThreadingMixIn, HTTPServer):
    """HTTP server with bounded connections and deadlines.

    Args:
        settings: `[rest]`.
        token: Bearer token, empty for none.
        context: TLS, None for none.
        max_bytes: Largest body.
        backend: The daemon.

    Raises:
        OSError: The address is taken.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(
        self,
        settings: RestSettings,
        token: bytes,
        context: Optional[ssl.SSLContext],
        max_bytes: int,
        backend: RestBackend,
    ) -> None:
        if ":" in settings.host:
            self.address_family = socket.AF_INET6
        self.token = token
        self.backend = backend
        self.max_bytes = max_bytes
        self._settings = settings
        self._context = context
        self._places = threading.BoundedSemaphore(settings.max_connections)
        self._open: Dict[Any, float] = {}
        self._open_lock = threading.Lock()
        HTTPServer.__init__(self, (settings.host, settings.port), RestRequestHandler)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._open)

    def server_bind(self) -> None:
        """Bind without a reverse DNS lookup."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the client's address is on the allow-list."""
        return allowed(str(client_address[0]), self._settings.allow)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection in a thread, or close it when all slots are taken."""
        if not self._places.acquire(False):
            self.shutdown_request(request)
            return
        with self._open_lock:
            self._open[request] = time.monotonic() + self._settings.request_s
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection and free its slot."""
        secured = request
        try:
            request.settimeout(self._settings.request_s)
            # the handshake runs in the connection's thread: a slow one must not block other clients
            if self._context is not None:
                secured = self._context.wrap_socket(
                    request, server_side=True, do_handshake_on_connect=False
                )
                with self._open_lock:
                    self._open[secured] = self._open.pop(request)
                secured.do_handshake()
            self.finish_request(secured, client_address)
        except (OSError, ValueError):
            pass  # the client disconnected, was too slow, or does not speak TLS
        finally:
            self._leave(request if secured is request else secured)
            self.shutdown_request(secured)

    def _leave(self, request: Any) -> None:
        with self._open_lock:
            if self._open.pop(request, None) is not None:
                self._places.release()

    def service_actions(self) -> None:
        """Close connections past their deadline; called every `POLL_S` seconds."""
        now = time.monotonic()
        with self._open_lock:
            late = [request for request, end in self._open.items() if end < now]
        for request in late:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error without its text; the base class prints a traceback."""
        logs.broken("rest_connection_error")

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(
            target=self.serve_forever, args=(POLL_S,), name="rest", daemon=True
        ).start()

    def stop(self) -> None:
        """Accept no further connections."""
        self.shutdown()
        self.server_close()
