"""report.html: what it says, in which order, and that nothing in it can be run."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pneumonia.runtime.model.predictions import Prediction
from pneumonia.scoring.batch.run import ScoreSettings, describe_model, score_batch
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.image.records import ImageRecord
from pneumonia.scoring.outputs import FinishedBatch, OutputSettings
from pneumonia.scoring.outputs.report import ReportWriter, card_parts, measured_on
from pneumonia.scoring.outputs.wording import REASONS, WARNINGS, reason_text, warning_text
from tests.contracts.tree import source_files
from tests.scoring.patients import HOSTILE


class Outline(HTMLParser):
    """Tags, ids and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.tags, self.text, self._silent = [], [], "", 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self._silent += tag in ("style", "script")

    def handle_endtag(self, tag):
        self._silent -= tag in ("style", "script")

    def handle_data(self, data):
        self.text += "" if self._silent else data + " "

    def words(self):
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def page(scored):
    return Outline((scored[1] / "report.html").read_text(encoding="utf-8"))


def test_failures_come_before_every_result(page):
    order = ["failures", "reading", "worklist", "cases", "limits", "model"]
    assert [name for name in page.ids if name in order] == order
    words = page.words()
    assert "Not scored: 3 of 9 files" in words
    assert "None of them is negative" in words
    assert words.index("None of them is negative") < words.index("at least one region")
    assert "The pixel data ends too early" in words
    assert "Skipped by rule: 1" in words


def test_counts(page):
    words = page.words()
    for part in ("3 not scored", "4 positive", "0 indeterminate", "1 negative", "9 files found"):
        assert part in words


def test_positive_images_with_pictures_most_suspicious_first(page, key_of, scored):
    shown = [name for name in page.ids if name.startswith("c-")]
    assert set(shown) == {f"c-{key_of[n]}" for n in ("one", "two", "nameless", HOSTILE)}
    pictures = {values["src"] for tag, values in page.tags if tag == "img"}
    assert pictures == {f"report/{name[2:]}.jpg" for name in shown}
    for name in pictures:
        with Image.open(scored[1] / name) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "L", (64, 64))
    assert all(v["loading"] == "lazy" for tag, v in page.tags if tag == "img")


def test_boxes_and_millimetres(page):
    rows = re.findall(r"1 1\.00 (\S+) (\S+) (\S+) (\S+) (\S+) (\S+)", page.words())
    assert ("32.0", "16.0", "48.0", "32.0", "4.0", "8.0") in rows


def test_model_is_named(page, detector):
    words = page.words()
    assert detector.bundle.model_hash in words
    assert "balanced" in words
    assert words.count("Research use only. Not a medical device.") >= 6
    assert "Not for clinical use" in words


def test_the_card_is_shown_with_what_a_reader_needs_first():
    card = "# net\n\nabout\n\n## Cost\nmuch\n\n## Intended use\nresearch\n## Limits\nmany\n"
    first, rest = card_parts(card)
    assert first == "## Intended use\nresearch\n## Limits\nmany\n"
    assert rest == "## Cost\nmuch\n\n"
    assert card_parts("# net\n\nno sections\n") == ("# net\n\nno sections\n", "")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"images": 42, "patients": 26, "positive": 21}, "42 images of 26 patients, 21 positive"),
        ({"images": 42}, "42 images"),
        ({"split": "val"}, ""),
        ({}, ""),
    ],
)
def test_what_operating_points_were_measured_on(told, words):
    assert measured_on(told) == words


def test_nothing_foreign_becomes_markup(page, scored):
    text = (scored[1] / "report.html").read_text(encoding="utf-8")
    assert HOSTILE in page.words()
    assert HOSTILE not in text
    assert [values for tag, values in page.tags if "onerror" in values] == []
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 1
    policy = next(v["content"] for tag, v in page.tags if "http-equiv" in v)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "CANARY" not in text


