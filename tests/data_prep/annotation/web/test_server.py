"""The interface of the web application, and what it refuses."""

import io
import json
import logging
import zipfile

import numpy as np
import pydicom
import pytest
from PIL import Image

from data_prep.annotation.exports.kcat import read_kcat
from data_prep.annotation.project import ProjectSources, open_project
from data_prep.annotation.web.guard import MAX_BODY_BYTES
from data_prep.annotation.web.server import FILES, make_app
from data_prep.dataset.reader import open_dataset
from data_prep.reports.findings.concepts import ConceptBase
from tests.data_prep.annotation.conftest import HEADERS, REPORT, Client, drawn

CODE = "Opacity/lung/lower lobe/left"
BOX = [70, 60, 110, 100]


def test_a_study_as_the_reader_gets_it(ann):
    lines = ann.get("/api/studies").json()
    assert [line["key"] for line in lines] == sorted(line["key"] for line in lines)
    assert len(lines) == 6  # the broken one is not on the list
    study = ann.get(f"/api/studies/{lines[0]['key']}").json()
    assert (study["width"], study["height"], study["annotations"]) == (128, 128, [])
    assert [s["origin"] for s in study["suggestions"]] == ["model:0"]  # 0.05 is below 0.2
    assert study["suggestions"][0]["box_xyxy"] == BOX
    assert study["report"]["text"] == REPORT
    said = {
        REPORT[m["start"] : m["end"]].lower(): m["assertion"] for m in study["report"]["mentions"]
    }
    assert said["pneumothorax"] == "absent"  # what the report denies is shown as that
    assert "present" in [kind for words, kind in said.items() if "opacity" in words]
    assert dict(study["coarse"])["Pleura"] == 1
    assert ann.get(f"/api/studies/{lines[1]['key']}").json()["report"] is None


def test_a_bad_report_gets_a_reason_and_stops_nothing(annotation_sources, tmp_path):
    studies = annotation_sources / "studies"
    names = sorted(path.stem for path in studies.glob("*.dcm"))[:5]
    bad = {
        "html": b"<html><body>The lungs are clear.</body></html>",
        "too_long": b"The lungs are clear. " * 500_000,
        "binary": bytes(range(256)) * 9,
        "empty": b"",
        "language": b"Der Befund zeigt eine kleine Verschattung im Unterlappen, kein Erguss.",
    }
    (tmp_path / "reports").mkdir()
    for name, data in zip(names, bad.values(), strict=True):
        (tmp_path / "reports" / f"{name}.txt").write_bytes(data)
    sources = ProjectSources(studies, tmp_path / "work", tmp_path / "reports")
    project = open_project(sources, ConceptBase.load(), workers=1)
    boss = Client(make_app(project), project.people.manager_token())
    keys = {s["image_id"]: s["key"] for s in boss.get("/api/manage/overview").json()["studies"]}
    for name, reason in zip(names, bad, strict=True):
        report = boss.get(f"/api/studies/{keys[name]}").json()["report"]
        assert report == {"text": "", "reason": reason, "mentions": []}
        offers = boss.get(f"/api/studies/{keys[name]}/offers?coarse=Pleura").json()["offers"]
        assert {offer["source"] for offer in offers} == {"frequent"}


def test_the_image_is_the_displayed_radiograph(ann, project):
    data = ann.get("/api/studies/1/image")
    assert data.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(data.content)))
    from pneumonia.runtime.image.radiograph import read_radiograph

    path = project.path(project.store.study(1))
    assert np.array_equal(shown, read_radiograph(str(path)).pixels)


def test_typing_steps(ann):
    first = ann.get("/api/studies/1/offers?x1=70&x2=110").json()["offers"]
    assert first[0]["code"].startswith("Opacity")
    filtered = ann.get("/api/studies/1/offers?coarse=Pleura").json()["offers"]
    assert filtered[0]["source"] == "report"
    assert {offer["coarse"] for offer in filtered} == {"Pleura"}
    finer = ann.get("/api/types/children?node=Opacity/lung").json()
    assert finer["path"] == ["Lungs", "Opacity", "Opacity/lung"]
    assert "Opacity/lung/left" in dict(map(tuple, finer["nodes"]))
    assert "Opacity" in ann.get("/api/types/search?prefix=opac").json()
    assert ann.get("/api/types/description?node=Opacity").json()["path"] == ["Lungs", "Opacity"]
    assert ann.get("/api/types/children?node=No such").status_code == 400
    roots = ann.get("/api/types/children").json()
    assert "Lungs" in dict(map(tuple, roots["nodes"]))


