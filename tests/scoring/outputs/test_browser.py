"""The report in a real Chromium: what a reader sees, does with the mouse, types, and prints.

Spans: pneumonia.scoring.outputs.report, pneumonia.scoring.outputs.pdf.
"""

import io
import re

import numpy as np
import pytest
from PIL import Image

from pneumonia.scoring.batch.folder import AUDIT_LOG
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.outputs import OutputSettings, pdf
from tests.scoring.patients import HOSTILE
from tests.support.chromium import chromium
from tests.support.peers import peer, run_peer

pytestmark = [pytest.mark.interop, pytest.mark.slow]
GREY = "getComputedStyle(document.querySelector('.case img')).filter"
FIRST = "document.querySelector('.case')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def page(browser, scored):
    browser.open(scored[1] / "report.html")
    return browser


def shown_view(page):
    """Center, width, zoom of the first case."""
    return [float(word) for word in page.run(f"{FIRST}.dataset.view").split()]


def middle(page, number=0):
    """Centre of a pane of the first case, in the window."""
    frame = page.run(
        f"(() => {{ {FIRST}.scrollIntoView({{behavior: 'instant'}});"
        f" const r = {FIRST}.querySelectorAll('.pane')[{number}].getBoundingClientRect();"
        " return [r.left, r.top, r.width, r.height]; })()"
    )
    return frame[0] + frame[2] / 2, frame[1] + frame[3] / 2, frame


def test_it_runs_without_complaint_and_without_network(page, scored):
    assert page.run("document.querySelectorAll('.case').length") == 4
    page.wait(f"{FIRST}.querySelector('img').naturalWidth === 64")
    assert page.complaints() == []
    assert page.run("document.title").startswith("Worklist")
    names = page.run("[...document.querySelectorAll('#list .name')].map(n => n.textContent.trim())")
    assert HOSTILE in names
    assert page.run("document.querySelectorAll('[onerror], main script').length") == 0