def test_the_page_asks_for_nothing_from_outside(page):
    for tag, values in page.tags:
        for name in ("src", "href", "action", "data"):
            target = values.get(name, "")
            assert not re.match(r"[a-z]+:|//", target), (tag, target)


def test_identifiers_only_when_asked_for(scored, tmp_path, detector):
    source, _, _ = scored
    score_batch(source, tmp_path / "out", detector, ScoreSettings(identifiers=True))
    text = (tmp_path / "out" / "report.html").read_text()
    assert "ACC1" in text
    assert "CANARY" not in text
    assert "ACC1" not in (scored[1] / "report.html").read_text()


def test_no_pictures_and_no_report(scored, tmp_path, detector):
    source, _, _ = scored
    score_batch(source, tmp_path / "out", detector, ScoreSettings(overlays="none"))
    assert not (tmp_path / "out" / "report").exists()
    plain = Outline((tmp_path / "out" / "report.html").read_text())
    assert "boxes" not in plain.ids  # no button without a picture
    settings = ScoreSettings(outputs=OutputSettings(report=False))
    score_batch(source, tmp_path / "none", detector, settings)
    assert not (tmp_path / "none" / "report.html").exists()


def record(number, status="scored", score=0.9, **more):
    prediction = None
    if status == "scored":
        boxes = np.array([[1, 1, 9, 9]], np.float32)
        prediction = Prediction(f"i{number}", boxes, np.array([score], np.float32), 64, 64)
    file = FoundFile("", f"i{number}.png", image_id=f"i{number}")
    return ImageRecord(
        file, f"{number:016x}", status, prediction=prediction, info={"view": "PA"}, **more
    )


@pytest.fixture
def writer(tmp_path, detector):
    model = describe_model(detector, ScoreSettings())
    return ReportWriter(tmp_path, replace(model, threshold=0.5), "findings", detector.bundle)


def render(writer, records):
    return Outline(writer.page(FinishedBatch(records, {"versions": {"pneumonia": "0"}})))


def test_an_interrupted_run_says_so(writer):
    page = render(writer, [record(1), record(2, "pending", reason="interrupted")])
    assert "1 file has not been looked at" in page.words()
    assert "Not scored: 1 of 2 files" in page.words()


def test_a_damaged_image_is_indeterminate_and_shown(writer):
    page = render(writer, [record(1, score=0.2, warnings=("degraded",))])
    assert "c-0000000000000001" in page.ids
    assert "nothing found does not mean negative" in page.words()


def test_an_empty_batch_is_a_page(writer):
    words = render(writer, []).words()
    assert "0 files found" in words
    assert "Every file found was scored" in words


def test_thousands_of_failures_stay_a_page(writer):
    page = render(writer, [record(n, "failed", reason="decode_error") for n in range(3000)])
    assert "2000 more are listed in manifest.jsonl" in page.words()
    assert "3000 not scored" in page.words()


def test_a_thousand_positives_stay_small(writer):
    text = writer.page(FinishedBatch([record(n) for n in range(1000)], {"versions": {}}))
    assert text.count("<article") == 1000
    assert len(text) < 5_000_000
    assert "data:image" not in text


def test_every_reason_of_the_code_has_a_sentence():
    """Reasons are written as the second word after a status, or as `reason="..."`."""
    pattern = re.compile(r'"(?:rejected|failed|skipped)",\s*"([a-z_]+)"|reason="([a-z_]+)"')
    found = set()
    for path in source_files("pneumonia/runtime", "pneumonia/scoring"):
        for match in pattern.finditer(path.read_text(encoding="utf-8")):
            found |= {match.group(1) or match.group(2)}
    found -= {"failed", "pending", "rejected", "reason"}
    assert len(found) > 10
    assert found - set(REASONS) == set()


def test_unknown_words_are_shown_as_they_are():
    assert reason_text("new_thing").startswith("New thing. ")
    assert warning_text("new_thing") == "new thing"
    assert all(text[-1] == "." for text in REASONS.values())
    assert not any(text.endswith(".") for text in WARNINGS.values())