def test_save_undo_redo_conflict(ann):
    state = ann.save(1, drawn(BOX)).json()
    assert state["annotations"][0]["changed_at"]
    second = ann.save(1, drawn(BOX, CODE), base=state["revision"], verdict="opacity").json()
    assert second["verdict"] == "opacity"
    assert ann.save(1, base=state["revision"]).status_code == 409
    assert ann.post("/api/studies/1/undo").json()["annotations"][0]["code"] == ""
    assert ann.post("/api/studies/1/redo").json()["annotations"][0]["code"] == CODE
    assert ann.post("/api/studies/1/time", step_s=5).status_code == 200
    assert ann.get("/api/studies/1").json()["active_s"] == pytest.approx(9.0)


def save_with(client, change_id, *annotations, base=0):
    body = {"base_revision": base, "annotations": list(annotations), "verdict": "",
            "rejected": [], "step_s": 1.0, "change_id": change_id}  # fmt: skip
    return client.put("/api/studies/1/reading", body)


def test_a_change_that_is_sent_again_is_applied_once(ann):
    """The answer was lost on its way: the same change comes again."""
    first = save_with(ann, "a-1", drawn(BOX)).json()
    again = save_with(ann, "a-1", drawn(BOX)).json()
    assert again == first
    assert first["confirmed"] == first["revision"]
    second = save_with(ann, "a-2", drawn(BOX), drawn(BOX, number=2), base=first["revision"]).json()
    assert len(second["annotations"]) == 2
    late = save_with(ann, "a-1", drawn(BOX)).json()  # the page sees that more has happened
    assert (late["confirmed"], late["revision"]) == (first["revision"], second["revision"])
    undone = ann.post("/api/studies/1/undo", change_id="u-1").json()
    assert ann.post("/api/studies/1/undo", change_id="u-1").json() == undone
    assert len(undone["annotations"]) == 1


def test_numbers_beyond_the_database_are_no_server_error(ann, boss):
    for key in (2**63, 2**70, 10**20, -1):
        assert ann.get(f"/api/studies/{key}").status_code in (404, 422)
        answer = boss.post("/api/manage/assign", name="Ann", key=key, on=True)
        assert answer.status_code == 422
    assert save_with(ann, "x", base=2**70).status_code == 422


def test_a_study_of_others_looks_like_one_that_does_not_exist(ann, boss):
    boss.post("/api/manage/assign", name="Ann", key=2, on=False)
    others, missing = ann.get("/api/studies/2"), ann.get("/api/studies/4711")
    assert (others.status_code, others.json()) == (missing.status_code, missing.json())


def test_a_comment_is_kept_and_exported(ann, boss):
    body = {"base_revision": 0, "annotations": [], "rejected": [], "comment": "Rotated."}
    assert ann.put("/api/studies/1/reading", body).status_code == 200
    assert ann.get("/api/studies/1").json()["comment"] == "Rotated."
    readings = boss.get("/api/manage/export/readings").json()["readings"]
    assert [r["comment"] for r in readings] == ["Rotated."]


def test_blind_readers_see_report_and_model_after_their_first_verdict(annotation_sources, tmp_path):
    sources = ProjectSources(
        annotation_sources / "studies", tmp_path / "work", annotation_sources / "reports.csv",
        annotation_sources / "predictions.csv", blind=True, shuffle=True,
    )  # fmt: skip
    project = open_project(sources, ConceptBase.load(), workers=1)
    app = make_app(project)
    boss = Client(app, project.people.manager_token())
    orders = []
    for name in ("José", "O'Brien"):
        token = boss.post("/api/manage/annotators", name=name).json()["token"]
        reader = Client(app, token)
        orders.append([line["key"] for line in reader.get("/api/studies").json()])
        study = reader.get("/api/studies/1").json()
        assert study["blinded"]
        assert (study["report"], study["suggestions"]) == (None, [])
        assert not any(dict(study["coarse"]).values())
        offers = reader.get("/api/studies/1/offers?coarse=Pleura").json()["offers"]
        assert {offer["source"] for offer in offers} == {"frequent"}
        done = reader.save(1, verdict="normal").json()
        reader.save(1, base=done["revision"])  # reopened: the first reading is in the history
        study = reader.get("/api/studies/1").json()
        assert not study["blinded"]
        assert study["report"]["text"] == REPORT
        assert study["suggestions"]
        (row,) = [
            row
            for row in boss.get("/api/manage/export/readings").json()["readings"]
            if row["annotator"] == name
        ]
        assert (row["verdict"], row["first_finished"]["verdict"]) == ("", "normal")
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_wrong_tokens_lock_out_only_where_they_came_from(project):
    people = project.people
    for _ in range(10):
        people.log_in("wrong", "10.0.0.1")
    assert people.must_wait("10.0.0.1")
    assert not people.must_wait("10.0.0.2")


