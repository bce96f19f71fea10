"""The whole work in a real browser: draw, type, undo, reload, crash, second reader, export.

Spans: data_prep.annotation.web.
"""

import signal

import pytest

from data_prep.dataset.reader import open_dataset
from tests.data_prep.annotation.web.desk import (
    OWN,
    chord,
    click,
    count,
    draw,
    enter,
    place,
    reload,
    running,
    saved,
    text,
)
from tests.support.chromium import chromium
from tests.support.peers import peer

pytestmark = pytest.mark.slow


def read_first_study(app, page):
    """Ann: draw, type by the report in three steps, undo and redo across a reload."""
    enter(page, app.links["Ann"])
    assert count(page, ".study") == 6
    draw(page, 68, 58, 112, 102)
    assert "patchy opacity" in text(page, "#report").lower()
    click(page, "#typing .choice[data-code='Lungs']")
    page.wait("document.querySelector('#typing .choices:not(.pair) .choice.reported') !== null")
    assert text(page, "#typing .choice.reported .label").startswith("Opacity / lung")
    page.key("1")
    page.wait("document.querySelector('#typing .now') !== null")
    assert text(page, "#typing .now") == "Opacity / lung / lower lobe / left / patchy"
    page.key("u")
    page.wait("document.querySelector('#findings small') !== null")
    saved(page)
    chord(page, "z", 2)
    page.wait("!document.querySelector('#findings small')")
    chord(page, "z", 2)
    page.wait("document.querySelector('#findings .open') !== null")
    reload(page)
    assert count(page, OWN) == 1
    assert text(page, "#findings .label") == "finding not chosen yet"
    page.key("Enter")  # no study is finished so: the box that lacks a finding is chosen
    page.wait("document.querySelector('#overlay .handle') !== null")
    assert text(page, "#finish button") == "1 box without a finding"
    page.key("Escape")
    chord(page, "Z", 2 | 8)
    page.wait("document.querySelector('#findings .label').textContent.startsWith('Opacity')")


def test_a_day_at_the_desk(desk, tmp_path):
    app, page = desk
    read_first_study(app, page)
    # the model's box: a suggestion is turned down, and the zoomed image still hits pixels exactly
    page.key("r")
    page.wait("!document.querySelector('#overlay rect.suggested')")
    saved(page)
    # kill -9 under the open page: nothing is lost, and the page saves on when it is back
    app.stop(signal.SIGKILL)
    page.mouse("mouseWheel", *place(page, 64, 64), deltaX=0, deltaY=-300)
    page.drag(place(page, 40, 40), place(page, 60, 70))
    page.wait("document.getElementById('state').textContent.startsWith('Not saved')")
    app.start()
    saved(page)
    page.wait("document.querySelector('#typing .choice') !== null")  # asked for again
    reload(page)
    assert count(page, OWN) == 2
    assert count(page, "#overlay rect.suggested") == 0
    box = page.run(
        "fetch('/api/studies/1').then((a) => a.json()).then((s) => s.annotations[1].box_xyxy)"
    )
    assert box == pytest.approx([40, 40, 60, 70], abs=0.3)
    page.run("document.querySelectorAll('#findings li')[1].click()")
    page.wait("document.querySelector('#overlay .handle.se') !== null")
    page.drag(place(page, 60, 70), place(page, 64, 76))  # resize by its corner
    page.drag(place(page, 52, 58), place(page, 62, 58))  # move it
    saved(page)
    box = page.run(
        "fetch('/api/studies/1').then((a) => a.json()).then((s) => s.annotations[1].box_xyxy)"
    )
    assert box == pytest.approx([50, 40, 74, 76], abs=0.6)
    page.key("Delete")
    page.wait(f"document.querySelectorAll({OWN!r}).length === 1")
    page.key("Enter")
    page.wait("document.getElementById('title').textContent.startsWith('Study 2')")
    saved(page)
    second_reader(app, page)
    manage(app, page, tmp_path)


