"""The power goes at random steps: what was acknowledged is there afterwards and answered once.

Spans: deploy_jetson.device.daemon.store, deploy_jetson.device.daemon.work.
"""

import json
import random
import sqlite3

import pytest

from tests.deploy_jetson.device.daemon.power_cut import Disk
from tests.deploy_jetson.device.daemon.rig import running, settings
from tests.support.waiting import wait_for

IMAGES = 12


def body(number):
    kind = b"REJECT" if number % 4 == 3 else b"image"
    return kind + b" %06d" % number + bytes([number])


def states(folder):
    with sqlite3.connect(folder / "journal.sqlite") as database:
        return dict(database.execute("SELECT key, state FROM jobs").fetchall())


def one_life(tmp_path, monkeypatch, seed, cuts):
    """A daemon that takes and answers images while its disk is copied at random steps."""
    rng, acknowledged, state = random.Random(seed), {}, tmp_path / "state"
    disk = Disk(
        state, rng.sample(range(1, IMAGES * 40), cuts), tmp_path / "cuts", rng, acknowledged
    )
    with monkeypatch.context() as patched:
        disk.patch(patched)
        with running(settings(state), work=False) as rig:
            journal = rig.service.journal
            disk.follow()
            rig.thread.start()
            for number in range(IMAGES):
                status, value = rig.post(body(number))
                assert status == 202
                acknowledged[number] = value["job"]
            wait_for(lambda: journal.waiting()[0] == 0)
            disk.stop()
            rig.service.stop()
            rig.thread.join(120)
    return disk.cuts


@pytest.mark.parametrize(
    ("seed", "cuts"), [(1, 8), *(pytest.param(n, 25, marks=pytest.mark.slow) for n in range(2, 6))]
)
def test_what_was_acknowledged_survives(tmp_path, monkeypatch, seed, cuts):
    made = one_life(tmp_path, monkeypatch, seed, cuts)
    assert len(made) > cuts // 2
    assert any(cut.acknowledged for cut in made)
    for cut in made:
        closed = {key for key, state in states(cut.state).items() if state in ("done", "rejected")}
        answers = cut.state / "results"
        before = {key: (answers / f"{key}.json").read_bytes() for key in closed}
        with running(settings(cut.state)) as rig:
            wait_for(lambda rig=rig: rig.service.journal.waiting()[0] == 0)
            for number, key in cut.acknowledged.items():
                assert rig.post(body(number))[1] == {
                    "job": key, "known": True,
                    "status": "rejected" if number % 4 == 3 else "done",
                }  # fmt: skip
        for key, data in before.items():
            assert (answers / f"{key}.json").read_bytes() == data  # given once, for good
        found = states(cut.state)
        for key, state in found.items():
            assert json.loads((answers / f"{key}.json").read_bytes())["status"] == state
        twins = {path.stem for path in (cut.state / "quarantine").glob("*.img")}
        assert twins == {key for key, state in found.items() if state == "rejected"}
        assert list((cut.state / "incoming").iterdir()) == []
