"""Files of other tools, and our own exports, taken over as readings."""

import io
import json
import zipfile

import pytest

from data_prep.annotation.exports.kcat import read_kcat, write_kcat
from data_prep.annotation.web.guard import MAX_BODY_BYTES
from tests.data_prep.annotation.conftest import REPORT, drawn

CODE = "Opacity/lung/lower lobe/left"
BOX = [70, 60, 110, 100]


def take_over(boss, name, data):
    headers = {"x-annotate": "1", "content-type": "application/octet-stream"}
    path = "/api/manage/import"
    return boss.http.post(path, params={"annotator": name}, content=data, headers=headers)


def names(project):
    return [study.image_id for study in project.store.studies()]


def reading(client, key):
    return client.get(f"/api/studies/{key}").json()


def test_rsna_labels_and_classes(boss, bob, project):
    first, second, third = names(project)[:3]
    labels = (
        "patientId,x,y,width,height,Target\n"
        f"{first},560,480,320,288,1\n{second},,,,,0\n{third},0,0,9999,512,1\nother,1,1,5,5,1\n"
    )
    answer = take_over(boss, "Bob", labels.encode()).json()
    assert (answer["kind"], answer["studies"], answer["boxes"]) == ("rsna", 2, 2)
    assert answer["left_out"] == {"unknown_image": 1, "no_box_and_no_verdict": 1}
    (item,) = reading(bob, 1)["annotations"]
    assert item["box_xyxy"] == [70, 60, 110, 96]  # 1024 to 128 pixels
    assert (item["code"], item["origin"]) == ("Opacity", "imported")
    assert reading(bob, 1)["verdict"] == "opacity"
    assert reading(bob, 3)["annotations"][0]["box_xyxy"] == [0, 0, 128, 64]  # cut at the edge
    classes = f"patientId,class\n{first},Lung Opacity\n{second},Normal\n"
    answer = take_over(boss, "Bob", classes.encode()).json()
    assert answer["left_out"] == {"already_read": 1}
    assert reading(bob, 2)["verdict"] == "normal"


def test_coco_of_another_tool(boss, bob, project):
    table = {
        "images": [{"id": 7, "file_name": "elsewhere/" + names(project)[0] + ".png",
                    "width": 256, "height": 256}],
        "categories": [{"id": 1, "name": "consolidation"}, {"id": 2, "name": "zebra"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [140, 120, 80, 80]},
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 20, 20]},
            {"image_id": 7, "category_id": 9, "bbox": [0, 0, 20, 20]},
            {"image_id": 7, "category_id": 1, "bbox": ["nan", 0, 20, 20]},
        ],
    }  # fmt: skip
    answer = take_over(boss, "Bob", json.dumps(table).encode()).json()
    assert (answer["kind"], answer["boxes"]) == ("coco", 2)
    assert answer["left_out"] == {"unknown_category": 1, "box_not_finite": 1}
    items = reading(bob, 1)["annotations"]
    assert [item["code"] for item in items] == ["Consolidation", "NIL"]
    assert items[0]["box_xyxy"] == [70, 60, 110, 100]  # from 256 to 128 pixels


def test_impossible_numbers_of_coco_are_left_out(boss, bob, project):
    huge = 10**400
    table = {
        "images": [{"id": 1, "file_name": names(project)[0] + ".png",
                    "width": huge, "height": 1e308}],
        "categories": [{"id": 1, "name": "opacity"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [huge, 0, 20, 20]},
            {"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40]},
        ],
    }  # fmt: skip
    answer = take_over(boss, "Bob", json.dumps(table).encode()).json()
    assert answer["left_out"] == {"box_not_finite": 1}
    (item,) = reading(bob, 1)["annotations"]
    assert item["box_xyxy"] == [10, 20, 40, 60]


def test_our_own_exports_come_back(boss, ann, bob):
    """COCO and structured reports of Ann's boxes become Bob's, unchanged."""
    ann.save(1, drawn(BOX, CODE), drawn([5, 5, 30, 40], "NIL", 2), verdict="opacity")
    ann.save(2, drawn(BOX, "Pleural Effusion", assertion="uncertain"), verdict="abnormal")
    ann.save(3, verdict="normal")
    coco = boss.get("/api/manage/export/coco").content
    sr = boss.get("/api/manage/export/sr").content
    with zipfile.ZipFile(io.BytesIO(sr)) as archive:
        reports = [archive.read(name) for name in sorted(archive.namelist()) if "dcm" in name]
    assert len(reports) == 3
    assert take_over(boss, "Bob", reports[0]).json()["boxes"] == 2
    assert take_over(boss, "Bob", reports[2]).json()["studies"] == 1
    answer = take_over(boss, "Bob", coco).json()
    assert (answer["studies"], answer["left_out"]["already_read"]) == (1, 2)

    def said(client, key):
        state = reading(client, key)
        items = sorted((a["box_xyxy"], a["code"], a["assertion"]) for a in state["annotations"])
        return items, state["verdict"]

    for key in (1, 2, 3):
        assert said(bob, key) == said(ann, key)


def test_kcat_files_revise_the_linking(boss, ann, bob):
    ann.save(1, drawn(BOX, CODE), verdict="opacity")
    archive = zipfile.ZipFile(io.BytesIO(boss.get("/api/manage/export/kcat").content))
    (name,) = [n for n in archive.namelist() if n.startswith("Ann/")]
    document = read_kcat(archive.read(name))
    effusion = next(m for m in document.mentions if "Effusion" in m.entity)
    changed = [m._replace(entity="NIL") if m == effusion else m for m in document.mentions]
    data = write_kcat(document._replace(mentions=tuple(changed))).encode()
    before = bob.get("/api/studies/1/offers?coarse=Pleura").json()
    assert before["offers"][0]["source"] == "report"
    answer = take_over(boss, "Bob", data).json()
    assert (answer["kind"], answer["studies"], answer["mentions"]) == ("kcat", 1, 1)
    (link,) = reading(bob, 1)["mentions"]
    assert (link["code"], REPORT[link["start"] : link["end"]].lower()) == (
        "NIL",
        "pleural effusion",
    )
    after = bob.get("/api/studies/1/offers?coarse=Pleura").json()
    assert {offer["source"] for offer in after["offers"]} == {"frequent"}
    assert dict(after["coarse"])["Pleura"] == 0
    again = take_over(boss, "Bob", data).json()  # the same file says nothing new
    assert again["mentions"] == 0
    foreign = data.replace(b"Patchy", b"Rather")
    assert take_over(boss, "Bob", foreign).status_code == 400


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"{", b'{"images": 3}', b"[" * 100_000, b"{" + b"[" * 100_000,
     b"patientId,x\n1,2\n", b"\0" * 128 + b"DICM" + b"\0" * 64, b"%%TYPE_ANNOTATIONS%%\n1\n"],
)  # fmt: skip
def test_what_is_no_such_file_is_refused(boss, bob, data):
    answer = take_over(boss, "Bob", data)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert reading(bob, 1)["revision"] == 0


def test_only_the_manager_imports_and_only_for_annotators(boss, bob):
    assert take_over(bob, "Bob", b"{}").status_code == 403
    assert take_over(boss, "Nobody", b"{}").status_code == 404
    big = b"x" * (MAX_BODY_BYTES + 1)  # a file may be larger than a reading
    assert take_over(boss, "Bob", big).status_code == 400