def test_failures_are_the_first_thing_below_the_head(page):
    tops = page.run(
        "['failures','reading','worklist','cases'].map(i => "
        "document.getElementById(i).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    assert tops[0] < 400  # seen without scrolling


def test_the_box_lies_where_the_bright_cell_is(page, scored):
    """Case `one` or the like: the cell is column 32..48, row 16..32 of 64."""
    places = page.run(
        f"[...{FIRST}.querySelectorAll('rect:not(.halo)')].map(r => r.getBoundingClientRect())"
        ".map(r => [r.left, r.top, r.right, r.bottom])"
    )
    frame = page.run(
        f"(() => {{ const r = {FIRST}.querySelectorAll('.pane')[1].getBoundingClientRect();"
        " return [r.left, r.top, r.width, r.height]; })()"
    )
    scale = frame[2] / 64
    expected = [frame[0] + 32 * scale, frame[1] + 16 * scale, frame[0] + 48 * scale]
    assert places[0][:3] == pytest.approx(expected, abs=0.02 * frame[2])


def test_boxes_toggle_by_key_and_button(page):
    visible = f"getComputedStyle({FIRST}.querySelector('.boxes')).visibility"
    assert page.run(visible) == "visible"
    page.key("b")
    assert page.run(visible) == "hidden"
    assert page.run("document.getElementById('boxes').getAttribute('aria-pressed')") == "false"
    page.run("document.getElementById('boxes').click()")
    assert page.run(visible) == "visible"


def test_dragging_changes_window_and_level_of_both_panes(page):
    x, y, _ = middle(page)
    page.drag((x, y), (x - 100, y - 40))
    center, width, zoom = shown_view(page)
    assert center == pytest.approx(0.4, abs=0.011)
    assert width == pytest.approx(np.exp(-0.5), abs=0.011)
    assert zoom == 1
    filters = page.run(f"[...{FIRST}.querySelectorAll('img')].map(i => getComputedStyle(i).filter)")
    assert len(set(filters)) == 1
    assert filters[0].startswith("url(")
    page.key("r")
    assert page.run(GREY) == "none"


def test_the_window_is_the_dicom_formula(page, scored, key_of):
    """Grey on the screen = (grey - (center - width / 2)) / width, within a grey level or two."""
    name = next(record.key for record in scored[2].records if record.file.image_id == "one")
    page.run(f"document.getElementById('c-{name}').scrollIntoView({{behavior: 'instant'}})")
    probe = (
        f"(() => {{ const item = document.getElementById('c-{name}'); activate(item, false);"
        " views.set(item, {...START, center: 0.3, width: 0.5}); draw(item);"
        " const r = item.querySelector('.pane').getBoundingClientRect();"
        " return [r.left, r.top, r.width, r.height]; })()"
    )
    page.wait(f"document.getElementById('c-{name}').querySelector('img').complete")
    left, top, width, height = page.run(probe)
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = np.asarray(Image.open(io.BytesIO(page.picture())).convert("L"), np.float64)
    dark = shot[int(top + height * 0.9), int(left + width * 0.9)]
    bright = shot[int(top + height * 24 / 64), int(left + width * 40 / 64)]
    assert dark == pytest.approx(0, abs=3)  # grey 0 -> (0 - 0.05) / 0.5 < 0
    assert bright == pytest.approx(255, abs=3)
    page.run(f"views.set(document.getElementById('c-{name}'), {{...START, center: 1, width: 4}})")
    page.run(f"draw(document.getElementById('c-{name}'))")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = np.asarray(Image.open(io.BytesIO(page.picture())).convert("L"), np.float64)
    dark = shot[int(top + height * 0.9), int(left + width * 0.9)]
    bright = shot[int(top + height * 24 / 64), int(left + width * 40 / 64)]
    assert dark == pytest.approx(255 * 0.25, abs=4)  # (0 + 1) / 4
    assert bright == pytest.approx(255 * 0.5, abs=4)  # (1 + 1) / 4


def test_the_wheel_zooms_about_the_pointer_after_a_click(page):
    x, y, frame = middle(page, 1)
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-10)
    page.run("0")
    assert page.run(f"{FIRST}.dataset.view") in (None, "0.500 1.000 1.00")  # not clicked: scrolls
    x, y, frame = middle(page, 1)
    page.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    page.mouse("mouseReleased", x, y, button="left")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400)
    page.wait(f"({FIRST}.dataset.view || '').endsWith('2.72')")
    place = page.run(
        f"(() => {{ const r = {FIRST}.querySelectorAll('.sheet')[1].getBoundingClientRect();"
        " return [r.left, r.top, r.width]; })()"
    )
    # the point under the pointer has stayed there
    assert place[0] + place[2] / 2 == pytest.approx(x, abs=2)
    assert place[2] == pytest.approx(frame[2] * np.e, rel=0.01)
    page.drag((x, y), (x - 30, y), modifiers=8)  # Shift moves
    moved = page.run(f"{FIRST}.querySelectorAll('.sheet')[1].getBoundingClientRect().left")
    assert moved == pytest.approx(place[0] - 30, abs=1)
    page.key("r")
    assert shown_view(page) == [0.5, 1, 1]


def test_keys_walk_the_cases_and_zoom(page):
    page.key("j")
    assert page.run(f"{FIRST}.classList.contains('active')")
    page.key("+")
    assert shown_view(page)[2] == 1.25
    page.key("-")
    page.key("[")
    assert shown_view(page)[1] == 0.9
    page.key("j")
    assert re.fullmatch(r'url\("#wl-c-[0-9a-f]{16}"\)', page.run(GREY))
    second = "document.querySelectorAll('.case')[1].classList.contains('active')"
    assert page.run(second)
    page.key("k")
    assert not page.run(second)
    page.key("i")
    assert page.run(GREY).endswith("invert(1)")
    page.key("r")
    assert page.run(GREY) == "invert(1)"
    page.key("i")
    assert page.run(GREY) == "none"
    page.key("?")
    assert page.run("document.getElementById('help').hidden") is False
    page.key("Escape")
    assert page.run("document.getElementById('help').hidden") is True


def test_typing_a_name_filters_and_moves_nothing_else(page):
    page.run("document.getElementById('name').focus()")
    for letter in "two":
        page.key(letter)
    shown = "[...document.querySelectorAll('#list tbody tr')].filter(r => !r.hidden).length"
    assert page.run(shown) == 1
    assert page.run("document.getElementById('shown').textContent") == "1 of 8 shown"
    page.run(
        "document.getElementById('name').value = '';"
        "document.getElementById('flag').value = 'not scored';"
        "document.getElementById('flag').dispatchEvent(new Event('change'))"
    )
    assert page.run(shown) == 3


