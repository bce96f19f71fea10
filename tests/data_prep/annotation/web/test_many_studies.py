"""Words are linked by keys, and the manager's page lists many studies: in a real browser.

Spans: data_prep.annotation.web.
"""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.data_prep.annotation.conftest import REPORT
from tests.data_prep.annotation.web.desk import chord, click, count, enter, running, saved, text
from tests.support.chromium import chromium
from tests.support.peers import peer

pytestmark = pytest.mark.slow

STUDIES = 230
SHIFT = 8
ROWS = "#study-table tbody tr"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The application with many small radiographs, the first with a report."""
    peer("chromium")
    folder = tmp_path_factory.mktemp("many")
    (folder / "studies").mkdir()
    for number in range(STUDIES):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(pixels).save(folder / "studies" / f"{number:03d}.png")
    with (folder / "reports.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("report_id", "images", "text"), ("r", "000", REPORT)])
    (folder / "predictions.csv").write_text("image_id,score,x1,y1,x2,y2,width,height\n")
    with running(folder, folder / "work") as app, chromium(folder) as page:
        yield app, page


def selected(page):
    return page.run("String(document.getSelection())")


def exceptions(page):
    return [e for e in page.complaints() if isinstance(e, dict) and "exceptionDetails" in e]


def test_words_without_a_link_are_linked_by_keys_alone(desk):
    app, page = desk
    enter(page, app.links["Ann"])
    linked = page.run("[...document.querySelectorAll('#report mark')].map((m) => m.textContent)")
    page.key("s")
    assert selected(page) == "FINDINGS"
    page.key("s")
    first = selected(page)
    assert first in REPORT
    assert not any(first in words.split() for words in linked)
    chord(page, "S", SHIFT)
    assert selected(page) == "FINDINGS"
    chord(page, "S", SHIFT)  # before the first comes the last
    assert REPORT.rindex(selected(page)) > REPORT.index("pneumothorax")
    chord(page, "S", 0)
    assert selected(page) == "FINDINGS"
    chord(page, "ArrowRight", SHIFT)
    assert selected(page).startswith("FINDINGS: ")
    chord(page, "ArrowLeft", SHIFT)
    chord(page, "ArrowLeft", SHIFT)  # one word stays
    assert selected(page) == "FINDINGS"
    page.key("Enter")
    page.wait("document.querySelector('#report mark.chosen') !== null")
    assert text(page, "#report mark.chosen") == "FINDINGS"
    saved(page)
    state = page.run("fetch('/api/studies/1').then((a) => a.json())")
    assert [(m["start"], m["end"], m["code"]) for m in state["mentions"]] == [(0, 8, "NIL")]
    page.key("Escape")
    page.key("s")
    assert selected(page) == first  # FINDINGS has a link now
    page.key("Escape")
    assert selected(page) == ""
    assert not exceptions(page)


def test_the_managers_page_lists_many_studies_in_pages(desk):
    app, page = desk
    enter(page, app.links["manager"], "/manage")
    assert count(page, ROWS) == 100
    assert text(page, "#study-place") == f"1 to 100 of {STUDIES}"
    assert page.run("document.getElementById('study-back').disabled")
    click(page, "#study-next")
    click(page, "#study-next")
    assert text(page, "#study-place") == f"201 to {STUDIES} of {STUDIES}"
    assert count(page, ROWS) == STUDIES - 200
    assert page.run("document.getElementById('study-next').disabled")
    page.run(
        "(() => { const field = document.getElementById('study-find'); field.value = '117.PNG';"
        " field.dispatchEvent(new Event('input')); })()"
    )
    assert text(page, "#study-place") == "1 to 1 of 1"
    assert "117.png" in text(page, ROWS)
    click(page, f"{ROWS} input")  # taken off Ann's list; neither the place nor the search is lost
    page.wait(
        f"document.querySelector('#people-table tbody').textContent.includes('{STUDIES - 1}')"
    )
    assert count(page, ROWS) == 1
    overview = page.run("fetch('/api/manage/overview').then((a) => a.json())")
    assert [s["assigned"] for s in overview["studies"] if s["file"] == "117.png"] == [["Bob"]]
    assert sorted(p["assigned"] for p in overview["annotators"]) == [STUDIES - 1, STUDIES]
    assert not exceptions(page)
