"""The audit finds what is wrong: every check is shown to fail on a dataset made for it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.dataset.audit import audit_dataset
from data_prep.dataset.audit_page import write_html
from data_prep.dataset.duplicates import image_features, near_duplicates
from data_prep.dataset.reader import Dataset, DatasetImage, open_dataset
from data_prep.dataset.writer import DatasetFacts, new_dataset, to_cache
from data_prep.phantom.study import plan_phantoms, render_film

PLAIN = DatasetImage("a", "full", "train", "p", "Normal", "AP", "F", 40, 100, 100, True)
FACTS = DatasetFacts(
    {"type": "test"}, "k", 128, {"method": "m", "seed": 1, "leak_warning": None}, [], {}
)


def film(number: int) -> np.ndarray:
    return np.round(render_film(plan_phantoms(20, 1)[number], 1, 128).pixels * 255).astype(np.uint8)


def dataset(
    out: Path, images: list[tuple[DatasetImage, np.ndarray, list]], facts: DatasetFacts = FACTS
) -> Dataset:
    with new_dataset(out) as writer:
        for record, pixels, boxes in images:
            writer.add(record, to_cache(pixels, 128), np.array(boxes, np.float32).reshape(-1, 4))
        writer.finish(facts)
    return open_dataset(out)


def images(**second: Any) -> list[tuple[DatasetImage, np.ndarray, list]]:
    """Three clean images, one per split; `second` changes the one of val."""
    return [
        (PLAIN, film(0), [[10, 20, 40, 80]]),
        (
            PLAIN._replace(**{"image_id": "b", "patient_id": "q", "split": "val", **second}),
            film(1),
            [],
        ),
        (PLAIN._replace(image_id="c", patient_id="r", split="test"), film(2), []),
    ]


def failed(report: dict[str, Any]) -> set[str]:
    assert all(bool(check["found"]) != check["passed"] for check in report["checks"])
    return {check["name"] for check in report["checks"] if not check["passed"]}


def test_a_clean_dataset_passes_and_is_described(tmp_path: Path) -> None:
    report = audit_dataset(dataset(tmp_path / "d", images(age=70, sex="", view="PA")))
    assert failed(report) == set()
    assert report["checksums_match"]
    one = {"images": 1, "positive": 0, "boxes": 0, "patients": 1}
    assert report["counts"]["split"]["val"] == one
    middle = {"images": 2, "positive": 1, "boxes": 1, "patients": 2}
    assert report["counts"]["age"] == {"40-64": middle, "65+": one}
    assert report["counts"]["sex"]["unknown"] == report["counts"]["view"]["PA"] == one
    assert report["sizes"]["cached"] == {"128 x 128": 3}
    boxes = report["boxes"]
    assert (boxes["count"], boxes["per_positive_image"]) == (1, {"1": 1})
    # 30 x 60 of 100 is 307.2 x 614.4 of 1024: 18 % of the image
    assert boxes["percentiles"]["width_px"]["p50"] == pytest.approx(307.2)
    assert boxes["percentiles"]["height_over_width"]["p50"] == 2.0
    assert boxes["percentiles"]["area_percent"]["p50"] == pytest.approx(18.0)
    json.dumps(report, allow_nan=False)


def test_patients_and_images_in_two_splits(tmp_path: Path) -> None:
    report = audit_dataset(dataset(tmp_path / "d", images(patient_id="p")))
    assert failed(report) == {"patients stay in one split"}
    assert report["patients_in_several_splits"] == ["p"]
    twice = images()
    twice[1] = (twice[1][0], film(0), [])
    report = audit_dataset(dataset(tmp_path / "e", twice))
    assert failed(report) == {"no image is in two splits"}
    assert report["duplicates"]["exact"]["listed"] == [["train/full/a", "val/full/b"]]
    within = images(split="train")
    within[1] = (within[1][0], film(0), [])
    report = audit_dataset(dataset(tmp_path / "f", within))
    assert failed(report) == {"every split has images"}  # a duplicate within a split is no leak
    assert report["duplicates"]["exact"]["groups"] == 1


def test_a_recompressed_copy_is_a_near_duplicate(tmp_path: Path) -> None:
    Image.fromarray(film(0)).resize((112, 112)).save(tmp_path / "copy.jpg", quality=60)
    copy = np.array(Image.open(tmp_path / "copy.jpg"))
    changed = images()
    changed[1] = (changed[1][0], copy, [])
    report = audit_dataset(dataset(tmp_path / "d", changed))
    assert failed(report) == {"no near duplicate is in two splits"}
    (pair,) = report["duplicates"]["near"]["listed"]
    assert pair["images"] == ["train/full/a", "val/full/b"]
    assert pair["correlation"] > 0.97


def test_different_films_are_no_duplicates() -> None:
    plans = plan_phantoms(60, 4)
    films = [np.round(render_film(plan, 4, 96).pixels * 255).astype(np.uint8) for plan in plans]
    records = [PLAIN._replace(image_id=plan.image_id) for plan in plans]
    features = [image_features(pixels) for pixels in films]
    assert near_duplicates(records, features, [str(i) for i in range(60)]) == []
    # two kinds of one image are not a pair, the same pair under two names is
    both = [features[0], features[0]]
    assert near_duplicates([PLAIN, PLAIN._replace(kind="lungs")], both, ["1", "2"]) == []
    assert len(near_duplicates([PLAIN, PLAIN._replace(image_id="z")], both, ["1", "2"])) == 1


def test_blank_images_do_not_upset_the_search() -> None:
    blank = image_features(np.zeros((40, 30), np.uint8))
    assert np.isfinite(blank.detail).all()
    assert near_duplicates([PLAIN, PLAIN._replace(image_id="z")], [blank, blank], ["1", "2"]) == []


@pytest.mark.parametrize(
    ("box", "name"),
    [
        ([10, 20, 101, 80], "boxes lie inside their image"),
        ([-1, 20, 50, 80], "boxes lie inside their image"),
        ([10, 20, 10, 80], "boxes have an area"),
        ([10, 20, 40, 15], "boxes have an area"),
    ],
)
def test_faulty_boxes(tmp_path: Path, box: list[float], name: str) -> None:
    faulty = images()
    faulty[0] = (faulty[0][0], film(0), [box])
    found = dataset(tmp_path / "d", faulty)
    report = audit_dataset(found)
    assert failed(report) == {name}
    write_html(tmp_path / "audit.html", found, report)  # the page must stand it too


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    found = dataset(tmp_path / "d", images())
    path = tmp_path / "d" / "images.u8"
    data = bytearray(path.read_bytes())
    data[128 * 128 + 5] ^= 1  # in the second image
    path.write_bytes(bytes(data))
    report = audit_dataset(open_dataset(tmp_path / "d"))
    assert failed(report) == {"checksums match"}
    assert not report["checksums_match"]
    assert report["damaged_images"] == ["val/full/b"]
    assert len(found) == 3


def test_an_unknown_patient_is_a_failed_check(tmp_path: Path) -> None:
    facts = FACTS._replace(split={"method": "m", "seed": 1, "leak_warning": "no mapping"})
    report = audit_dataset(dataset(tmp_path / "d", images(), facts))
    assert failed(report) == {"the patient of every image is known"}


def test_the_page_is_self_contained_and_escaped(tmp_path: Path, phantoms: Dataset) -> None:
    report = audit_dataset(phantoms)
    report["counts"]["view"]["<script>alert(1)</script>"] = report["counts"]["view"]["AP"]
    write_html(tmp_path / "audit.html", phantoms, report)
    page = (tmp_path / "audit.html").read_text()
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/png") == 2
    assert page.count("data:image/jpeg") == 12
    assert phantoms.fingerprint in page
    assert "Not a medical device" in page


def test_a_dataset_without_boxes_or_ages_has_a_page(tmp_path: Path) -> None:
    bare = [(record._replace(age=None), pixels, []) for record, pixels, _ in images(age=None)]
    found = dataset(tmp_path / "d", bare)
    write_html(tmp_path / "audit.html", found, audit_dataset(found))
    assert "data:image" not in (tmp_path / "audit.html").read_text()
