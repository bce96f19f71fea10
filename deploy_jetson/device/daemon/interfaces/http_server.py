"""A small HTTP server: one request per connection, and no client can keep the others out.

A connection is *unproven* until its whole head has come and its token is right, and *working* while
its request is answered. Both kinds are bounded apart. An unproven connection never keeps another
one out: when their places are taken, the oldest one of the client that has most of them is closed.
Health requests need no working place. Every connection has a deadline, whatever it sends.
"""

import contextlib
import email.utils
import http
import json
import socket
import ssl
import threading
import time
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.config import allowed
from deploy_jetson.device.daemon.interfaces.http_head import (
    END,
    MAX_HEAD_BYTES,
    MAX_TARGET_BYTES,
    RequestHead,
    RequestRefused,
    parse_head,
)
from deploy_jetson.device.daemon.settings import RestSettings

BLOCK = 1 << 16
POLL_S = 0.1
RETRY_AFTER_S = 5
JSON = "application/json"
HEAD_S = 10.0  # for the TLS handshake and the head
GRACE_S = 1.0  # for the answer after a deadline
LINGER_S = 2.0  # for the rest of a body that is not wanted: without it the answer may be lost
MAX_UNPROVEN = 32

Reply = Tuple[int, str, bytes]  # status, content type, body
Body = Callable[[], Iterator[bytes]]


def json_reply(status: int, value: Any) -> Reply:
    """A JSON reply."""
    return status, JSON, (json.dumps(value, allow_nan=False) + "\n").encode("ascii")


class _Place:
    """One open connection."""

    def __init__(self, link: Any, client: str, deadline: float) -> None:
        self.link = link
        self.client = client
        self.deadline = deadline  # on the server's clock
        self.is_proven = False
        self.is_late = False


class ConnectionPlaces:
    """The open connections and their deadlines; thread-safe.

    Args:
        max_working: Requests that are answered at once.
        request_s: Seconds a connection may live.
    """

    def __init__(self, max_working: int, request_s: float, clock: Callable[[], float]) -> None:
        self._max_working = max_working
        self._request_s = request_s
        self._clock = clock
        self._lock = threading.Lock()
        self._open: List[_Place] = []

    def clients(self) -> List[str]:
        """The address of each open connection, oldest first."""
        with self._lock:
            return [place.client for place in self._open]

    def working(self) -> int:
        """Requests that are answered now, health left out."""
        with self._lock:
            return sum(place.is_proven for place in self._open)

    def enter(self, link: Any, client: str) -> Tuple[_Place, bool]:
        """A place for a new connection, and whether another one was closed for it."""
        deadline = self._clock() + min(HEAD_S, self._request_s)
        with self._lock:
            unproven = [place for place in self._open if not place.is_proven]
            evicted = None
            if len(unproven) >= MAX_UNPROVEN:
                clients = [place.client for place in unproven]
                most = max(clients, key=clients.count)
                evicted = next(place for place in unproven if place.client == most)
                self._open.remove(evicted)
            place = _Place(link, client, deadline)
            self._open.append(place)
        if evicted is not None:
            _shut_below_tls(evicted.link, socket.SHUT_RDWR)
        return place, evicted is not None

    def replace(self, place: _Place, link: Any) -> None:
        """Set the socket of a connection: TLS wraps it."""
        with self._lock:
            place.link = link

    def promote(self, place: _Place, needs_place: bool) -> bool:
        """Make a connection a working one; False when all working places are taken."""
        with self._lock:
            if not needs_place:
                return True
            if sum(other.is_proven for other in self._open) >= self._max_working:
                return False
            place.is_proven = True
            place.deadline += self._request_s - min(HEAD_S, self._request_s)
            return True

    def linger(self, place: _Place) -> None:
        """Close the connection in LINGER_S, if it is still open."""
        with self._lock:
            place.deadline, place.is_late = self._clock() + LINGER_S, True

    def leave(self, place: _Place) -> None:
        """Free a place."""
        with self._lock, contextlib.suppress(ValueError):
            self._open.remove(place)

    def cut_late(self) -> int:
        """End what is past its deadline; returns for how many connections it has come now.

        Reading ends at the deadline, so that the client still gets an answer; writing
        ends `GRACE_S` later.
        """
        now, found = self._clock(), 0
        with self._lock:
            late = [place for place in self._open if place.deadline <= now]
            for place in late:
                was_late = place.is_late
                # before the socket is shut: its reader wakes at once and looks
                place.is_late, place.deadline = True, now + GRACE_S
                _shut_below_tls(place.link, socket.SHUT_RDWR if was_late else socket.SHUT_RD)
                found += not was_late
        return found


