"""Time limits of requests, with clocks in the hands of the test.

Spans: data_prep.annotation.web.guard, data_prep.annotation.web.server.
"""

import asyncio
import json

import pytest

from data_prep.annotation.web.guard import RequestGuard
from data_prep.annotation.web.server import TimedConnection
from tests.data_prep.annotation.conftest import HEADERS


class FakeLoop:
    """An event loop's `call_later` under a clock that the test moves."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def call_later(self, delay, run):
        call = FakeCall(self.now + delay, run)
        self.calls.append(call)
        return call

    def create_task(self, task, **_):
        task.close()
        return asyncio.Future(loop=asyncio.new_event_loop())

    def pass_time(self, seconds):
        self.now += seconds
        for call in self.calls:
            if not call.done and call.at <= self.now:
                call.done = True
                call.run()


class FakeCall:
    def __init__(self, at, run):
        self.at, self.run, self.done = at, run, False

    def cancel(self):
        self.done = True


class FakeTransport:
    closed = False

    def get_extra_info(self, name, default=None):
        return default

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def write(self, data):
        pass


@pytest.fixture
def connection():
    import uvicorn
    from uvicorn.server import ServerState

    async def app(scope, receive, send):
        raise AssertionError

    loop, transport = FakeLoop(), FakeTransport()
    config = uvicorn.Config(app, log_config=None)
    made = TimedConnection(config, ServerState(), {}, loop)
    made.connection_made(transport)
    return made, loop, transport


def test_a_header_that_never_ends_is_cut_off(connection):
    made, loop, transport = connection
    made.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n")
    loop.pass_time(14)
    made.data_received(b"X-More: 1\r\n")  # a dripping sender wins no time
    assert not transport.closed
    loop.pass_time(1)
    assert transport.closed


def test_a_connection_that_sends_nothing_is_cut_off(connection):
    _, loop, transport = connection
    loop.pass_time(15)
    assert transport.closed


def test_a_whole_header_has_no_time_limit(connection):
    made, loop, transport = connection
    made.data_received(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
    loop.pass_time(1000)
    assert not transport.closed


def answer_to(app, receive, body_s):
    """Status of a PUT whose body comes from `receive`."""
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    scope = {
        "type": "http", "method": "PUT", "path": "/api/studies/1/reading",
        "headers": [(b"host", b"127.0.0.1"), (b"content-length", b"99"), *headers],
    }  # fmt: skip
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(RequestGuard(app, ("127.0.0.1",), body_s)(scope, receive, send))
    return [m["status"] for m in sent if m["type"] == "http.response.start"]


async def reads_json(scope, receive, send):
    """An application as FastAPI is one: a body that breaks off is a bad request."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            status = 400
            break
        body += message["body"]
        if not message.get("more_body"):
            status = 200 if json.loads(body) == {} else 400
            break
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_body_that_never_ends_is_answered_408():
    async def receive():
        await asyncio.Event().wait()

    assert answer_to(reads_json, receive, body_s=0.0) == [408]


def test_a_body_in_time_is_read():
    pieces = [b"{", b"}"]

    async def receive():
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    assert answer_to(reads_json, receive, body_s=30.0) == [200]
