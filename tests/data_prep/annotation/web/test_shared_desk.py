"""Two windows, two people in one browser, and a server that is killed or locked.

Spans: data_prep.annotation.web.
"""

import signal
import sqlite3

import pytest

from tests.data_prep.annotation.web.desk import (
    OWN,
    chord,
    click,
    count,
    drag,
    draw,
    enter,
    go_to,
    place,
    saved,
    stored,
    text,
)

pytestmark = pytest.mark.slow


def log_in_elsewhere(page, app, name):
    """What another window of the same browser does."""
    token = app.first[name].partition("#")[2]
    page.run(
        "fetch('/api/login', {method: 'POST', headers: {'x-annotate': '1', 'content-type':"
        f" 'application/json'}}, body: JSON.stringify({{token: {token!r}}})}}).then(a => a.status)"
    )


def test_boxes_never_go_to_a_person_who_logged_in_in_another_window(desk):
    app, page = desk
    enter(page, app.links["Ann"])
    go_to(page, 2)
    log_in_elsewhere(page, app, "Bob")
    drag(page, 20, 20, 40, 40)
    page.wait("document.getElementById('state').textContent === 'not saved'")
    page.wait("document.querySelector('#trouble input') !== null")
    assert stored(page, 2) == []  # Bob's
    token = app.links["Ann"].partition("#")[2]
    page.run(f"document.querySelector('#trouble input').value = {token!r}")
    click(page, "#trouble button[type='submit']")
    saved(page)
    assert len(stored(page, 2)) == 1
    log_in_elsewhere(page, app, "Bob")
    assert stored(page, 2) == []
    log_in_elsewhere(page, app, "Ann")


def test_two_windows_of_one_reader_end_in_a_choice(desk):
    _, page = desk
    other = (
        "(async (key, base) => (await fetch(`/api/studies/${key}/reading`, {method: 'PUT', headers:"
        " {'x-annotate': '1', 'content-type': 'application/json'}, body: JSON.stringify({"
        " base_revision: base, annotations: [{annotation_id: 'other', box_xyxy: [1, 1, 9, 9]}],"
        " rejected: []})})).status)"
    )
    revision = "(await (await fetch('/api/studies/{}')).json()).revision"
    for key, choice, kept in ((3, "Keep mine", 1), (4, "Take the other", 1)):
        go_to(page, key)
        base = page.run(f"(async () => {revision.format(key)})()")
        assert page.run(f"{other}({key}, {base})") == 200
        drag(page, 60, 60, 90, 90)
        page.wait("document.getElementById('trouble').textContent.includes('another window')")
        assert text(page, "#state") == "not saved"
        page.run(
            "[...document.querySelectorAll('#trouble button')]"
            f".find((b) => b.textContent === {choice!r}).click()"
        )
        saved(page)
        page.wait(f"document.querySelectorAll({OWN!r}).length === {kept}")
        (box,) = stored(page, key)
        assert (box["annotation_id"] == "other") == (choice == "Take the other")


def test_a_server_that_is_killed_and_started_again_loses_nothing(desk):
    app, page = desk
    go_to(page, 5)
    drag(page, 10, 10, 30, 30)
    saved(page)
    app.stop(signal.SIGKILL)
    drag(page, 60, 60, 90, 90)
    page.wait("document.getElementById('state').textContent.startsWith('Not saved')")
    chord(page, "z", 2)
    drag(page, 40, 40, 55, 55)
    app.start()
    saved(page)
    assert len(stored(page, 5)) == count(page, OWN)
    assert {round(b["box_xyxy"][0]) for b in stored(page, 5)} >= {10, 40}


