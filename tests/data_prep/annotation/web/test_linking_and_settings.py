"""Revised links, blinded and repeated reading, priors, new files: as the pages ask for them.

Spans: data_prep.annotation.web.manager_api, data_prep.annotation.web.reader_api,
data_prep.annotation.mention_links.
"""

import io
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image

from data_prep.annotation.project import ProjectSources, open_project
from data_prep.annotation.web.reader_api import REPEAT_KEY
from data_prep.annotation.web.server import make_app
from data_prep.reports.findings.concepts import ConceptBase
from tests.data_prep.annotation.conftest import REPORT, Client, drawn

BOX = [70, 60, 110, 100]
CODE = "Opacity/lung/lower lobe/left"


def mention(client, words, key=1):
    """The linker's mention of these words of the report."""
    found = client.get(f"/api/studies/{key}").json()["report"]["mentions"]
    return next(m for m in found if REPORT[m["start"] : m["end"]].lower() == words)


def revise(client, *links, base=0, key=1):
    body = {"base_revision": base, "annotations": [], "rejected": [], "mentions": list(links)}
    return client.put(f"/api/studies/{key}/reading", body)


def offered(client, coarse):
    offers = client.get(f"/api/studies/1/offers?coarse={coarse}").json()["offers"]
    return {o["code"]: o["assertion"] for o in offers if o["source"] == "report"}


def test_a_revised_link_filters_the_candidates_anew(ann, bob):
    effusion = mention(ann, "pleural effusion")
    assert list(offered(ann, "Pleura").values()) == ["uncertain"]
    assert offered(ann, "Pleura").keys() == {effusion["code"]}
    state = revise(ann, {**effusion, "assertion": "absent"}).json()  # denied
    assert offered(ann, "Pleura") == {}
    pneumothorax = {**mention(ann, "pneumothorax"), "assertion": "present"}  # no longer denied
    state = revise(ann, pneumothorax, base=state["revision"]).json()
    assert offered(ann, "Pleura") == {effusion["code"]: "uncertain", "Pneumothorax": "present"}
    changed = {**effusion, "code": "Cardiomegaly", "assertion": "present"}
    revise(ann, changed, base=state["revision"])
    assert "Cardiomegaly" in offered(ann, "Heart")
    assert offered(ann, "Pleura") == {}
    assert offered(bob, "Pleura").keys() == {effusion["code"]}  # a reader's own
    ann.post("/api/studies/1/undo")
    assert "Pneumothorax" in offered(ann, "Pleura")


def test_a_mention_has_candidates_by_its_words_and_a_coarse_type(ann):
    effusion = mention(ann, "pleural effusion")
    path = f"/api/studies/1/mention?start={effusion['start']}&end={effusion['end']}"
    first = ann.get(path).json()["offers"][0]
    assert (first["source"], first["coarse"]) == ("mention", "Pleura")
    lungs = ann.get(path + "&coarse=Lungs").json()["offers"]
    assert {offer["coarse"] for offer in lungs} == {"Lungs"}
    assert ann.get(path + "&coarse=Nothing").status_code == 400


@pytest.mark.parametrize(
    "link",
    [
        {"start": 0, "end": 10_000, "code": "Opacity"},
        {"start": 0, "end": 5, "code": "No such"},
        {"start": 0, "end": 5, "code": "Opacity", "assertion": "perhaps"},
        {"start": -1, "end": 5, "code": "Opacity"},
        {"start": 2**70, "end": 2**71, "code": "Opacity"},
    ],
)
def test_impossible_links_change_nothing(ann, link):
    assert revise(ann, link).status_code in (400, 422)
    assert ann.get("/api/studies/1").json()["revision"] == 0


def test_agreement_on_links_is_on_the_managers_page(ann, bob, boss):
    effusion = {**mention(ann, "pleural effusion"), "assertion": "absent"}
    body = {"base_revision": 0, "annotations": [], "rejected": [], "verdict": "normal"}
    ann.put("/api/studies/1/reading", {**body, "mentions": [effusion]})
    bob.put("/api/studies/1/reading", body)
    (pair,) = boss.get("/api/manage/agreement").json()["links"]
    assert pair["annotators"] == ["Ann", "Bob"]
    assert 0 < pair["percent"] < 1


def test_settings_outlive_a_restart_and_a_command_without_options(annotation_sources, tmp_path):
    sources = ProjectSources(annotation_sources / "studies", tmp_path / "work", blind=True)
    project = open_project(sources, ConceptBase.load(), workers=1)
    boss = Client(make_app(project), project.people.manager_token())
    text = "# Rules\n- Box opacities."
    assert boss.post("/api/manage/settings", shuffle=True, guidelines=text).status_code == 200
    project.database.close()
    again = open_project(sources._replace(blind=None), ConceptBase.load(), workers=1)
    assert again.settings[:2] == (True, True)
    boss = Client(make_app(again), again.people.manager_token())
    assert boss.get("/api/guidelines").json() == {"text": text}
    boss.post("/api/manage/settings", blind=False)
    assert not again.settings.blind
    assert boss.get("/api/manage/overview").json()["settings"]["shuffle"]


def test_a_blinded_reader_cannot_see_or_link_the_report(ann, boss):
    links = [mention(ann, "pleural effusion")]
    boss.post("/api/manage/settings", blind=True)
    assert ann.get("/api/studies/1").json()["report"] is None
    assert revise(ann, *links).status_code == 400
    assert ann.get("/api/studies/1/mention?start=60&end=90").json()["offers"] == []