def second_reader(app, page):
    """Bob sees nothing of Ann's; types by search; NIL and the whole tree are there."""
    enter(page, app.first["Bob"])
    assert page.complaints(own=(f"http://127.0.0.1:{app.arguments[5]}/", "data:", "blob:")) == []
    assert count(page, OWN) == 0
    assert count(page, "#overlay rect.suggested") == 1
    page.key("a")
    page.wait("document.querySelector('#typing .choices:not(.pair) .choice.reported') !== null")
    assert "Lungs" in text(page, "#typing .crumbs")  # a model of opacities: the first step is done
    page.key("Backspace")
    page.wait("document.querySelector('#typing .chip') !== null")
    for kind in ("rawKeyDown", "keyUp"):
        page.command("Input.dispatchKeyEvent", type=kind, key="!", code="Digit1", modifiers=8)
    page.wait("document.querySelector('#findings .label').textContent.startsWith('Opacity / lung')")
    page.key("/")
    page.run(
        "(() => { const f = document.getElementById('search'); f.value = 'consol';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    page.wait("document.querySelector('#hits .choice') !== null")
    assert text(page, "#hits .label") == "Consolidation"
    page.run("document.activeElement.blur()")
    page.key("0")
    page.wait("document.querySelector('#typing .now') !== null")
    assert text(page, "#findings .label") == "NIL"
    click(page, "#typing .row button[title='Browse all findings']")
    page.wait("document.querySelector(\"#typing .choice[data-code='Heart']\") !== null")
    click(page, "#typing .choice[data-code='Lungs']")
    page.wait("document.querySelector(\"#typing .choice[data-code='Opacity']\") !== null")
    click(page, "#typing .choice[data-code='Opacity']")
    page.wait("document.querySelector('#findings .label').textContent === 'Opacity'")
    saved(page)
    page.key("Enter")
    page.key("Enter")
    page.wait("document.getElementById('title').textContent.startsWith('Study 2')")
    click(page, "#finish button.primary")  # normal
    page.wait("document.getElementById('title').textContent.startsWith('Study 3')")
    saved(page)  # the verdict of study 2 is on its way meanwhile


def manage(app, page, tmp_path):
    """Agreement, disagreement, adjudication, exports."""
    enter(page, app.links["manager"], "/manage")
    assert "Ann – Bob" in text(page, "#agreement-tables")
    cells = page.run(
        "[...document.querySelectorAll('#agreement-tables table')[0].querySelectorAll('td')]"
        ".map((c) => c.textContent)"
    )
    assert cells[:3] == ["Ann – Bob", "1", "100 %"]
    assert cells[4:7] == ["1 / 1", "1", "100 %"]
    assert "zz_broken.dcm" in text(page, "#study-table")
    rows = page.run("fetch('/api/manage/export/rsna').then((a) => a.text())").splitlines()
    assert len(rows) == 3
    x, y, width, height = map(float, rows[1].split(",")[1:5])
    assert [x, y, width, height] == pytest.approx([552, 472, 336, 336], abs=6)
    page.run("document.querySelector('#study-table button').click()")
    page.wait("document.querySelectorAll('#compare figure').length === 3")
    page.open(page.run("document.querySelector('#compare a').href"))
    page.wait("document.body.dataset.ready === '1'")
    assert count(page, "#overlay rect.suggested") == 2  # the readers' boxes
    page.key("a")
    page.wait(f"document.querySelectorAll({OWN!r}).length === 1")
    page.key("Enter")
    page.key("Enter")
    page.wait("document.querySelectorAll('.study.done').length === 1")
    saved(page)
    origin = app.links["manager"].partition("/login")[0]
    page.open(f"{origin}/manage")
    page.wait("document.body.dataset.ready === '1'")
    assert "adjudicated" in text(page, "#study-table")
    click(page, "#dataset")
    page.wait("document.getElementById('dataset-done').textContent.startsWith('Written to')")
    dataset = open_dataset(app.arguments[3] / "dataset")
    assert sorted(r.class_name for r in dataset.records) == ["Lung Opacity", "Normal"]
    app.process.send_signal(signal.SIGINT)
    assert "next: pneumonia train --data" in app.process.stdout.read()
    app.process.stdout.close()
    assert app.process.wait(60) == 0
    log = app.log.read_text()
    assert "Traceback" not in log
    for word in ("Ann", "phantom-", *(link.partition("#")[2] for link in app.links.values())):
        assert word not in log


def shown(page):
    return text(page, "#view")


def test_looking_at_the_image(annotation_sources, tmp_path):
    """Window, level, zoom, pan, invert, hide; by mouse, keyboard and two fingers."""
    peer("chromium")
    with running(annotation_sources, tmp_path / "work") as app, chromium(tmp_path) as page:
        enter(page, app.links["Ann"])
        assert shown(page) == "zoom 1.0  W 255  L 128"
        start = place(page, 30, 30)
        held = {"button": "right", "buttons": 2}
        page.mouse("mousePressed", *start, clickCount=1, **held)
        page.mouse("mouseMoved", start[0] + 100, start[1] + 40, **held)
        page.mouse("mouseReleased", start[0] + 100, start[1] + 40, button="right")
        assert shown(page) == "zoom 1.0  W 420  L 153"  # 255 e^(100/200), 127.5 + 255 * 40/400
        # the filter follows the hand; then the stored values under that window replace it
        page.wait("document.getElementById('image').src.endsWith('center=0.6&width=1.6487')")
        slope = page.run("document.querySelector('#window feFuncG').getAttribute('slope')")
        assert float(slope) == 1.0
        page.key("f")
        assert shown(page) == "zoom 1.0  W 255  L 128"
        point = place(page, 100, 90)
        page.mouse("mouseWheel", *point, deltaX=0, deltaY=-400)
        page.wait("document.getElementById('view').textContent.startsWith('zoom 2.7')")
        assert place(page, 100, 90) == pytest.approx(point, abs=1)  # stays under the pointer
        page.drag(point, (point[0] + 50, point[1] + 20), modifiers=8)  # pan
        assert place(page, 100, 90) == pytest.approx((point[0] + 50, point[1] + 20), abs=1)
        assert count(page, OWN) == 0
        page.key("i")
        page.wait("getComputedStyle(document.getElementById('image')).filter === 'invert(1)'")
        page.key("h")
        style = "getComputedStyle(document.getElementById('overlay')).visibility"
        assert page.run(style) == "hidden"
        page.key("h")
        page.key("f")
        page.key("w")  # one finger or the left button
        page.drag(place(page, 50, 50), (place(page, 50, 50)[0] + 100, place(page, 50, 50)[1]))
        assert shown(page) == "zoom 1.0  W 420  L 128"
        page.key("w")
        page.key("f")
        a, b = place(page, 40, 60), place(page, 60, 60)
        for kind, spread in (("touchStart", 0), ("touchMove", 60), ("touchMove", 120)):
            points = [
                {"x": a[0] - spread, "y": a[1], "id": 0},
                {"x": b[0] + spread, "y": b[1], "id": 1},
            ]
            page.command("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        page.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        assert float(shown(page).split()[1]) > 1.5
        assert count(page, OWN) == 0  # two fingers draw nothing
        assert page.complaints(own=(app.links["Ann"].partition("/login")[0], "data:")) == []
