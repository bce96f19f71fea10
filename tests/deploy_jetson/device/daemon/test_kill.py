"""kill -9 at random steps: what was acknowledged is answered, once, whatever the moment.

Spans: deploy_jetson.device.daemon.store, deploy_jetson.device.daemon.work.
"""

import http.client
import json
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.tree import ROOT

STEPS = 140  # a life of about three images; recovery is among the first


class Client:
    """Sends images until each is acknowledged."""

    def __init__(self):
        self.sent = 0
        self.acknowledged = {}

    def send(self, port):
        """One image; False when there was no acknowledgement."""
        kind = b"REJECT" if self.sent % 4 == 3 else b"image"
        body = kind + b" %06d" % self.sent + bytes([self.sent % 251])
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            link.request("POST", "/v1/images", body)
            answer = link.getresponse()
            status, value = answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            link.close()
        assert status in (200, 202), value
        self.acknowledged[self.sent] = value["job"]
        self.sent += 1
        return True


def answers(state):
    return {path.name: path.read_bytes() for path in (state / "results").glob("*.json")}


def assert_kept(before, now):
    """No answer that was there has gone or changed: none was given twice."""
    assert {name: now.get(name) for name in before} == before
    for data in now.values():
        json.loads(data)


def one_life(nursery, client, step):
    nursery.stdin.write(f"{step}\n")
    nursery.stdin.flush()
    words = nursery.stdout.readline().split()
    if words == ["dead"]:
        return False
    assert words[0] == "ready", words
    while client.send(int(words[1])):
        pass
    assert nursery.stdout.readline() == "dead\n"
    return True


def last_life(nursery, client, state):
    """A life nobody cuts off: it answers everything."""
    nursery.stdin.write("0\n")
    nursery.stdin.flush()
    port = int(nursery.stdout.readline().split()[1])
    assert client.send(port)
    from tests.support.waiting import wait_for

    def is_done():
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        link.request("GET", "/v1/jobs?limit=1")
        counts = json.loads(link.getresponse().read())["counts"]
        link.close()
        # an image is removed after its answer is on record
        is_empty = not any((state / "incoming").iterdir())
        return counts["received"] + counts["running"] == 0 and is_empty

    wait_for(is_done)


def kill_often(state, lives, seed):
    """Returns the client, and how many lives got as far as taking images."""
    command = [sys.executable, "-m", "tests.deploy_jetson.device.daemon.nursery", str(state)]
    client, rng = Client(), random.Random(seed)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="ascii", cwd=ROOT
    ) as nursery:
        try:
            before, ready = {}, 0
            for _ in range(lives):
                ready += one_life(nursery, client, rng.randint(1, STEPS))
                now = answers(state)
                assert_kept(before, now)
                before = now
            last_life(nursery, client, state)
            assert_kept(before, answers(state))
        finally:
            nursery.stdin.close()
            nursery.kill()
    return client, ready


@pytest.mark.timeout(1200)  # a minute on a machine that does nothing else
@pytest.mark.parametrize(("lives", "seed"), [(12, 1), pytest.param(200, 2, marks=pytest.mark.slow)])
def test_nothing_acknowledged_is_lost_or_answered_twice(tmp_path, lives, seed):
    state = tmp_path / "state"
    client, ready = kill_often(state, lives, seed)
    assert ready > lives // 3, "too few lives reached the moment that matters"
    assert len(client.acknowledged) >= ready // 3
    keys = set(client.acknowledged.values())
    assert len(keys) == len(client.acknowledged), "two images, one job"
    made = {name[:-5]: json.loads(data) for name, data in answers(state).items()}
    assert keys <= set(made), "acknowledged, never answered"
    expected = {key: "rejected" if n % 4 == 3 else "done" for n, key in client.acknowledged.items()}
    assert {key: made[key]["status"] for key in keys} == expected
    twins = {path.name.split(".")[0] for path in (state / "quarantine").glob("*.img")}
    assert twins == {key for key, answer in made.items() if answer["status"] == "rejected"}
    rows = sqlite3.connect(state / "journal.sqlite").execute("SELECT key, state FROM jobs")
    assert dict(rows.fetchall()) == {key: answer["status"] for key, answer in made.items()}
    # no image beside those that were sent: the last of a life may lack its acknowledgement
    assert len(made) <= client.sent + 1
    left = [path.name for path in Path(state / "incoming").iterdir()]
    assert left == []
