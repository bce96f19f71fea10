"""The HTTP server on the wire: what is ambiguous is refused, and no client keeps the others out.

Spans: deploy_jetson.device.daemon.interfaces.http_head,
deploy_jetson.device.daemon.interfaces.http_server.
"""

import contextlib
import json
import socket
import ssl
import threading
from collections import Counter

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deploy_jetson.device.daemon.interfaces import http_server
from deploy_jetson.device.daemon.interfaces.http_head import RequestRefused, parse_head
from deploy_jetson.device.daemon.interfaces.rest import RestBackend, rest_server
from deploy_jetson.device.daemon.settings import RestSettings
from deploy_jetson.device.daemon.store.intake import AcceptedImage, IntakeRefused
from tests.support.waiting import wait_for

TOKEN = b"0123456789abcdef"
AUTH = b"Authorization: Bearer 0123456789abcdef\r\n"
IMAGES = b"POST /v1/images HTTP/1.1\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\n\r\n"


class Job:
    key, state = "0" * 32, "received"


class Desk:
    """A server without a daemon behind it: what it took and refused, and a clock to turn."""

    def __init__(self, token=TOKEN, context=None, **settings):
        self.now = 0.0
        self.taken = []
        self.asked = []
        self.refused = Counter()
        self.lock = threading.Lock()
        self.full = None
        self.length = 0
        backend = RestBackend(self.accept, lambda: self.full, self.answer, self.refuse)
        rest = RestSettings(port=0, **settings)
        self.server = rest_server(rest, token, context, 1000, backend, lambda: self.now)
        self.port = self.server.server_port

    def accept(self, blocks):
        data = b"".join(blocks)
        if self.full:
            raise IntakeRefused(self.full)
        self.taken.append(data)
        return AcceptedImage(Job, False)

    def answer(self, path, query):
        self.asked.append((path, query))
        if path == "/broken":
            raise ValueError("CANARY^PHI")
        return (200, "text/plain", b"ok\n" + bytes(self.length)) if path != "/nowhere" else None

    def refuse(self, reason):
        with self.lock:
            self.refused[reason] += 1

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def ask(self, data):
        """Everything that comes back for these bytes; the client does not close."""
        with self.connect() as link:
            link.sendall(data)
            return everything(link)

    def status(self, data):
        answer = self.ask(data)
        assert answer.count(b"HTTP/1.1 ") == 1, answer
        assert b"CANARY" not in answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        return int(head.split()[1])


def everything(link):
    parts = []
    with contextlib.suppress(ConnectionError):
        while True:
            part = link.recv(65536)
            if not part:
                break
            parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def serving(**more):
    desk = Desk(**more)
    desk.server.start()
    try:
        yield desk
    finally:
        desk.server.stop()


@pytest.fixture(scope="module")
def desk():
    with serving() as one:
        yield one


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (IMAGES + AUTH + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: 3\r\ncontent-length: 2\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: 3, 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: 3, 4\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: +3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: 0x3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: 3 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: \r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: \xb2\r\n\r\nab", 400),
        (IMAGES + AUTH + b"Content-Length : 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b" Content-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"X: y\r\n Content-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"X: y\nContent-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"X: y\rContent-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (IMAGES + AUTH + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (IMAGES + AUTH + b"Transfer-Encoding: x\r\nContent-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 411),
        (IMAGES + AUTH + AUTH + b"Content-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Host: a\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"no colon\r\nContent-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b": no name\r\nContent-Length: 3\r\n\r\nabc", 400),
        (IMAGES + AUTH + b"Expect: 200-ok\r\nContent-Length: 3\r\n\r\nabc", 417),
        (IMAGES + AUTH + b"Content-Length: 1001\r\n\r\n", 413),
        (IMAGES + AUTH + b"Content-Length: 9999999999999999999\r\n\r\n", 400),
        (IMAGES + AUTH + b"\r\n", 411),
        (IMAGES + b"Content-Length: 3\r\n\r\nabc", 401),
        (IMAGES + b"Authorization: Bearer wrong\r\nContent-Length: 3\r\n\r\nabc", 401),
        (IMAGES + b"Authorization: Bearer \xe9\xe9\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"GET /v1/jobs?status=\xff HTTP/1.1\r\n" + AUTH + b"\r\n", 400),
        (b"GET /v1/jobs?limit=\xb2 HTTP/1.1\r\n" + AUTH + b"\r\n", 400),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n" + AUTH + b"\r\n", 400),
        (b"G\xcbT / HTTP/1.1\r\n" + AUTH + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: \xff\r\n" + AUTH + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nX\xff: y\r\n" + AUTH + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: \0\r\n" + AUTH + b"\r\n", 400),
        (b"GET / HTTP/\xb2.1\r\n" + AUTH + b"\r\n", 400),
        (b"GET /  HTTP/1.1\r\n\r\n", 400),
        (b"GET / x HTTP/1.1\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\n\r\n", 400),
        (b"CANARY^PHI / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /" + b"a" * 100_000, 414),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000, 431),
        (b"DELETE /v1/jobs HTTP/1.1\r\n" + AUTH + b"\r\n", 501),
        (b"GET /nowhere HTTP/1.1\r\n" + AUTH + b"\r\n", 404),
        (b"POST /v1/jobs HTTP/1.1\r\n" + AUTH + b"Content-Length: 3\r\n\r\nabc", 404),
        (b"GET /broken HTTP/1.1\r\n" + AUTH + b"\r\n", 500),
        (LIVEZ, 200),
        (b"\r\n" + LIVEZ, 200),
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
        (b"GET /v1/jobs?a=%FF%00 HTTP/1.1\r\nX:y\r\n" + AUTH + b"\r\n", 200),
        (IMAGES + AUTH + b"Content-Length:3\r\n\r\nabc", 202),
        (IMAGES + AUTH + b"Content-Length: 3\r\n\r\nabcGET /livez HTTP/1.1\r\n\r\n", 202),
    ],
)  # fmt: skip
def test_every_request_has_one_answer(desk, data, status):
    """Whole on the wire, and byte by byte would be the same: the connection is closed after it."""
    desk.taken.clear()
    assert desk.status(data) == status
    assert desk.taken == ([b"abc"] if status == 202 else [])


