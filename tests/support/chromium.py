"""A real Chromium for tests: DevTools protocol on loopback, no network, no extra package."""

import base64
import json
import os
import socket
import struct
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from tests.support.peers import peer

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
)


class Socket:
    """The client's half of a WebSocket (RFC 6455), as much of it as the protocol needs."""

    def __init__(self, port, path):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._buffer = b""
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version: 13",
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        assert b" 101 " in head.splitlines()[0], head

    def _more(self):
        data = self._socket.recv(1 << 16)
        assert data, "Chromium ended"
        self._buffer += data

    def _take(self, count):
        while len(self._buffer) < count:
            self._more()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def send(self, text):
        data = text.encode()
        size = len(data)
        head = b"\x81" + (bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size))
        self._socket.sendall(head + b"\0\0\0\0" + data)  # a mask of zeros masks nothing

    def receive(self):
        data, last = b"", False
        while not last:
            first, size = self._take(2)
            if size == 126:
                (size,) = struct.unpack(">H", self._take(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._take(8))
            data, last = data + self._take(size), bool(first & 0x80)
        return data.decode()

    def close(self):
        self._socket.close()


class Page:
    """One page of a running browser."""

    def __init__(self, wire):
        self._wire = wire
        self._count, self._session = 0, None
        self.events = []

    def command(self, method, **parameters):
        """Send a command and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._wire.send(json.dumps(message))
        while True:
            answer = json.loads(self._wire.receive())
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _first_page(self, seconds=180):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for target in self.command("Target.getTargets")["targetInfos"]:
                if target["type"] == "page":
                    return target["targetId"]
            time.sleep(0.05)
        raise AssertionError("Chromium opens no page")

    def open(self, path, width=1400, height=1000, mobile=False):
        """Load a file or a URL in a window of that size."""
        if self._session is None:
            target = self._first_page()
            attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.command(f"{domain}.enable")
        self.events.clear()
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=mobile,
        )  # fmt: skip
        url = path if isinstance(path, str) else path.resolve().as_uri()
        self.command("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script):
        """The value of a JavaScript expression."""
        answer = self.command(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script, seconds=180):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self._is_true(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def _is_true(self, script):
        """Whether an expression is true; False while the page is on its way to another one."""
        try:
            return bool(self.run(script))
        except AssertionError as error:
            if "navigated" in str(error) or "context" in str(error):
                return False
            raise

    def key(self, text):
        """Press and release a key."""
        extra = {"text": text} if len(text) == 1 else {}
        self.command("Input.dispatchKeyEvent", type="keyDown", key=text, **extra)
        self.command("Input.dispatchKeyEvent", type="keyUp", key=text)

    def mouse(self, kind, x, y, **more):
        """A mouse event: mousePressed, mouseMoved, mouseReleased, mouseWheel."""
        self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start, end, modifiers=0):
        """Drag with the left button."""
        held = {"button": "left", "buttons": 1, "modifiers": modifiers}
        self.mouse("mousePressed", *start, clickCount=1, **held)
        self.mouse("mouseMoved", *end, **held)
        self.mouse("mouseReleased", *end, button="left", modifiers=modifiers)

    def picture(self, path=None):
        """The window as PNG bytes, also written to `path`."""
        data = base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def complaints(self, own=("file:", "data:")):
        """Errors and warnings of the console, and requests that failed or left the machine.

        Addresses that begin with one of `own` are the page's own.
        """
        self.run("0")
        found = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            url = what.get("request", {}).get("url", "file:")
            if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"):
                found.append(what)
            elif method == "Network.requestWillBeSent" and not url.startswith(own):
                found.append(url)
        return found


@contextmanager
def chromium(folder):
    """Start a browser with a fresh profile in `folder`; yields its page."""
    program = peer("chromium")
    profile = Path(folder) / "profile"
    options = [*OPTIONS, "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [program, *options, f"--user-data-dir={profile}", "about:blank"],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wire = None
    try:
        wire = Socket(*_where(profile / "DevToolsActivePort", process))
        yield Page(wire)
    finally:
        if wire is not None:
            wire.close()
        os.killpg(process.pid, 9)
        process.wait()


def _where(file, process, seconds=180):
    """Port and path the browser writes down when it listens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "Chromium does not start"
        lines = file.read_text().splitlines() if file.is_file() else []
        if len(lines) == 2:
            return int(lines[0]), lines[1]
        time.sleep(0.05)
    raise AssertionError("Chromium does not listen")
