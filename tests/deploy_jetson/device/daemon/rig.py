"""A daemon for tests: the shipped bundle's network with an engine that knows one answer.

Imports nothing but the device's own needs, so that it also runs with the device's versions.
"""

import contextlib
import http.client
import json
import sqlite3
import threading
from pathlib import Path

import numpy as np

from deploy_jetson.device.daemon.service import DaemonService
from deploy_jetson.device.daemon.settings import (
    DaemonSettings,
    DiskSettings,
    RestSettings,
    ServiceSettings,
)
from deploy_jetson.device.daemon.work.model import ServedModel
from pneumonia.runtime.child import DecodedFile
from pneumonia.runtime.engines import Engine
from pneumonia.runtime.model.spec import output_shape
from pneumonia.runtime.storage.bundle import load_bundle
from tests.runtime.dicoms import chest_dataset, save
from tests.support.waiting import wait_for

BUNDLE = str(Path(__file__).parents[4] / "pneumonia" / "models" / "default")
LOGIT = 6.0
SCORE = (1 / (1 + np.exp(-LOGIT))) ** 2  # objectness times class of the one cell that is lit


class OneBox(Engine):
    """Lights one cell of the first anchor of one head; `fail` is raised instead, once each."""

    name = "one-box"

    def __init__(self, bundle):
        super().__init__(bundle.spec)
        self.fail = []
        self.runs = 0

    def _run(self, batch):
        self.runs += 1
        if self.fail:
            failure = self.fail.pop(0)
            if isinstance(failure, Exception):
                raise failure
            failure()
        outputs = {
            name: np.full((len(batch), *output_shape(self.spec, name)), -20, np.float32)
            for name in self.spec.outputs
        }
        lit = outputs[self.spec.outputs[0]]
        lit[:, 0:4, 3, 3] = 0
        lit[:, 4:6, 3, 3] = LOGIT
        return outputs


class InProcess:
    """A decoder without a child: pixels are the file's first byte, for tests of other parts."""

    def start(self):
        pass

    def close(self):
        pass

    def decode(self, path):
        data = Path(path).read_bytes()
        if data.startswith(b"REJECT"):
            return DecodedFile("rejected", "not_dicom")
        level = data[-1]
        pixels = np.full((64, 64), level, np.uint8)
        pixels[0, 0] = 255 - level
        return DecodedFile("read", pixels=pixels, info={"format": "png", "spacing_mm": None})


def settings(state, **parts):
    """A configuration with HTTP on a free port; keyword = section's settings."""
    config = DaemonSettings(
        daemon=ServiceSettings(bundle=BUNDLE, state=str(state), threshold="balanced"),
        rest=RestSettings(port=0),
        disk=DiskSettings(reserve_mb=0, max_used_percent=100),
    )
    return config._replace(**parts)


def load_fake(config, open_engine=OneBox):
    """The shipped network with OneBox."""
    return ServedModel(load_bundle(config.daemon.bundle, verify=False), "balanced", open_engine)


class Rig:
    """A running daemon in this process."""

    def __init__(self, config, child=False, notifier=None):
        more = {} if child else {"make_decoder": lambda config, tick: InProcess()}
        self.engine = None  # the one that was opened last
        self.service = DaemonService(
            config,
            notifier=notifier,
            load_model=lambda config: load_fake(config, self._open),
            **more,
        )
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            self.service.run()
        except Exception as error:
            self.error = error

    def _open(self, bundle):
        self.engine = OneBox(bundle)
        return self.engine

    def request(self, method, path, body=None, headers=None, timeout=60):
        link = http.client.HTTPConnection("127.0.0.1", self.service.ports["rest"], timeout=timeout)
        with contextlib.closing(link):
            link.request(method, path, body, headers or {})
            answer = link.getresponse()
            return answer.status, answer.read()

    def get(self, path):
        status, body = self.request("GET", path)
        return status, json.loads(body)

    def post(self, body):
        status, answer = self.request("POST", "/v1/images", body)
        return status, json.loads(answer)

    def settled(self, key, seconds=120):
        """The job's answer, waited for."""
        return wait_for(lambda: self._answer(key), seconds)

    def _answer(self, key):
        status, body = self.get(f"/v1/jobs/{key}/result")
        return body if status == 200 else None


@contextlib.contextmanager
def running(config, work=True, **more):
    """A started daemon; `work=False` leaves its queue alone."""
    rig = Rig(config, **more)
    try:
        rig.service.start()
        if work:
            rig.thread.start()
        yield rig
    finally:
        rig.service.stop()
        if work and rig.thread.ident:
            rig.thread.join(60)
        rig.service.close()


def film(path, level=0, uid="1", **tags):
    """A small chest film as a DICOM file; another uid is another image."""
    pixels = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) + level
    tags.setdefault("SOPInstanceUID", f"1.2.826.0.1.3680043.10.999.1.1.{uid}")
    save(path, chest_dataset(pixels, bits=12, **tags))
    return Path(path)


def image(number=0):
    """Bytes that `InProcess` decodes, other ones for each number."""
    return b"image %d " % number + bytes([number % 251])


WRITES = ("INSERT", "UPDATE", "DELETE")


def refuse_writes(state):
    """Make every later write to the journal fail."""
    with contextlib.closing(sqlite3.connect(state / "journal.sqlite")) as database:
        for verb in WRITES:
            database.execute(
                f"CREATE TRIGGER IF NOT EXISTS refuse_{verb} BEFORE {verb} ON jobs "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )


def allow_writes(state):
    with contextlib.closing(sqlite3.connect(state / "journal.sqlite")) as database:
        for verb in WRITES:
            database.execute(f"DROP TRIGGER IF EXISTS refuse_{verb}")
