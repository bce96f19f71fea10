"""The annotation application as a process, and what a reader does in its page."""

import re
import signal
import subprocess
import sys
from contextlib import contextmanager

from tests.contracts.tree import ROOT
from tests.support.peers import free_port

COMMAND = "from pneumonia.cli import main; main()"


class Application:
    """`pneumonia annotate` as a process; `links` are what it printed."""

    def __init__(self, sources, work, port):
        self.arguments = [
            "annotate", sources / "studies", "--work", work, "--port", port,
            "--reports", sources / "reports.csv", "--predictions", sources / "predictions.csv",
            "--annotator", "Ann", "--annotator", "Bob",
        ]  # fmt: skip
        self.log = work.parent / "server.log"
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *map(str, self.arguments)],
                stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
            )  # fmt: skip
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("stop with"):
                break
        self.said = "".join(said)
        self.links = dict(re.findall(r"^(\w+): (http\S+)$", self.said, re.MULTILINE))
        assert "manager" in self.links, self.said + self.log.read_text()
        self.first = getattr(self, "first", self.links)  # tokens are shown once

    def stop(self, with_signal):
        self.process.send_signal(with_signal)
        self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(60)


@contextmanager
def running(sources, work):
    application = Application(sources, work, free_port())
    try:
        yield application
    finally:
        if application.process.poll() is None:
            application.stop(signal.SIGKILL)


def enter(page, link, path="/", **size):
    """Log in by a link, as from an e-mail."""
    page.open("about:blank")
    page.command("Network.clearBrowserCookies")
    page.open(link, **size)
    page.wait("document.body && document.body.dataset.ready === '1'")
    assert page.run("location.pathname") == path
    assert "login" not in page.run("location.href")


def reload(page):
    here = page.run("location.href")
    page.open("about:blank")  # with a fragment the same address would not be loaded anew
    page.open(here)
    page.wait("document.body && document.body.dataset.ready === '1'")


def place(page, x, y):
    """Where a point of the image (128 x 128) is on the screen."""
    frame = page.run(
        "(() => { const f = document.getElementById('image').getBoundingClientRect();"
        " return [f.left, f.top, f.width, f.height]; })()"
    )
    return frame[0] + x / 128 * frame[2], frame[1] + y / 128 * frame[3]


def drag(page, x1, y1, x2, y2):
    page.drag(place(page, x1, y1), place(page, x2, y2))


def go_to(page, key):
    page.run(f"document.querySelectorAll('.study')[{key - 1}].click()")
    page.wait(f"document.getElementById('title').textContent.startsWith('Study {key}')")
    page.wait("!document.getElementById('pane').classList.contains('opening')")
    page.wait("!document.getElementById('pane').classList.contains('loading')")


def stored(page, key):
    """Boxes that the server holds of a study."""
    return page.run(f"fetch('/api/studies/{key}').then((a) => a.json()).then((s) => s.annotations)")


def draw(page, x1, y1, x2, y2):
    page.drag(place(page, x1, y1), place(page, x2, y2))
    page.wait("document.querySelector('#typing .choice') !== null")


def click(page, selector):
    page.run(f"document.querySelector({selector!r}).click()")


def chord(page, key, modifiers):
    for kind in ("rawKeyDown", "keyUp"):
        page.command("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers)


def saved(page):
    page.wait("document.getElementById('state').textContent === 'saved'")


def count(page, selector):
    return page.run(f"document.querySelectorAll({selector!r}).length")


def text(page, selector):
    return page.run(f"document.querySelector({selector!r}).textContent")


OWN = "#overlay rect.own"
