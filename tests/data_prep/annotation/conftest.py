"""A project of phantoms with reports and a model's boxes, and a client for it."""

import csv
import shutil

import pytest

from data_prep.annotation.project import ProjectSources, open_project
from data_prep.annotation.web.server import make_app
from data_prep.reports.findings.concepts import ConceptBase

REPORT = (
    "FINDINGS: Patchy opacity in the left lower lobe. Possible right pleural effusion. "
    "No pneumothorax. IMPRESSION: Left lower lobe opacity."
)
HEADERS = {"x-annotate": "1", "content-type": "application/json"}


@pytest.fixture(scope="session")
def annotation_sources(phantom_folder, tmp_path_factory):
    """Six studies of 128 pixels, a broken one, a report and a model's box for the first."""
    folder = tmp_path_factory.mktemp("annotation")
    studies = folder / "studies"
    studies.mkdir()
    names = sorted(p.name for p in (phantom_folder / "dicom").glob("*.dcm"))[:6]
    for name in names:
        shutil.copy(phantom_folder / "dicom" / name, studies / name)
    (studies / "zz_broken.dcm").write_bytes(b"DICM" * 9)
    first = names[0].removesuffix(".dcm")
    with (folder / "reports.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("report_id", "images", "text"), ("r1", first, REPORT)])
    (folder / "predictions.csv").write_text(
        "image_id,score,x1,y1,x2,y2,width,height\n"
        f"{first},0.62,70,60,110,100,128,128\n{first},0.05,1,1,9,9,128,128\n"
    )
    return folder


class Client:
    """A logged-in browser without a screen."""

    def __init__(self, app, token=None):
        from starlette.testclient import TestClient

        self.http = TestClient(app, base_url="http://127.0.0.1:8400")
        if token:
            assert self.post("/api/login", token=token).status_code == 200

    def get(self, path, **more):
        return self.http.get(path, **more)

    def post(self, path, **body):
        return self.http.post(path, json=body, headers=HEADERS)

    def put(self, path, body):
        return self.http.put(path, json=body, headers=HEADERS)

    def save(self, key, *annotations, base=0, verdict="", rejected=()):
        body = {"base_revision": base, "annotations": list(annotations), "verdict": verdict,
                "rejected": list(rejected), "step_s": 2.0}  # fmt: skip
        return self.put(f"/api/studies/{key}/reading", body)


def drawn(box, code="", number=1, **more):
    return {"annotation_id": f"b{number}", "box_xyxy": box, "code": code, **more}


@pytest.fixture
def project(annotation_sources, tmp_path):
    sources = ProjectSources(
        annotation_sources / "studies",
        tmp_path / "work",
        annotation_sources / "reports.csv",
        annotation_sources / "predictions.csv",
    )
    return open_project(sources, ConceptBase.load(), workers=1)


@pytest.fixture
def app(project):
    return make_app(project)


@pytest.fixture
def boss(project, app):
    return Client(app, project.people.manager_token())


@pytest.fixture
def ann(boss, app):
    return Client(app, boss.post("/api/manage/annotators", name="Ann").json()["token"])


@pytest.fixture
def bob(boss, app):
    return Client(app, boss.post("/api/manage/annotators", name="Bob").json()["token"])