def test_a_head_in_small_pieces_is_one_head(desk):
    with desk.connect() as link:
        for start in range(0, len(LIVEZ), 5):
            link.sendall(LIVEZ[start : start + 5])
        assert everything(link).startswith(b"HTTP/1.1 200 OK\r\n")


def test_head_is_get_without_a_body(desk):
    with desk.connect() as link:
        link.sendall(b"HEAD /livez HTTP/1.1\r\n\r\n")
        answer = everything(link)
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 3\r\n" in answer


def test_100_continue_comes_after_the_token_was_checked_and_only_when_the_body_is_wanted(desk):
    expect = b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    assert desk.ask(IMAGES + expect).startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert desk.ask(IMAGES + b"Authorization: Bearer x\r\n" + expect).startswith(b"HTTP/1.1 401")
    assert b"WWW-Authenticate: Bearer" in desk.ask(IMAGES + expect)
    large = expect.replace(b" 3", b" 9999")
    assert desk.ask(IMAGES + AUTH + large).startswith(b"HTTP/1.1 413")
    assert desk.ask(b"POST /other HTTP/1.1\r\n" + AUTH + expect).startswith(b"HTTP/1.1 404")
    desk.full = "queue_full"
    assert desk.ask(IMAGES + AUTH + expect).startswith(b"HTTP/1.1 503")
    desk.full = None
    with desk.connect() as link:
        link.sendall(IMAGES + AUTH + expect)
        assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(b"abc")
        assert everything(link).startswith(b"HTTP/1.1 202 Accepted\r\n")


def test_an_answer_before_the_body_was_read_arrives(desk):
    """Closing with unread bytes would reset the connection, and the client would see no 401."""
    for _ in range(5):
        body = bytes(900_000)
        request = IMAGES + b"Content-Length: 900000\r\n\r\n" + body
        assert desk.ask(request).startswith(b"HTTP/1.1 401")


# --- places and deadlines, with a clock that the test turns --------------------------------------


def test_idle_sockets_without_a_token_do_not_silence_health():
    with serving(max_connections=16) as desk, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(desk.connect()) for _ in range(200)]
        for number, link in enumerate(idle):
            with contextlib.suppress(OSError):
                link.sendall((b"", b"GET", b"POST /v1/images HTTP/1.1\r\nA: ")[number % 3])
        assert desk.status(LIVEZ) == 200
        assert desk.status(IMAGES + AUTH + b"Content-Length: 3\r\n\r\nabc") == 202
        wait_for(lambda: desk.server.connections <= http_server.MAX_UNPROVEN)
        wait_for(lambda: desk.refused["too_many_connections"] >= 200 - http_server.MAX_UNPROVEN)


def test_requests_that_drip_their_bodies_leave_health_its_place():
    """Even those with a token; a further request is told to come again."""
    with serving(max_connections=3) as desk, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(desk.connect()) for _ in range(3)]
        for link in slow:
            link.sendall(IMAGES + AUTH + b"Content-Length: 900\r\n\r\nabc")
        wait_for(lambda: desk.server.places.working() == 3)
        for path in (b"/livez", b"/readyz", b"/metrics"):
            assert desk.status(b"GET " + path + b" HTTP/1.1\r\n" + AUTH + b"\r\n") == 200
        answer = desk.ask(b"GET /v1/jobs HTTP/1.1\r\n" + AUTH + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: " in answer
        desk.now = 31.0  # request_s is over, though a byte came now and then
        for link in slow:
            assert everything(link).startswith(b"HTTP/1.1 408")
        wait_for(lambda: desk.server.connections == 0)
        wait_for(lambda: desk.refused == {"too_many_connections": 1, "timeout": 3})
        assert desk.taken == []


@pytest.mark.parametrize("start", [b"", b"POST /v1/im", IMAGES, IMAGES + AUTH + b"X: "])
def test_a_half_sent_head_ends_at_its_deadline(start):
    with serving() as desk, desk.connect() as link:
        link.sendall(start)
        wait_for(lambda: desk.server.connections == 1)
        desk.now = http_server.HEAD_S - 0.1
        assert desk.status(LIVEZ) == 200
        assert desk.server.connections == 1
        desk.now = http_server.HEAD_S
        answer = everything(link)
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "timeout"}
        link.close()
        wait_for(lambda: desk.server.connections == 0)
        wait_for(lambda: desk.refused == {"timeout": 1})  # counted after the socket was shut