def test_earlier_links_stop_no_save_when_the_report_is_hidden_or_changed(ann, boss, project):
    link = mention(ann, "pleural effusion")
    state = revise(ann, link).json()
    boss.post("/api/manage/settings", blind=True)
    state = revise(ann, link, base=state["revision"])
    assert state.status_code == 200
    boss.post("/api/manage/settings", blind=False)
    name = project.store.study(1).image_id
    project.reports[name] = project.reports[name]._replace(text="Short.")
    again = revise(ann, link, base=state.json()["revision"])
    assert again.status_code == 200
    assert (
        revise(ann, {**link, "code": "Opacity"}, base=again.json()["revision"]).status_code == 400
    )


def test_repeats_look_like_new_studies_and_give_intra_reader_agreement(ann, bob, boss):
    for key in range(1, 7):
        ann.save(key, drawn(BOX, CODE), verdict="opacity")
    assert boss.post("/api/manage/repeats", percent=50).json() == {"studies": 6}  # 3 each
    lines = ann.get("/api/studies").json()
    again = [line for line in lines if line["key"] >= REPEAT_KEY]
    assert len(again) == 3
    assert not {line["number"] for line in again} & {line["number"] for line in lines[:6]}
    assert {(line["verdict"], line["boxes"]) for line in again} == {("", 0)}
    first, second, third = (line["key"] for line in again)
    study = ann.get(f"/api/studies/{first}").json()
    assert (study["annotations"], study["verdict"], study["key"]) == ([], "", first)
    assert ann.get(f"/api/studies/{first}/image").status_code == 200
    assert boss.get("/api/manage/agreement").json()["repeats"] == []
    ann.save(first, drawn(BOX, CODE), verdict="opacity")
    ann.save(second, verdict="normal")
    (pair,) = boss.get("/api/manage/agreement").json()["repeats"]
    assert (pair["n_studies"], pair["verdict_percent"]) == (2, 0.5)
    # a second reading is neither a vote nor shown to others
    overview = boss.get("/api/manage/overview").json()
    assert overview["annotators"][0]["finished"] == 6
    assert all("#" not in name for study in overview["studies"] for name in study["readers"])
    assert [e["n_studies"] for e in boss.get("/api/manage/agreement").json()["errors"]] == [0]
    rows = boss.get("/api/manage/export/readings").json()["readings"]
    assert sorted(row["repeat"] for row in rows) == [False] * 6 + [True] * 2
    assert {row["annotator"] for row in rows} == {"Ann"}
    other = {line["key"] for line in bob.get("/api/studies").json()}
    for key in {first, second, third} - other:
        assert bob.get(f"/api/studies/{key}").status_code == 404
    assert boss.get(f"/api/studies/{first}").status_code == 404
    assert boss.post("/api/manage/repeats", percent=50).json() == {"studies": 6}  # the same ones
    assert len(ann.get("/api/studies").json()) == 9


@pytest.fixture
def folder(annotation_sources, tmp_path):
    """Two films of one patient, a year apart, and a film of another patient."""
    made = tmp_path / "films"
    made.mkdir()
    films = sorted((annotation_sources / "studies").glob("*.dcm"))[:3]
    rows = [("A", "20240101", films[0]), ("A", "20250101", films[1]), ("B", "20230101", films[2])]
    for number, (patient, date, film) in enumerate(rows):
        dataset = pydicom.dcmread(film)
        dataset.PatientID, dataset.StudyDate = patient, date
        dataset.save_as(made / f"{number}.dcm")
    return made


def pixels(answer):
    assert answer.status_code == 200
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_an_earlier_film_of_the_patient_stands_beside(folder, tmp_path):
    project = open_project(ProjectSources(folder, tmp_path / "work"), ConceptBase.load(), workers=1)
    app = make_app(project)
    boss = Client(app, project.people.manager_token())
    body = {"name": "Ann", "assign_all": False}
    ann = Client(app, boss.post("/api/manage/annotators", **body).json()["token"])
    boss.post("/api/manage/assign", name="Ann", key=2, on=True)
    study = ann.get("/api/studies/2").json()
    assert study["priors"] == [{"key": 1, "view": study["priors"][0]["view"], "days": 366}]
    row_mm, column_mm = study["spacing_mm"]
    assert row_mm == column_mm > 0
    shown = pixels(ann.get("/api/studies/2/prior/1"))
    assert np.array_equal(shown, pixels(boss.get("/api/studies/1/image")))
    for key in (2, 3, 99):  # itself, another patient's, none
        assert ann.get(f"/api/studies/2/prior/{key}").status_code == 404
    assert ann.get("/api/studies/1/image").status_code == 404  # not on the list by itself
    assert boss.get("/api/studies/1").json()["priors"] == []


def test_files_that_come_later_are_assigned_as_the_others_were(folder, tmp_path):
    project = open_project(ProjectSources(folder, tmp_path / "work"), ConceptBase.load(), workers=1)
    app = make_app(project)
    boss = Client(app, project.people.manager_token())
    tokens = {
        name: boss.post("/api/manage/annotators", name=name).json()["token"]
        for name in ("José", "O'Brien")
    }
    boss.post("/api/manage/assign", name="O'Brien", key=3, on=False)
    shutil.copy(folder / "0.dcm", folder / "9.dcm")
    assert boss.post("/api/manage/rescan").json() == {"new": 1}
    lists = {
        name: [line["key"] for line in Client(app, token).get("/api/studies").json()]
        for name, token in tokens.items()
    }
    assert lists == {"José": [1, 2, 3, 4], "O'Brien": [1, 2]}  # only who had all has all
    boss.post("/api/manage/share", readers=1)
    shutil.copy(folder / "0.dcm", folder / "99.dcm")
    project.database.close()
    again = open_project(ProjectSources(folder, tmp_path / "work"), ConceptBase.load(), workers=1)
    assert len([key for key, _ in again.store.assignments() if key == 5]) == 1
