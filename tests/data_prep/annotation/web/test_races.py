"""What a reader draws while the network is slow, an answer is lost, or the ground moves.

Spans: data_prep.annotation.web.
"""

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
    reload,
    saved,
    stored,
    text,
)

pytestmark = pytest.mark.slow


def slow(page, latency_ms):
    """Add latency to every request, as the browser's own network emulation does."""
    page.command(
        "Network.emulateNetworkConditions",
        offline=False, latency=latency_ms, downloadThroughput=-1, uploadThroughput=-1,
    )  # fmt: skip


def test_moving_on_at_once_loses_nothing(desk):
    app, page = desk
    enter(page, app.links["Ann"])
    slow(page, 500)
    drag(page, 20, 20, 40, 40)
    go_to(page, 2)  # the save of the first study is still under way
    drag(page, 30, 30, 60, 60)
    assert text(page, "#state") == "saving"
    saved(page)
    assert [len(stored(page, key)) for key in (1, 2)] == [1, 1]


def test_what_is_drawn_while_an_undo_is_under_way_is_kept(desk):
    _, page = desk
    slow(page, 500)
    go_to(page, 3)
    drag(page, 20, 20, 40, 40)
    saved(page)
    chord(page, "z", 2)
    drag(page, 60, 60, 90, 90)
    assert text(page, "#state") == "saving"
    saved(page)
    (kept,) = stored(page, 3)
    assert kept["box_xyxy"] == pytest.approx([60, 60, 90, 90], abs=0.6)
    assert count(page, OWN) == 1


def test_a_verdict_given_while_the_next_study_comes_belongs_to_neither(desk):
    _, page = desk
    go_to(page, 6)
    slow(page, 500)
    page.run("document.querySelectorAll('.study')[3].click()")  # not asked for ahead
    for key in ("n", "d"):
        page.key(key)
    page.wait("document.getElementById('title').textContent.startsWith('Study 4')")
    page.wait("!document.getElementById('pane').classList.contains('opening')")
    slow(page, 0)
    saved(page)
    for key in (4, 6):
        state = page.run(
            f"fetch('/api/studies/{key}').then((a) => a.json()).then((s) => [s.verdict,"
            " s.annotations.length])"
        )
        assert state == ["", 0]


def test_a_comment_is_not_lost_when_the_window_closes(desk):
    _, page = desk
    go_to(page, 6)
    page.run("document.querySelector('#comment details').open = true")
    page.run("document.getElementById('comment-text').focus()")
    page.command("Input.insertText", text="Rotated.")
    page.run("window.dispatchEvent(new Event('beforeunload', { cancelable: true }))")
    saved(page)
    comment = "fetch('/api/studies/6').then((a) => a.json()).then((s) => s.comment)"
    assert page.run(comment) == "Rotated."
    page.run("document.activeElement.blur()")


def test_an_answer_that_is_lost_loses_no_box(desk):
    """The save is committed, its answer never comes, the reader goes on drawing."""
    _, page = desk
    slow(page, 0)
    go_to(page, 4)
    page.run(
        "(() => { const real = window.fetch; let lost = 0; window.fetch = async (...a) => {"
        " const answer = await real(...a); const put = a[1] && a[1].method === 'PUT';"
        " if (put && lost < 1) { lost += 1; throw new TypeError('lost'); } return answer; }; })()"
    )
    drag(page, 20, 20, 40, 40)
    page.wait("document.getElementById('state').textContent.startsWith('Not saved')")
    drag(page, 60, 60, 90, 90)
    saved(page)
    assert len(stored(page, 4)) == 2
    assert count(page, OWN) == 2


def test_a_clock_that_steps_back_disturbs_nothing(desk):
    _, page = desk
    go_to(page, 5)
    page.run("(() => { const real = Date.now; Date.now = () => real() - 120000; })()")
    drag(page, 20, 20, 40, 40)
    saved(page)
    assert len(stored(page, 5)) == 1


def test_a_removed_study_is_reported_and_the_others_go_on(desk):
    app, page = desk
    go_to(page, 6)
    with sqlite3.connect(app.arguments[3] / "annotations.sqlite") as database:
        database.execute("DELETE FROM assignments WHERE study = 6 AND name = 'Ann'")
    drag(page, 20, 20, 40, 40)
    page.wait("document.getElementById('state').textContent.includes('not saved')")
    assert "Study 6 is not saved" in text(page, "#trouble")
    go_to(page, 5)
    drag(page, 60, 60, 90, 90)
    page.wait("document.querySelectorAll('#overlay rect.own').length === 2")
    page.wait("document.getElementById('state').textContent.includes('1 change not saved')")
    assert len(stored(page, 5)) == 2
    page.run("[...document.querySelectorAll('#trouble button')].at(-1).click()")
    saved(page)


def test_an_ended_session_asks_for_the_token_and_then_saves(desk):
    app, page = desk
    go_to(page, 2)
    page.command("Network.clearBrowserCookies")
    drag(page, 80, 80, 100, 100)
    page.wait("document.getElementById('state').textContent === 'not saved'")
    page.wait("document.querySelector('#trouble input') !== null")
    token = app.links["Ann"].partition("#")[2]
    page.run(f"document.querySelector('#trouble input').value = {token!r}")
    click(page, "#trouble button[type='submit']")
    saved(page)
    assert len(stored(page, 2)) == 2
    reload(page)
    assert count(page, OWN) == 2


def test_a_study_is_read_by_the_keyboard_alone(desk):
    _, page = desk
    go_to(page, 1)
    page.run("document.getElementById('pane').focus()")
    page.key("d")
    page.wait(f"document.querySelectorAll({OWN!r}).length === 2")
    before = page.run("document.querySelector('#overlay rect.own.chosen').getAttribute('width')")
    for kind in ("rawKeyDown", "keyUp"):
        page.command("Input.dispatchKeyEvent", type=kind, key="ArrowRight", modifiers=2 | 8)
    after = page.run("document.querySelector('#overlay rect.own.chosen').getAttribute('width')")
    assert float(after) > float(before)
    page.key("Delete")
    page.wait(f"document.querySelectorAll({OWN!r}).length === 1")
    page.key("Delete")
    saved(page)
    go_to(page, 5)
    draw(page, 10, 10, 30, 30)
    for _ in range(3):
        page.key("Escape")
    saved(page)