@pytest.mark.parametrize(
    "bad",
    [
        {"annotations": [drawn([0, 0, 500, 9])]},
        {"annotations": [drawn([0, 0, "x", 9])]},
        {"annotations": [drawn([0, 0, 9])]},
        {"annotations": [drawn(BOX, "No Such Code")]},
        {"annotations": [drawn(BOX, number="<b>")]},
        {"annotations": [{**drawn(BOX), "extra": 1}]},
        {"annotations": [drawn(BOX)], "verdict": "normal"},
        {"verdict": "opacity"},
        {"step_s": -1},
        {"base_revision": -1},
    ],
)
def test_malformed_readings_change_nothing(ann, bad):
    body = {"base_revision": 0, "annotations": [], "rejected": [], "verdict": "", **bad}
    assert ann.put("/api/studies/1/reading", body).status_code in (400, 422)
    assert ann.get("/api/studies/1").json()["revision"] == 0


def test_readers_are_blind_to_each_other(ann, bob, boss):
    ann.save(1, drawn(BOX, CODE), verdict="opacity")
    study = bob.get("/api/studies/1").json()
    assert (study["annotations"], study["revision"]) == ([], 0)
    assert "Ann" not in json.dumps(study) + bob.get("/api/studies").text
    for path in ("overview", "agreement", "studies/1", "export/rsna", "export/readings"):
        assert bob.get(f"/api/manage/{path}").status_code == 403
    for path in ("annotators", "share", "dataset", "assign"):
        assert bob.post(f"/api/manage/{path}", name="x").status_code in (403, 422)


def test_only_assigned_studies_are_there(ann, boss):
    boss.post("/api/manage/assign", name="Ann", key=2, on=False)
    assert 2 not in {line["key"] for line in ann.get("/api/studies").json()}
    for path in ("", "/image", "/offers"):
        assert ann.get(f"/api/studies/2{path}").status_code == 404
    assert ann.save(2, drawn(BOX)).status_code == 404
    assert ann.get("/api/studies/999").status_code == 404  # as for one of others
    assert boss.post("/api/manage/assign", name="Eve", key=2, on=True).status_code == 404


def test_broken_files_are_listed_with_their_reason(boss):
    studies = boss.get("/api/manage/overview").json()["studies"]
    broken = [s for s in studies if s["reason"]]
    assert [s["file"] for s in broken] == ["zz_broken.dcm"]
    assert boss.get(f"/api/studies/{broken[0]['key']}/image").status_code == 404


