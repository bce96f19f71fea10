"""fhir/: judged by the models of the `fhir.resources` package, and by hand where it counts."""

import json

import pytest
from fhir.resources.R4B.bundle import Bundle

from pneumonia.runtime.results import source_header
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.image.records import ScoringModel
from pneumonia.scoring.outputs import OutputSettings
from pneumonia.scoring.outputs.fhir import fhir_bundle
from pneumonia.scoring.outputs.protocol import ScoredStudy
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.patients import fill


def document(scored, key_of, name):
    return json.loads((scored[1] / "fhir" / f"{key_of[name]}.json").read_text())


def resources(bundle, kind):
    found = [entry["resource"] for entry in bundle["entry"]]
    return [resource for resource in found if resource["resourceType"] == kind]


def test_every_scored_image_has_a_valid_document(scored):
    files = sorted((scored[1] / "fhir").iterdir())
    assert len(files) == scored[2].document["outputs"]["fhir"]["images"] == 5
    for path in files:
        bundle = Bundle.model_validate_json(path.read_text())
        assert bundle.entry[0].resource.get_resource_type() == "DiagnosticReport"


def test_the_judge_would_refuse(scored, key_of):
    broken = document(scored, key_of, "one")
    del broken["entry"][0]["resource"]["code"]
    with pytest.raises(ValueError, match="code"):
        Bundle.model_validate(broken)


def test_references_lead_somewhere(scored, key_of):
    bundle = document(scored, key_of, "two")
    known = {entry["fullUrl"] for entry in bundle["entry"]}
    assert len(known) == len(bundle["entry"]) == 5

    def references(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from [inner] if name == "reference" else references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    used = set(references(bundle))
    assert used < known
    assert len(used) == 4  # everything but the report itself


def test_what_it_says(scored, key_of, detector):
    bundle = document(scored, key_of, "one")
    (report,) = resources(bundle, "DiagnosticReport")
    assert report["status"] == "preliminary"
    assert report["conclusion"] == (
        "1 region suspicious of lung opacity. Research use only. Not a medical device."
    )
    assert report["conclusionCode"][0]["coding"][0]["code"] == "POS"
    assert report["effectiveDateTime"] == "2020-01-02"
    study = report["imagingStudy"][0]["identifier"]
    assert study == {"system": "urn:dicom:uid", "value": f"urn:oid:{SERIES}.1"}
    whole, region = resources(bundle, "Observation")
    assert whole["valueQuantity"]["value"] == pytest.approx(1, abs=1e-4)
    values = [c["valueQuantity"]["value"] for c in region["component"] if "valueQuantity" in c]
    assert values == pytest.approx([32, 16, 48, 32, 4, 8], abs=1e-3)
    assert region["component"][-1]["valueString"] == f"urn:oid:{SERIES}.1.1.1"
    (device,) = resources(bundle, "Device")
    assert device["identifier"][0]["value"] == detector.bundle.model_hash
    assert device["version"][0]["value"]
    assert device["note"][0]["text"] == "Research use only. Not a medical device."


def test_negative_and_picture(scored, key_of):
    (report,) = resources(document(scored, key_of, "none"), "DiagnosticReport")
    assert report["conclusionCode"][0]["coding"][0]["code"] == "NEG"
    assert "does not exclude" in report["conclusion"]
    picture = next(name for name in key_of if name.startswith("<img"))
    (report,) = resources(document(scored, key_of, picture), "DiagnosticReport")
    assert "imagingStudy" not in report


@pytest.mark.parametrize(
    ("given", "shown"),
    [("20200102", "2020-01-02"), ("20200230", None), ("19000101", None), ("", None)],
)
def test_only_days_of_the_calendar_are_dates(scored, bright, given, shown):
    """FHIR refuses 30 February; a header may hold it."""
    dates = dict.fromkeys(("StudyDate", "SeriesDate", "ContentDate"), given)
    header = source_header(chest_dataset(bright, **dates))
    record = next(r for r in scored[2].records if r.file.image_id == "one")
    model = ScoringModel(**scored[2].document["model"])
    bundle = fhir_bundle(ScoredStudy(record, bright, header), model)
    Bundle.model_validate(bundle)
    assert bundle["entry"][0]["resource"].get("effectiveDateTime") == shown


def test_no_patient_is_named(scored):
    for path in (scored[1] / "fhir").iterdir():
        text = path.read_text()
        assert "CANARY" not in text
        assert "ACC" not in text


def test_same_bytes_again(tmp_path, scored, detector, bright, dark):
    fill(tmp_path / "in", bright, dark)
    settings = ScoreSettings(outputs=OutputSettings(fhir=True, report=False))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".salt").write_text((scored[1] / ".salt").read_text())
    score_batch(tmp_path / "in", tmp_path / "out", detector, settings)
    for path in (scored[1] / "fhir").iterdir():
        assert (tmp_path / "out" / "fhir" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("uid", ["1." + "2" * 72, "1.9.8\\1.9.9"])
def test_no_document_refers_to_a_malformed_uid(tmp_path, detector, bright, uid):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.dcm", chest_dataset(bright, StudyInstanceUID=uid))
    save(tmp_path / "in" / "b.dcm", chest_dataset(bright, SOPInstanceUID="1.2.3.4"))
    settings = ScoreSettings(outputs=OutputSettings(fhir=True, report=False))
    for _ in range(2):  # the second run finds nothing left to make
        result = score_batch(tmp_path / "in", tmp_path / "out", detector, settings)
        assert result.document["outputs"]["fhir"] == {"images": 1}
        (path,) = (tmp_path / "out" / "fhir").iterdir()
        assert uid.partition("\\")[0] not in path.read_text()
