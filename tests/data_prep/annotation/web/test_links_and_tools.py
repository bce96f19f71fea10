"""A reader revises the report's links, measures and looks; a manager imports: in a real browser.

Spans: data_prep.annotation.web.
"""

import csv

import pydicom
import pytest

from tests.data_prep.annotation.conftest import REPORT
from tests.data_prep.annotation.web.desk import (
    OWN,
    chord,
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


@pytest.fixture(scope="module")
def desk(annotation_sources, tmp_path_factory):
    """Two films of one patient, the later one with a report and a model's box."""
    peer("chromium")
    folder = tmp_path_factory.mktemp("links")
    (folder / "studies").mkdir()
    films = sorted((annotation_sources / "studies").glob("phantom*.dcm"))[:2]
    for name, film, date in zip(("a_now", "b_old"), films, ("20250301", "20250220"), strict=True):
        dataset = pydicom.dcmread(film)
        dataset.PatientID, dataset.StudyDate = "P", date
        dataset.save_as(folder / "studies" / f"{name}.dcm")
    with (folder / "reports.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("report_id", "images", "text"), ("r", "a_now", REPORT)])
    (folder / "predictions.csv").write_text(
        "image_id,score,x1,y1,x2,y2,width,height\na_now,0.62,70,60,110,100,128,128\n"
    )
    with running(folder, folder / "work") as app, chromium(folder) as page:
        yield app, page


def mark(page, words):
    """Class of the mention of these words, as the page shows it."""
    found = (
        f"[...document.querySelectorAll('#report mark')].find((m) => m.textContent === {words!r})"
    )
    return page.run(f"{found}.className").split()


def choose(page, words):
    page.run(
        "[...document.querySelectorAll('#report mark')]"
        f".find((m) => m.textContent === {words!r}).click()"
    )
    page.wait("document.querySelector('#typing .states') !== null")


def chips(page):
    """What the report says of the chosen box."""
    page.wait("document.querySelector('#typing .pair') !== null")
    return page.run("[...document.querySelectorAll('#typing .chip')].map((c) => c.dataset.code)")


def test_links_are_accepted_changed_denied_and_restored(desk):
    app, page = desk
    enter(page, app.links["Ann"])
    assert mark(page, "pneumothorax") == ["absent"]  # what the report denies is visible
    assert mark(page, "pleural effusion") == ["uncertain"]
    draw(page, 68, 58, 112, 102)
    assert "Pleural Effusion/right" in chips(page)
    choose(page, "pleural effusion")
    page.key("x")  # denied
    page.wait("document.querySelectorAll('mark.absent').length === 2")
    saved(page)
    page.run("document.querySelector('#findings li').click()")
    page.wait("document.querySelectorAll('#typing .chip').length === 2")
    assert "Pleural Effusion/right" not in chips(page)  # the candidates follow
    choose(page, "pneumothorax")
    page.key("y")  # no longer denied
    page.wait("document.querySelector('mark.present.decided') !== null")
    choose(page, "pleural effusion")
    page.key("u")
    page.key("/")
    page.run(
        "(() => { const f = document.getElementById('search'); f.value = 'cardiom';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    page.wait("document.querySelector('#hits .choice') !== null")
    page.run("document.querySelector('#hits .choice').click()")
    page.wait("document.querySelector('#typing .now').textContent === 'Cardiomegaly'")
    page.run("document.activeElement.blur()")
    saved(page)
    page.run("document.querySelector('#findings li').click()")
    page.wait("[...document.querySelectorAll('#typing .chip')].length === 4")
    assert {"Cardiomegaly", "Pneumothorax"} <= set(chips(page))
    page.key("Escape")
    page.key("g")  # by the keyboard: the first mention, accepted, then the next one
    page.key("a")
    page.wait("document.querySelector('mark.chosen').textContent === 'pleural effusion'")
    assert mark(page, "opacity") == ["present", "decided"]
    saved(page)
    reload(page)
    assert mark(page, "pneumothorax") == ["present", "decided"]
    chord(page, "z", 2)
    page.wait("document.querySelectorAll('mark.decided').length === 2")
    assert page.complaints(own=(app.links["Ann"].partition("/login")[0], "data:", "blob:")) == []


def test_selected_words_become_a_mention(desk):
    _, page = desk
    before = count(page, "#report mark")
    page.run(
        "(() => { const t = document.querySelector('#report .text').firstChild;"
        " const s = document.getSelection(); s.setBaseAndExtent(t, 10, t, 16); })()"
    )
    page.wait("document.querySelector('#report .row button') !== null")
    assert text(page, "#report .row button") == "Link the selected words"
    page.run("document.querySelector('#report .row button').click()")
    page.wait(f"document.querySelectorAll('#report mark').length === {before + 1}")
    assert mark(page, "Patchy")[:1] == ["nil"]
    page.key("Escape")
    saved(page)


def test_ruler_lens_presets_and_the_prior_film(desk):
    _, page = desk
    page.key("m")
    page.wait("document.querySelector('#overlay text.ruler') !== null")
    page.drag(place(page, 20, 20), place(page, 20, 84))
    row_mm = page.run("fetch('/api/studies/1').then((a) => a.json()).then((s) => s.spacing_mm[0])")
    shown = float(text(page, "#overlay text.ruler").removesuffix(" mm"))
    assert shown == pytest.approx(64 * row_mm, rel=0.02)
    page.key("ArrowDown")  # the keyboard moves its end by a pixel
    page.wait(f"parseFloat(document.querySelector('#overlay text.ruler').textContent) > {shown}")
    page.key("m")
    assert count(page, "#overlay text.ruler") == 0
    assert count(page, OWN) == 1  # measuring draws no box
    page.key("z")
    page.mouse("mouseMoved", *place(page, 64, 64))
    lens = page.run(
        "(() => { const l = document.getElementById('lens').getBoundingClientRect();"
        " const f = document.querySelector('#lens img').getBoundingClientRect();"
        " return [(l.left + l.width / 2 - f.left) / f.width * 128,"
        " (l.top + l.height / 2 - f.top) / f.height * 128]; })()"
    )
    assert lens == pytest.approx([64, 64], abs=1.5)  # its middle shows what is under the pointer
    page.key("z")
    page.key("v")
    assert text(page, "#view") != "zoom 1.0  W 255  L 128"
    page.key("f")
    page.key("p")
    page.wait("document.getElementById('prior-image').naturalWidth === 128")
    assert text(page, "#prior-note").endswith("9 days earlier")
    page.key("p")
    assert page.run("document.getElementById('prior-pane').hidden")


def test_the_report_stays_in_sight_while_a_box_is_named(desk):
    _, page = desk
    page.run("document.querySelector('#findings li').click()")
    page.wait("document.querySelector('#typing .choice') !== null")
    page.run("document.querySelector('aside').scrollTo(0, 9999)")
    top, bottom, height = page.run(
        "(() => { const r = document.querySelector('#report .text').getBoundingClientRect();"
        " return [r.top, r.bottom, window.innerHeight]; })()"
    )
    assert 0 <= top < bottom <= height
    page.key("Escape")


def test_a_key_press_in_a_list_of_thousands_touches_one_row(desk):
    _, page = desk
    touched = page.run(
        "import('/static/study_list.js').then(async ({ StudyList }) => {"
        " const place = document.createElement('nav'); document.body.append(place);"
        " const list = new StudyList(place, () => {});"
        " list.show(Array.from({ length: 4000 }, (_, i) => ({ key: i, number: i, boxes: 0,"
        "   verdict: '', started: false })));"
        " list.update(0, { annotations: [], verdict: '' });"
        " const seen = new Set(); const watch = new MutationObserver((all) => all.forEach("
        "   (m) => seen.add(m.target)));"
        " watch.observe(place, { subtree: true, childList: true, attributes: true });"
        " list.update(2000, { annotations: [1], verdict: 'opacity' });"
        " await new Promise((done) => setTimeout(done)); watch.disconnect(); place.remove();"
        " return [seen.size, place.querySelectorAll('.study').length]; })"
    )
    assert touched[0] <= 5  # the row, the row before, the progress
    assert touched[1] == 4000


def test_guidelines_that_are_not_saved_survive_a_refresh(desk):
    app, page = desk
    enter(page, app.links["manager"], "/manage")
    page.wait("document.body.dataset.ready === '1'")
    page.run("document.getElementById('guidelines').value = '# Draft'")
    page.run("delete document.body.dataset.ready")
    page.run("document.querySelector('#share button').click()")
    page.wait("document.body.dataset.ready === '1'")
    assert page.run("document.getElementById('guidelines').value") == "# Draft"


def test_a_manager_imports_settings_hold_and_the_guidelines_are_read(desk, tmp_path):
    app, page = desk
    enter(page, app.links["manager"], "/manage")
    table = tmp_path / "labels.csv"
    table.write_text("patientId,x,y,width,height,Target\nb_old,560,480,320,288,1\nx,,,,,0\n")
    (tmp_path / "not_a_table.txt").write_text("nothing")
    document = page.command("DOM.getDocument")["root"]["nodeId"]
    node = page.command("DOM.querySelector", nodeId=document, selector="#files")["nodeId"]
    files = [str(table), str(tmp_path / "not_a_table.txt")]
    page.command("DOM.setFileInputFiles", nodeId=node, files=files)
    page.run("document.getElementById('importer').value = 'Bob'")
    page.run("document.querySelector('#import button').click()")
    page.wait("document.querySelectorAll('#import-done p').length === 2")
    page.wait("document.querySelector('#import-done .fault') !== null")
    assert "1 studies, 1 boxes; left out: 1 unknown image" in text(page, "#import-done")
    page.run("document.getElementById('blind').click()")
    page.run("document.getElementById('guidelines').value = '# Ours\\n- Box <b>all</b>.'")
    page.run("document.querySelector('#guidelines-form button').click()")
    page.wait("document.getElementById('guidelines-done').textContent === 'saved'")
    enter(page, app.first["Bob"])
    page.wait("document.querySelectorAll('.study')[1].textContent.includes('1 box')")
    assert "after your first verdict" in text(page, "#report")
    assert count(page, "#overlay rect.suggested") == 0
    page.open(app.links["manager"].partition("/login")[0] + "/guidelines")
    page.wait("document.querySelector('#text li') !== null")
    assert text(page, "#text li") == "Box <b>all</b>."
