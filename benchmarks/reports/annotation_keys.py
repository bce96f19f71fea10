"""Main-thread time of a key press on the reader's page, with 12 and with 4,000 studies.

    python -m benchmarks.reports.annotation_keys

Starts `pneumonia annotate` twice on made images, opens both pages in one Chromium and presses keys
in turn, so that both lists meet the same load of the machine. A press counts until its layout is
done; for the next study until it stands there with its image. Then opens the manager's page of both
in turn; that counts until the first study is listed. Writes
benchmarks/results/annotation_keys.json. Needs Chromium.
"""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.reporting import RESULTS, publish
from tests.data_prep.annotation.web.desk import draw, enter, running
from tests.support.chromium import chromium

OUT = RESULTS / "annotation_keys.json"
SIZES = (12, 4000)
KEYS = {"draw": "d", "move a box": "ArrowRight", "uncertain": "u", "preset": "v", "leave": "Escape"}
ROUNDS, OPENINGS = 15, 5
FIRST_ROW = "document.querySelector('#study-table tbody tr') !== null"
PRESS = """(() => { const t = performance.now();
 document.dispatchEvent(new KeyboardEvent('keydown', { key: %r, bubbles: true }));
 document.body.offsetHeight; return performance.now() - t; })()"""
NEXT = """(async () => { const title = document.getElementById('title');
 const pane = document.getElementById('pane'); const before = title.textContent;
 const t = performance.now();
 document.dispatchEvent(new KeyboardEvent('keydown', { key: %r, bubbles: true }));
 while (title.textContent === before || pane.classList.contains('loading'))
  await new Promise((done) => setTimeout(done, 1));
 document.body.offsetHeight; return performance.now() - t; })()"""


def make_sources(folder: Path, count: int) -> None:
    """`count` images with a report and a prediction for the first."""
    (folder / "studies").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    for number in range(count):
        Image.fromarray(pixels).save(folder / "studies" / f"{number:05d}.png")
    (folder / "reports.csv").write_text("report_id,images,text\nr,00000,The lungs are clear.\n")
    (folder / "predictions.csv").write_text(
        "image_id,score,x1,y1,x2,y2,width,height\n00000,0.6,70,60,110,100,128,128\n"
    )


def main() -> None:
    """Measure and write the table."""
    times: dict[int, dict[str, list[float]]] = {n: {} for n in SIZES}
    openings: dict[int, list[float]] = {n: [] for n in SIZES}
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        pages, managers = {}, {}
        for count in SIZES:
            folder = Path(work) / str(count)
            make_sources(folder, count)
            app = stack.enter_context(running(folder, folder / "work"))
            managers[count] = app.links["manager"]
            pages[count] = stack.enter_context(chromium(folder))
            enter(pages[count], app.links["Ann"])
            draw(pages[count], 20, 20, 60, 60)
        for turn in range(ROUNDS):
            for name, key in KEYS.items():
                for count in SIZES:
                    times[count].setdefault(name, []).append(pages[count].run(PRESS % key))
            for count in SIZES:
                pages[count].wait("document.getElementById('state').textContent === 'saved'")
                spent = pages[count].run(NEXT % ("j" if turn % 2 == 0 else "k"))
                times[count].setdefault("next study", []).append(spent)
        for _ in range(OPENINGS):
            for count in SIZES:
                pages[count].command("Network.clearBrowserCookies")
                started = time.perf_counter()
                pages[count].open(managers[count])
                pages[count].wait(FIRST_ROW)
                openings[count].append(time.perf_counter() - started)
    table = {
        name: {
            str(n): {"median_ms": round(median(found), 2), "least_ms": round(min(found), 2)}
            for n in SIZES
            if (found := times[n][name])
        }
        for name in times[SIZES[0]]
    }
    opened = {
        str(n): {"median_s": round(median(found), 2), "least_s": round(min(found), 2)}
        for n, found in openings.items()
    }
    document = {"rounds": ROUNDS, "key_presses": table, "managers_page_opens": opened}
    publish(OUT, document)


if __name__ == "__main__":
    main()
