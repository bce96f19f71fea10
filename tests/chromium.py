"""A real Chromium for tests: DevTools protocol over two pipes, no network, no extra package."""

import base64
import json
import os
import select
import subprocess
import time
from contextlib import contextmanager

from pneumonia.scoring.outputs.pdf import FLAGS
from tests.peers import peer


class Page:
    """One page of a running browser."""

    def __init__(self, write_fd, read_fd):
        self._write, self._read = write_fd, read_fd
        self._buffer, self._count, self._session = b"", 0, None
        self.events = []

    def command(self, method, **parameters):
        """Send a command and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _receive(self, seconds=60):
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._read, 1 << 16)
            assert data, "Chromium ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def open(self, path, width=1400, height=1000, mobile=False):
        """Load a file in a window of that size."""
        if self._session is None:
            target = self.command("Target.createTarget", url="about:blank")["targetId"]
            attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.command(f"{domain}.enable")
        self.events.clear()
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=mobile,
        )  # fmt: skip
        self.command("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, script):
        """The value of a JavaScript expression."""
        answer = self.command("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script, seconds=20):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

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

    def complaints(self):
        """Errors and warnings of the console, and requests that failed or left the machine."""
        self.run("0")
        found = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            url = what.get("request", {}).get("url", "file:")
            if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"):
                found.append(what)
            elif method == "Network.requestWillBeSent" and not url.startswith(("file:", "data:")):
                found.append(url)
        return found


@contextmanager
def chromium(folder):
    """Start a browser with a fresh profile in `folder`; yields its page."""
    program = peer("chromium")
    to_child, from_us = os.pipe()
    from_child, to_us = os.pipe()

    def fixed_numbers():  # Chromium reads commands from 3 and answers into 4
        read, write = os.dup(to_child), os.dup(to_us)
        os.dup2(read, 3)
        os.dup2(write, 4)

    command = [program, *FLAGS, "--no-sandbox", "--hide-scrollbars", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={folder}/profile", "about:blank"],
        preexec_fn=fixed_numbers,  # noqa: PLW1509 - no threads run when the browser is started
        close_fds=False,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_child)
    os.close(to_us)
    try:
        yield Page(from_us, from_child)
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        os.close(from_us)
        os.close(from_child)