def test_a_client_that_reads_nothing_is_cut():
    with serving() as desk, desk.connect() as link:
        desk.length = 64 << 20
        link.sendall(LIVEZ)
        wait_for(lambda: desk.server.connections == 1)
        desk.now = http_server.HEAD_S
        wait_for(lambda: desk.refused["timeout"] == 1)
        desk.now += http_server.GRACE_S
        wait_for(lambda: desk.server.connections == 0)


def test_the_client_with_most_idle_connections_loses_one():
    """A flood from one address costs the flood, not the others."""
    places = http_server.ConnectionPlaces(2, 30.0, lambda: 0.0)
    links = [socket.socket() for _ in range(http_server.MAX_UNPROVEN + 1)]
    addresses = ["10.0.0.9", *["10.0.0.1"] * (len(links) - 2), "10.0.0.2"]
    closed = [places.enter(*pair)[1] for pair in zip(links, addresses, strict=True)]
    assert closed == [False] * (len(links) - 1) + [True]
    assert places.clients() == ["10.0.0.9", *["10.0.0.1"] * (len(links) - 3), "10.0.0.2"]
    for link in links:
        link.close()


def test_a_slow_tls_handshake_ends_and_delays_no_other_caller(tmp_path):
    from pneumonia.runtime.connections import server_context
    from tests.deploy_jetson.device.daemon.certificates import make_certificates

    files = make_certificates(tmp_path)
    context = server_context(files["cert"], files["key"], "")
    client = ssl.create_default_context(cafile=files["cert"])
    with serving(context=context) as desk, desk.connect() as slow, desk.connect() as plain:
        slow.sendall(b"\x16\x03\x01")
        plain.sendall(LIVEZ)
        assert not everything(plain).startswith(b"HTTP")
        with client.wrap_socket(desk.connect(), server_hostname="localhost") as link:
            link.sendall(LIVEZ)
            assert everything(link).startswith(b"HTTP/1.1 200")
        with client.wrap_socket(desk.connect(), server_hostname="localhost") as half:
            half.sendall(b"GET /livez")
            wait_for(lambda: desk.server.connections == 2)
            desk.now = http_server.HEAD_S
            with pytest.raises(ssl.SSLError):  # an alert, and no answer in plain text
                everything(half)
        everything(slow)
        wait_for(lambda: desk.server.connections == 0)
        wait_for(lambda: desk.refused["tls"] == 2)


def test_addresses_that_may_not_call_are_counted():
    with serving(allow=("10.0.0.0/8",)) as desk:
        assert desk.ask(b"") == b""
        assert desk.refused == {"address": 1}


# --- h11 as the judge ----------------------------------------------------------------------------

TOKEN_BYTES = st.sampled_from([b"GET", b"POST", b"Host", b"X", b"a", b"/", b":", b" ", b"\t", b","])
ODD = st.sampled_from([b"\r\n", b"\r", b"\n", b"\0", b"\x7f", b"\xff", b"HTTP/1.1", b"3", b"0"])
NAMED = st.sampled_from([b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Expect: x"])
LINES = st.lists(st.one_of(TOKEN_BYTES, ODD, NAMED, st.binary(max_size=3)), max_size=6)


def by_h11(data):
    """Method, target and fields as h11 reads them, None for what it refuses."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data + b"\r\n\r\n")
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    return event.method, event.target, dict(event.headers)


@given(LINES, LINES)
@example([], [b"Content-Length: 3", b"\r\n", b"X:", b"\t", b"a"])
def test_what_is_accepted_is_what_h11_reads(first, second):
    """h11 wants a Host field, which is added: we accept nothing that it reads otherwise."""
    data = b"GET /a?b HTTP/1.1\r\nHost: a" + b"".join(first) + b"\r\n" + b"".join(second)
    try:
        head = parse_head(data.rstrip(b"\r\n"))
    except RequestRefused:
        return
    expected = by_h11(data.rstrip(b"\r\n"))
    assert expected is not None
    method, target, fields = expected
    assert (head.method.encode(), head.path.encode() + b"?" + head.query.encode()) == (
        method, target,
    )  # fmt: skip
    assert {name.encode(): value.encode() for name, value in head.fields.items()} == fields