def test_agreement_consensus_adjudication_and_exports(ann, bob, boss, project):
    ann.save(1, drawn(BOX, CODE, mention=[22, 29]), verdict="opacity")
    bob.save(1, drawn([70, 60, 110, 92], "Opacity"), verdict="opacity")
    ann.save(2, drawn(BOX, CODE), verdict="opacity")
    bob.save(2, verdict="normal")
    for reader in (ann, bob):
        reader.save(3, verdict="normal")
    found = boss.get("/api/manage/agreement").json()
    (pair,) = found["pairs"]
    assert pair["annotators"] == ["Ann", "Bob"]
    assert pair["verdict_percent"] == pytest.approx(2 / 3)
    assert (pair["boxes"], pair["n_matched"], pair["mean_iou"]) == ([2, 1], 1, pytest.approx(0.8))
    assert [level["percent"] for level in pair["levels"]] == [1, 1, 0, 0, 0]
    overview = boss.get("/api/manage/overview").json()
    states = {s["key"]: (s["class"], s["doubt"]) for s in overview["studies"]}
    assert states[1] == ("Lung Opacity", "")
    assert states[2] == ("", "box_disputed")
    assert overview["annotators"][0]["median_s"] == 2.0
    assert [s["key"] for s in overview["studies"] if s["differs"]] == [1, 2]
    side = boss.get("/api/manage/studies/1").json()
    assert [r["annotator"] for r in side["readings"]] == ["Ann", "Bob"]
    assert side["consensus"]["boxes"][0]["box_xyxy"] == [70, 60, 110, 96]
    assert side["consensus"]["boxes"][0]["code"] == "Opacity"  # the tie's common ancestor
    offered = boss.get("/api/studies/2").json()["suggestions"]
    assert [s["origin"] for s in offered] == ["reader:Ann:b1"]
    assert boss.save(2, drawn(BOX, "Consolidation"), verdict="opacity").status_code == 200
    rows = boss.get("/api/manage/export/rsna").text.splitlines()
    names = [s.image_id for s in project.store.studies()]
    assert rows[1:] == [
        f"{names[0]},560,480,320,288,1", f"{names[1]},560,480,320,320,1", f"{names[2]},,,,,0",
    ]  # fmt: skip
    coco = boss.get("/api/manage/export/coco").json()
    assert {c["name"] for c in coco["categories"]} == {"Opacity", "Consolidation"}
    readings = boss.get("/api/manage/export/readings").json()["readings"]
    assert {r["annotator"] for r in readings} == {"Ann", "Bob", "adjudication"}
    errors = {e["annotator"]: e for e in boss.get("/api/manage/agreement").json()["errors"]}
    assert (errors["Bob"]["missed"], errors["Ann"]["missed"]) == (1, 0)
    done = boss.post("/api/manage/dataset").json()
    dataset = open_dataset(done["folder"])
    assert sorted(r.class_name for r in dataset.records) == [
        "Lung Opacity", "Lung Opacity", "Normal",
    ]  # fmt: skip
    boss.save(2, base=boss.get("/api/studies/2").json()["revision"], verdict="normal")
    assert boss.post("/api/manage/dataset").status_code == 200  # written anew


def test_archives(ann, boss):
    ann.save(1, drawn(BOX, CODE, mention=[17, 24]), verdict="opacity")
    with zipfile.ZipFile(io.BytesIO(boss.get("/api/manage/export/sr").content)) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dcm")]
        report = pydicom.dcmread(io.BytesIO(archive.read(name)))
        assert report.Modality == "SR"
    with zipfile.ZipFile(io.BytesIO(boss.get("/api/manage/export/kcat").content)) as archive:
        (name,) = [n for n in archive.namelist() if n.startswith("Ann/")]
        document = read_kcat(archive.read(name))
    assert document.text == REPORT
    typed = [m for m in document.mentions if m.type_path]
    starts = {REPORT[m.start : m.end] for m in document.mentions}
    assert starts
    assert all(m.type_path == "/Lungs/Opacity/lung/lower_lobe/left" for m in typed)
    assert boss.get("/api/manage/export/nothing").status_code == 404


def test_dataset_without_labels_is_reported(boss):
    answer = boss.post("/api/manage/dataset")
    assert (answer.status_code, "No study has a truth" in answer.text) == (400, True)


def test_sharing_out(ann, bob, boss):
    assert boss.post("/api/manage/share", readers=1).status_code == 200
    lists = [{line["key"] for line in reader.get("/api/studies").json()} for reader in (ann, bob)]
    assert lists[0] & lists[1] == set()
    assert [len(keys) for keys in lists] == [3, 3]
    assert boss.post("/api/manage/share", readers=3).status_code == 400


# security


def test_nothing_without_a_session(app):
    nobody = Client(app)
    for path in ("/api/me", "/api/studies", "/api/studies/1", "/api/studies/1/image",
                 "/api/types/search?prefix=o", "/api/manage/overview",
                 "/api/manage/export/rsna"):  # fmt: skip
        assert nobody.get(path).status_code == 401
    assert nobody.save(1).status_code == 401
    assert nobody.get("/").status_code == 200  # the page itself tells nothing


def test_wrong_tokens_are_slowed(app):
    nobody = Client(app)
    codes = [nobody.post("/api/login", token="wrong token").status_code for _ in range(12)]
    assert codes == [401] * 10 + [429] * 2


def test_cookie_and_headers(app, boss):
    token = boss.post("/api/manage/annotators", name="Cid").json()["token"]
    answer = Client(app).post("/api/login", token=token)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    policy = Client(app).get("/").headers
    assert "default-src 'none'" in policy["content-security-policy"]
    assert "unsafe" not in policy["content-security-policy"]
    assert policy["x-content-type-options"] == "nosniff"
    assert policy["cache-control"] == "no-store"


