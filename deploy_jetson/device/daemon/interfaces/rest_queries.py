"""GET requests of the HTTP interface: health, metrics, jobs, model."""

import io
import os
import re
import time
from typing import Any, Callable, Dict, List, Optional
from urllib.parse import parse_qs

from deploy_jetson.device.daemon.health.metrics import DaemonMetrics
from deploy_jetson.device.daemon.interfaces.http_server import JSON, Reply, json_reply
from deploy_jetson.device.daemon.interfaces.rest import JOB_PATH, PLAIN
from deploy_jetson.device.daemon.store.journal import (
    ANSWERED,
    STATES,
    DaemonJob,
    JobJournal,
    JournalError,
)
from deploy_jetson.device.daemon.store.spool import ImageSpool
from deploy_jetson.device.daemon.work.answers import moment
from deploy_jetson.device.daemon.work.model import ServedModel
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.storage.bundle import MODEL_CARD

MAX_LISTED = 500
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class RestQueries:
    """Answers GET requests.

    Args:
        reasons: Why the daemon is not ready; empty when it is.
    """

    def __init__(
        self,
        spool: ImageSpool,
        journal: JobJournal,
        metrics: DaemonMetrics,
        model: ServedModel,
        reasons: Callable[[], List[str]],
        alive: Callable[[], bool],
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._model = model
        self._reasons = reasons
        self._alive = alive
        self._fixed = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": lambda: (
                200,
                PROMETHEUS,
                metrics.text().encode("utf-8", "backslashreplace"),
            ),
            "/v1/model": self._about_model,
            "/v1/model/card": self._card,
        }  # type: Dict[str, Callable[[], Reply]]

    def answer(self, path: str, query: str) -> Optional[Reply]:
        """The reply to a GET; None for an unknown path."""
        try:
            return self._answer(path, query)
        except JournalError as error:
            return json_reply(503, {"error": error.reason})

    def _answer(self, path: str, query: str) -> Optional[Reply]:
        if path in self._fixed:
            return self._fixed[path]()
        if path == "/v1/jobs":
            return self._list(query)
        match = JOB_PATH.match(path)
        if match is None:
            return None
        return self._about_job(match.group(1), (match.group(2) or "")[1:])

    def _livez(self) -> Reply:
        alive = self._alive()
        return (200, PLAIN, b"ok\n") if alive else (503, PLAIN, b"worker does not move\n")

    def _readyz(self) -> Reply:
        reasons = self._reasons()
        value = {
            "ready": not reasons,
            "reasons": reasons,
            "engine": self._model.engine_name,
        }
        return json_reply(503 if reasons else 200, value)

    def _about_model(self) -> Reply:
        facts, bundle = self._model.facts, self._model.bundle
        value: Dict[str, Any] = dict(facts._asdict())
        value["engine"] = self._model.engine_name
        value["operating_points"] = {
            name: point["threshold"] for name, point in bundle.operating_points.items()
        }
        value["disclaimer"] = DISCLAIMER
        return json_reply(200, value)

    def _card(self) -> Reply:
        return _file(self._model.bundle.file(MODEL_CARD), "text/markdown; charset=utf-8")

    def _list(self, query: str) -> Reply:
        asked = parse_qs(query)
        states = asked.get("status", list(STATES))
        limit = asked.get("limit", ["100"])[-1]
        if set(states) - set(STATES) or not re.match("^[0-9]{1,6}$", limit):
            expected = "status: {}; limit: a number".format(", ".join(STATES))
            return json_reply(400, {"error": "bad query", "expected": expected})
        jobs = self._journal.jobs(states, min(int(limit), MAX_LISTED))
        value: Dict[str, Any] = {"counts": self._journal.counts()}
        value["jobs"] = [_summary(job) for job in jobs]
        return json_reply(200, value)

    def _about_job(self, key: str, part: str) -> Optional[Reply]:
        job = self._journal.job(key)
        if job is None:
            return json_reply(404, {"error": "no such job"})
        if part == "result":
            if job.state not in ANSWERED:
                return json_reply(409, {"error": "not answered yet", "status": job.state})
            return _file(self._spool.result(key), JSON)
        if part:
            return _file(self._spool.dicom(key, part), "application/dicom")
        value = _summary(job)
        value["deliveries"] = [
            {
                "destination": sent.destination,
                "kind": sent.kind,
                "state": sent.state,
                "attempts": sent.attempts,
                "code": sent.code,
            }
            for sent in self._journal.deliveries_of(key)
        ]
        return json_reply(200, value)


def _summary(job: DaemonJob) -> Dict[str, Any]:
    waits = job.state not in ANSWERED
    return {
        "job": job.key,
        "status": job.state,
        "reason": job.reason,
        "via": job.source,
        "attempts": job.attempts,
        "received_at": moment(job.received_at),
        "changed_at": moment(job.changed_at),
        "waiting_s": round(max(0.0, time.time() - job.received_at), 3) if waits else 0.0,
    }


def _file(path: str, kind: str) -> Reply:
    if not os.path.exists(path):
        return json_reply(404, {"error": "not there"})
    with io.open(path, "rb") as stream:
        return 200, kind, stream.read()