@pytest.mark.parametrize("width", [1400, 768, 390])
def test_no_sideways_scrolling(browser, scored, width):
    browser.open(scored[1] / "report.html", width=width, height=800, mobile=width < 500)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_every_table_fits_a_telephone(browser, scored):
    """Nothing of a table lies beyond its frame, so nobody has to find out that it scrolls."""
    browser.open(scored[1] / "report.html", width=390, height=800, mobile=True)
    wide = browser.run(
        "[...document.querySelectorAll('.scroll, main table')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1 || "
        "e.getBoundingClientRect().right > innerWidth).map(e => e.textContent.slice(0, 40))"
    )
    assert wide == []
    cell = "document.querySelector('#list td[data-label=\"Study key\"]')"
    assert browser.run(f"getComputedStyle({cell}, '::before').content") == '"Study key"'


def test_everything_can_be_reached_by_tab(page):
    count = page.run(
        "[...document.querySelectorAll('a[href], button, select, input, summary, [tabindex]')]"
        ".filter(n => n.tabIndex >= 0).length"
    )
    assert count == page.run(
        "document.querySelectorAll('a[href], button, select, input, summary, .pane').length"
    )
    assert page.run("[...document.querySelectorAll('.pane')].every(p => p.ariaLabel)")


def contrast(first, second):
    """WCAG contrast of two colours `rgb(r, g, b)`."""

    def luminance(text):
        parts = np.array([int(n) for n in re.findall(r"\d+", text)[:3]]) / 255
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_contrast(page):
    pairs = page.run(
        "[...document.querySelectorAll('p, li, td, th, h1, h2, h3, caption, figcaption, a, span')]"
        ".filter(n => n.textContent.trim()).map(n => { let b = n; const clear = 'rgba(0, 0, 0, 0)';"
        " while (b && getComputedStyle(b).backgroundColor === clear) b = b.parentElement;"
        " return [getComputedStyle(n).color, b ? getComputedStyle(b).backgroundColor :"
        " 'rgb(255, 255, 255)']; })"
    )
    assert len(pairs) > 50
    assert min(contrast(*pair) for pair in {tuple(pair) for pair in pairs}) >= 4.5


@pytest.mark.slow
def test_pdf_has_the_words_and_the_pictures(scored, tmp_path, detector):
    source, _, _ = scored
    settings = ScoreSettings(outputs=OutputSettings(pdf=True))
    out = tmp_path / "out"
    peer("chromium")
    summary = score_batch(source, out, detector, settings)
    assert summary.document["outputs"]["pdf"] == {"page": "report.pdf"}
    text = run_peer("pdftotext", "-layout", out / "report.pdf", "-").stdout
    pages = text.split("\f")[:-1]
    assert len(pages) >= 6  # head, one page per positive image, limits
    assert all("Research use only" in page for page in pages)
    words = " ".join(text.split())
    assert words.index("None of them is negative") < words.index("Worklist")
    assert detector.bundle.model_hash in words
    images = run_peer("pdfimages", "-list", out / "report.pdf").stdout
    assert len(images.splitlines()) - 2 >= 4


def test_without_a_browser_the_batch_says_so(scored, tmp_path, detector, monkeypatch):
    source, _, _ = scored
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / AUDIT_LOG).touch()  # what makes it the output of an earlier batch
    (tmp_path / "out" / "report.pdf").write_bytes(b"of an earlier run")
    monkeypatch.setattr(pdf, "find_browser", lambda: None)
    settings = ScoreSettings(outputs=OutputSettings(pdf=True))
    summary = score_batch(source, tmp_path / "out", detector, settings)
    assert summary.document["outputs"]["pdf"]["reason"] == "no Chromium or Chrome found"
    assert not (tmp_path / "out" / "report.pdf").exists()
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("script", ["exit 1", "echo x > /dev/null", "sleep 60"])
def test_a_browser_that_fails_or_hangs(tmp_path, script):
    fake = tmp_path / "browser"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    (tmp_path / "page.html").write_text("x")
    assert pdf.print_page(str(fake), tmp_path / "page.html", 1.0) is None
