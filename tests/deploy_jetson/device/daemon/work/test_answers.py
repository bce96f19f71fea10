"""Answers: their DICOM results, what cannot be written, and how long they are kept."""

import json
import time

from deploy_jetson.device.daemon.settings import ResultsSettings
from deploy_jetson.device.daemon.work import answers
from tests.deploy_jetson.device.daemon.rig import film, image, running, settings
from tests.support.waiting import wait_for


def test_dicom_results_are_kept_and_served(tmp_path):
    config = settings(tmp_path / "state", results=ResultsSettings(("sr", "gsps", "sc")))
    with running(config, child=True) as rig:
        job = rig.post(film(tmp_path / "a.dcm").read_bytes())[1]["job"]
        answer = rig.settled(job)
        assert answer["dicom"] == ["sr", "gsps", "sc"]
        assert answer["source"]["SOPInstanceUID"].endswith(".1.1.1")
        for kind in answer["dicom"]:
            status, data = rig.request("GET", f"/v1/jobs/{job}/{kind}")
            assert (status, data[128:132]) == (200, b"DICM")


def test_a_header_that_makes_no_dicom_results_costs_the_results_and_not_the_process(tmp_path):
    config = settings(tmp_path / "state", results=ResultsSettings(("sr", "gsps", "sc")))
    with running(config, child=True) as rig:
        odd = film(tmp_path / "a.dcm", SOPInstanceUID="CANARY PHI").read_bytes()
        answer = rig.settled(rig.post(odd)[1]["job"])
        assert (answer["status"], answer["dicom"]) == ("done", [])
        assert "header_not_writable" in answer["warnings"]
        assert "CANARY" not in json.dumps(answer)
        good = rig.settled(rig.post(film(tmp_path / "b.dcm").read_bytes())[1]["job"])
        assert good["dicom"] == ["sr", "gsps", "sc"]


def test_an_answer_that_cannot_be_written_down_costs_one_image(tmp_path, monkeypatch):
    real, times = answers.result_of, []

    def broken(*arguments):
        times.append(1)
        if len(times) == 1:
            raise ValueError("CANARY^PHI")
        return real(*arguments)

    monkeypatch.setattr(answers, "result_of", broken)
    with running(settings(tmp_path)) as rig:
        assert rig.settled(rig.post(image(1))[1]["job"])["reason"] == "internal_error"
        assert rig.settled(rig.post(image(2))[1]["job"])["status"] == "done"


def test_old_answers_go_and_undelivered_ones_stay(tmp_path):
    with running(settings(tmp_path)) as rig:
        old, kept = (rig.post(image(i))[1]["job"] for i in (1, 2))
        rig.settled(old), rig.settled(kept)
        wait_for(lambda: rig.service.journal.counts()["done"] == 2)
        rig.service.journal.mark_answered(kept, "done", "", [("pacs", "sr")])
        with rig.service.journal.transaction() as database:
            database.execute("UPDATE jobs SET changed_at=?", (time.time() - 31 * 86400,))
        rig.service.forget_old()
        assert rig.get("/v1/jobs/" + old)[0] == 404
        assert rig.get("/v1/jobs/" + kept)[0] == 200
        assert [path.stem for path in (tmp_path / "results").iterdir()] == [kept]