def test_a_window_of_another_person_reads_and_writes_nothing(ann, project):
    """Two people share a browser: the window of the first has the cookie of the second."""
    mine, other = {**HEADERS, "x-reader": "Ann"}, {**HEADERS, "x-reader": "Jos%C3%A9"}
    body = {"base_revision": 0, "annotations": [], "rejected": [], "verdict": "normal"}
    path = "/api/studies/1/reading"
    assert ann.http.put(path, json=body, headers=other).status_code == 401
    assert ann.http.get("/api/studies/1", headers=other).status_code == 401
    assert ann.get("/api/studies/1").json()["verdict"] == ""
    assert ann.http.put(path, json=body, headers=mine).status_code == 200


def test_a_length_of_thousands_of_digits_is_refused(ann):
    headers = {**HEADERS, "content-length": "9" * 5000}
    assert ann.http.put("/api/studies/1/reading", headers=headers).status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"x-annotate": "1"}, 403),
        ({"content-type": "application/json"}, 403),
        ({"x-annotate": "1", "content-type": "text/plain"}, 403),
        ({**HEADERS, "origin": "http://evil.example"}, 403),
        ({**HEADERS, "origin": "http://127.0.0.1:9999"}, 403),
        ({**HEADERS, "host": "evil.example"}, 421),
        ({**HEADERS, "origin": "http://127.0.0.1:8400"}, 200),
    ],
)
def test_foreign_pages_cannot_write(ann, headers, status):
    answer = ann.http.post("/api/studies/1/undo", content="{}", headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("host", ["evil.example", "", "[", "127.0.0.1.evil.example", "evil@x"])
def test_rebinding_cannot_read(ann, host):
    assert ann.get("/api/studies", headers={"host": host}).status_code == 421


def test_bodies_are_bounded(ann):
    big = b"[" + b" " * MAX_BODY_BYTES + b"]"
    assert ann.http.post("/api/studies/1/undo", content=big, headers=HEADERS).status_code == 413

    def pieces():
        for _ in range(20):
            yield b" " * (MAX_BODY_BYTES // 10)

    answer = ann.http.put("/api/studies/1/reading", content=pieces(), headers=HEADERS)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path",
    ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/server.py",
     "/static/app.css/", "/api/studies/../../etc/passwd", "/api/studies/1%2f..%2f..",
     "/annotations.sqlite", "/openapi.json", "/docs"],
)  # fmt: skip
def test_no_way_to_other_files(ann, path):
    answer = ann.http.get(path, follow_redirects=False)
    assert answer.status_code in (404, 405, 422, 307)
    assert b"import" not in answer.content


def test_log_has_no_names(ann, boss, project, caplog):
    caplog.set_level(logging.INFO, "pneumonia.annotate")
    ann.get("/api/types/search?prefix=secretword")
    ann.get("/api/studies/1")
    boss.get("/api/manage/overview")
    said = caplog.text
    assert "/api/studies/{key}" in said
    for word in ("secretword", "Ann", "phantom", "zz_broken", REPORT[:10]):
        assert word not in said


def test_answers_hold_no_path_of_the_machine(ann, project):
    project.files.clear()  # as if the file had gone
    answer = ann.get("/api/studies/1/image")
    assert answer.status_code == 400
    assert str(project.sources.studies) not in answer.text


def test_revoked_readers_are_out_at_once(ann, boss):
    assert boss.post("/api/manage/annotators/revoke", name="Ann").status_code == 200
    assert ann.get("/api/me").status_code == 401
    assert boss.post("/api/manage/annotators", name="ann").status_code == 400


def test_log_out(ann):
    assert ann.post("/api/logout").status_code == 200
    assert ann.get("/api/me").status_code == 401


def test_windows_are_bounded(ann):
    first = ann.get("/api/studies/1/image").content
    assert ann.get("/api/studies/1/image?center=0.6&width=0.5").content != first
    for query in ("width=0", "width=-1", "width=nan", "width=1e9", "center=inf", "center=x"):
        assert ann.get(f"/api/studies/1/image?{query}").status_code == 422


@pytest.mark.parametrize("place", [place for place in FILES if place != "/favicon.ico"])
def test_pages_make_no_markup_of_text(ann, place):
    answer = ann.get(place)
    assert answer.status_code == 200
    for danger in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "onclick=",
                   "style=", "http://", "https://"):  # fmt: skip
        assert danger not in answer.text.replace("http://www.w3.org/2000/svg", "")