def _shut_below_tls(link: Any, how: int) -> None:
    """Shut a connection down below TLS: SSLSocket's own method would go on in plain text."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(link, how)


class HttpServer(ThreadingMixIn, TCPServer):
    """The server.

    Args:
        check: Raises RequestRefused for a head without the right token.
        respond: Answers a request: (head, body) -> reply.
        needs_place: Whether a path needs a working place; health does not.
        refused: Called with the reason of every refusal of this module.

    Raises:
        OSError: The address is taken.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        settings: RestSettings,
        context: Optional[ssl.SSLContext],
        check: Callable[[RequestHead], None],
        respond: Callable[[RequestHead, Body], Reply],
        needs_place: Callable[[str], bool],
        refused: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ":" in settings.host:
            self.address_family = socket.AF_INET6
        self._settings = settings
        self._context = context
        self._check = check
        self._respond = respond
        self._needs_place = needs_place
        self._refused = refused
        self.places = ConnectionPlaces(settings.max_connections, settings.request_s, clock)
        self._placed: Dict[Any, _Place] = {}  # accepted socket -> its place
        TCPServer.__init__(self, (settings.host, settings.port), None)  # type: ignore[arg-type]
        self.server_port = int(self.server_address[1])

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self.places.clients())

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the client's address is on the allow-list."""
        is_allowed = allowed(str(client_address[0]), self._settings.allow)
        if not is_allowed:
            self._refused("address")
        return is_allowed

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a place, and serve it in a thread."""
        place, is_full = self.places.enter(request, str(client_address[0]))
        if is_full:
            self._refused("too_many_connections")
        self._placed[request] = place
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.places.leave(self._placed.pop(request))
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection and free its place."""
        place = self._placed.pop(request)
        link = request
        try:
            link.settimeout(self._settings.request_s)  # a second guard; the deadline comes first
            # in the connection's thread: a slow handshake must not block other clients
            if self._context is not None:
                link = self._context.wrap_socket(
                    link, server_side=True, do_handshake_on_connect=False
                )
                self.places.replace(place, link)
                try:
                    link.do_handshake()
                except (OSError, ValueError):
                    self._refused("tls")
                    raise
            self._serve(link, place)
        except (OSError, ValueError):
            pass  # the client disconnected, was too slow, or does not speak TLS
        except Exception:
            logs.broken("rest_internal_error")
        finally:
            self.places.leave(place)
            self.shutdown_request(link)

    def _serve(self, link: Any, place: _Place) -> None:
        head, body = None, None
        try:
            head, start = self._read_head(link, place)
            if head is None:
                return
            self._check(head)
            body = _RequestBody(link, place, start, head)
            if not self.places.promote(place, self._needs_place(head.path)):
                raise RequestRefused(503, "too_many_connections")
            reply = self._respond(head, body.blocks)
        except RequestRefused as refused:
            if not place.is_late:  # that was counted when its time was over
                self._refused(refused.reason)
            value = {"error": refused.reason}
            if refused.expected:
                value["expected"] = refused.expected
            reply = json_reply(refused.status, value)
        _send(link, reply, head is not None and head.method == "HEAD")
        if body is None or body.left > 0:
            self._linger(link, place)

    def _read_head(self, link: Any, place: _Place) -> Tuple[Optional[RequestHead], bytes]:
        """The head, and what has come of the body; None when the client said nothing.

        Raises:
            RequestRefused: The head is malformed, too long or late.
        """
        data = b""
        while END not in data:
            block = link.recv(4096)
            data = (data + block).lstrip(b"\r\n")
            if not block:
                if place.is_late:
                    raise RequestRefused(408, "timeout")
                if data:
                    raise RequestRefused(400, "bad_request")
                return None, b""
            if b"\r\n" not in data[: MAX_TARGET_BYTES + 64] and len(data) > MAX_TARGET_BYTES + 64:
                raise RequestRefused(414, "bad_request")
            if len(data) > MAX_HEAD_BYTES and END not in data[: MAX_HEAD_BYTES + len(END)]:
                raise RequestRefused(431, "bad_request")
        head, _, start = data.partition(END)
        return parse_head(head), start

    def _linger(self, link: Any, place: _Place) -> None:
        """Read what still comes: closing at once resets the connection, and the answer is lost."""
        self.places.linger(place)
        _shut_below_tls(link, socket.SHUT_WR)
        while link.recv(BLOCK):
            pass

    def service_actions(self) -> None:
        """Cut late connections; called every `POLL_S` seconds."""
        for _ in range(self.places.cut_late()):
            self._refused("timeout")

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


class _RequestBody:
    """The body of a request, read block by block.

    Attributes:
        left: Bytes that were announced and not read.
    """

    def __init__(self, link: Any, place: _Place, start: bytes, head: RequestHead) -> None:
        self._link = link
        self._place = place
        self._start = start[: head.length or 0]
        self._is_expected = head.version == "HTTP/1.1" and (
            head.fields.get("expect", "").lower() == "100-continue"
        )
        self.left = head.length or 0

    def blocks(self) -> Iterator[bytes]:
        """The body.

        Raises:
            RequestRefused: It is late.
            ConnectionError: It ends early.
        """
        if self._is_expected and not self._start and self.left > 0:
            self._link.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._start:
            self.left -= len(self._start)
            yield self._start
        while self.left > 0:
            block = self._link.recv(min(BLOCK, self.left))
            if not block:
                if self._place.is_late:
                    raise RequestRefused(408, "timeout")
                raise ConnectionError("body ended early")
            self.left -= len(block)
            yield block


def _send(link: Any, reply: Reply, is_head: bool) -> None:
    status, kind, data = reply
    lines = [
        "HTTP/1.1 {} {}".format(status, http.HTTPStatus(status).phrase),
        "Date: " + email.utils.formatdate(usegmt=True),
        "Content-Type: " + kind,
        "Content-Length: {}".format(len(data)),
        "Connection: close",
        "X-Content-Type-Options: nosniff",
    ]
    if status == 401:
        lines.append("WWW-Authenticate: Bearer")
    if status in (503, 507):
        lines.append("Retry-After: {}".format(RETRY_AFTER_S))
    head = "\r\n".join(lines) + "\r\n\r\n"
    link.sendall(head.encode("ascii") + (b"" if is_head else data))