def test_a_locked_database_is_waited_for(desk):
    app, page = desk
    go_to(page, 6)
    database = sqlite3.connect(app.arguments[3] / "annotations.sqlite", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    drag(page, 20, 20, 40, 40)
    page.wait("document.getElementById('state').textContent.startsWith('Not saved')", seconds=60)
    database.execute("ROLLBACK")
    database.close()
    saved(page)
    assert len(stored(page, 6)) == 1


def test_an_undo_whose_answer_is_lost_is_done_once(desk):
    _, page = desk
    go_to(page, 6)
    draw(page, 60, 60, 90, 90)
    saved(page)
    before = len(stored(page, 6))
    page.run(
        "(() => { const real = window.fetch; let lost = 0; window.fetch = async (...a) => {"
        " const answer = await real(...a); if (String(a[0]).endsWith('/undo') && lost < 1) {"
        " lost += 1; throw new TypeError('lost'); } return answer; }; })()"
    )
    chord(page, "z", 2)
    page.wait("document.getElementById('state').textContent.startsWith('Not saved')")
    saved(page)
    assert len(stored(page, 6)) == before - 1 == count(page, OWN)


def test_a_clock_that_jumps_forward_by_a_day_disturbs_nothing(desk):
    _, page = desk
    go_to(page, 1)
    page.run("(() => { const real = Date.now; Date.now = () => real() + 86400000; })()")
    drag(page, 20, 20, 40, 40)
    saved(page)
    seconds = page.run("fetch('/api/studies/1').then((a) => a.json()).then((s) => s.active_s)")
    assert len(stored(page, 1)) == 1
    assert seconds < 600


def mouse(page, kind, x, y):
    x, y = place(page, x, y)
    page.command(
        "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
    )


def test_a_study_that_is_taken_away_while_a_box_is_being_drawn(desk):
    app, page = desk
    go_to(page, 3)
    before = len(stored(page, 3))
    mouse(page, "mousePressed", 20, 20)
    mouse(page, "mouseMoved", 40, 40)
    with sqlite3.connect(app.arguments[3] / "annotations.sqlite") as database:
        database.execute("DELETE FROM assignments WHERE study = 3 AND name = 'Ann'")
    mouse(page, "mouseMoved", 50, 50)
    mouse(page, "mouseReleased", 50, 50)
    page.wait("document.getElementById('state').textContent.includes('not saved')")
    assert "Study 3 is not saved" in text(page, "#trouble")
    with sqlite3.connect(app.arguments[3] / "annotations.sqlite") as database:
        database.execute("INSERT INTO assignments (study, name) VALUES (3, 'Ann')")
    assert len(stored(page, 3)) == before
    page.run("[...document.querySelectorAll('#trouble button')].at(-1).click()")
    saved(page)


def test_a_study_that_is_left_while_a_box_is_being_drawn_gives_it_to_no_other(desk):
    _, page = desk
    go_to(page, 4)
    before = {key: len(stored(page, key)) for key in (4, 5)}
    mouse(page, "mousePressed", 20, 100)
    mouse(page, "mouseMoved", 40, 110)
    page.run("document.querySelectorAll('.study')[4].click()")
    page.wait("document.getElementById('title').textContent.startsWith('Study 5')")
    mouse(page, "mouseMoved", 50, 115)
    mouse(page, "mouseReleased", 50, 115)
    page.wait("!document.getElementById('pane').classList.contains('opening')")
    saved(page)
    assert len(stored(page, 5)) == before[5]
    assert len(stored(page, 4)) - before[4] in (0, 1)


def test_quick_undo_redo_and_a_box_arrive_in_their_order(desk):
    _, page = desk
    go_to(page, 1)
    first = len(stored(page, 1))
    page.command(
        "Network.emulateNetworkConditions",
        offline=False, latency=300, downloadThroughput=-1, uploadThroughput=-1,
    )  # fmt: skip
    drag(page, 60, 60, 90, 90)
    drag(page, 70, 20, 95, 45)
    chord(page, "z", 2)
    chord(page, "z", 2)
    chord(page, "z", 2 | 8)
    drag(page, 100, 60, 120, 90)
    page.command(
        "Network.emulateNetworkConditions",
        offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1,
    )  # fmt: skip
    saved(page)
    kept = stored(page, 1)
    assert len(kept) == count(page, OWN)
    assert first < len(kept) <= first + 3
    assert any(abs(box["box_xyxy"][0] - 100) < 1 for box in kept)
