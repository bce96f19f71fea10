"""fhir/: one FHIR R4 Bundle per scored image: DiagnosticReport, Observations, Device.

No patient is named: the receiving system finds the patient by the study's UID. The report has no
`issued` and the bundle no `timestamp`, so that the same image and model give the same bytes; the
time of the batch is in run.json.
"""

import html
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pneumonia.runtime.atomic import json_bytes
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.image.attributes import first_text
from pneumonia.runtime.results.codes import OPACITY
from pneumonia.runtime.results.facts import Finding, ImageResult, result_of
from pneumonia.runtime.results.objects import (
    NO_DATE,
    ROOT,
    image_moment,
    result_uid_of_model,
    series_uid_of_source,
    statements,
    study_uid,
)
from pneumonia.scoring.image.records import ImageRecord, ScoringModel
from pneumonia.scoring.outputs.protocol import FinishedBatch, ScoredStudy, remove_others

FOLDER = "fhir"
LOCAL = "urn:x-pneumonia:codes"
DICOM = "http://dicom.nema.org/resources/ontology/DCM"
SNOMED = "http://snomed.info/sct"
LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
FLAG_CODES = {
    "positive": ("POS", "Positive"),
    "negative": ("NEG", "Negative"),
    "indeterminate": ("IND", "Indeterminate"),
}


@dataclass(frozen=True)
class FhirWriter:
    """Writes `fhir/<key>.json`."""

    out: Path  # output folder of the batch
    model: ScoringModel  # what the scores are made with
    name: str = "fhir"
    needs_header: bool = True

    def path(self, key: str) -> str:
        """Path of an image's document below the output folder."""
        return f"{FOLDER}/{key}.json"

    def is_complete(self, record: ImageRecord) -> bool:
        """Whether the document exists, or the image cannot have one."""
        return has_malformed_uid(record) or (self.out / self.path(record.key)).is_file()

    def files(self, study: ScoredStudy) -> dict[str, bytes]:
        """The document of one image; none where a UID is malformed: it would name another study."""
        if has_malformed_uid(study.record):
            return {}
        return {self.path(study.record.key): json_bytes(fhir_bundle(study, self.model))}

    def finish(self, batch: FinishedBatch) -> dict[str, Any]:
        """Remove documents that are outdated or have an ambiguous image; count the rest."""
        malformed = {record.key for record in batch.records if has_malformed_uid(record)}
        keys = batch.referable_keys() - malformed
        remove_others(self.out / FOLDER, keys)
        return {"images": len(keys)}


def has_malformed_uid(record: ImageRecord) -> bool:
    """Whether a UID of study, series or instance has several values or is not valid."""
    return bool(record.info.get("has_malformed_uid"))


def fhir_bundle(study: ScoredStudy, model: ScoringModel) -> dict[str, Any]:
    """The document of one scored image.

    Returns:
        A Bundle of type `collection`: report, whole-image observation, one per box, device.
    """
    record = study.record
    assert record.prediction is not None
    spacing = record.info.get("spacing_mm")
    result = result_of(record.prediction, model.threshold, spacing, record.warnings)
    facts = _Facts(study, model)
    regions = [
        _region(facts, finding, index) for index, finding in enumerate(result.findings, start=1)
    ]
    whole = _whole_image(facts, result, [region["id"] for region in regions])
    report = _report(facts, result, [whole["id"], *(region["id"] for region in regions)])
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "identifier": {"system": LOCAL, "value": facts.name("bundle")},
        "entry": [
            {"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource}
            for resource in (report, whole, *regions, facts.device())
        ],
    }


class _Facts:
    """Values that all resources of a document share."""

    def __init__(self, study: ScoredStudy, model: ScoringModel) -> None:
        self.model = model
        self.key = study.record.key
        self.study_uid = self.series_uid = self.instance_uid = self.date = ""
        header = study.header
        if header is not None:
            self.instance_uid = first_text(header, "SOPInstanceUID")
            self.study_uid = study_uid(header) if self.instance_uid else ""
            self.series_uid = series_uid_of_source(header) if self.instance_uid else ""
            self.date = _day(image_moment(header)[0])

    def name(self, kind: str) -> str:
        """A UUID that depends on the image, the model and the kind of resource alone."""
        uids = (self.study_uid, self.series_uid, self.instance_uid or self.key)
        parts = ("fhir", *uids, result_uid_of_model(self.model.facts()), kind)
        return str(uuid.uuid5(ROOT, "\0".join(parts)))

    def common(self, resource: str, kind: str) -> dict[str, Any]:
        """The fields every resource begins with."""
        research = {
            "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
            "code": "HRESCH",
            "display": "healthcare research",
        }
        return {
            "resourceType": resource,
            "id": self.name(kind),
            "meta": {"security": [research]},
        }

    def images(self) -> list[dict[str, Any]]:
        """The imaging study by its UID; none for a PNG or JPEG file."""
        if not self.study_uid:
            return []
        identifier = {"system": "urn:dicom:uid", "value": f"urn:oid:{self.study_uid}"}
        return [{"type": "ImagingStudy", "identifier": identifier}]

    def device(self) -> dict[str, Any]:
        """The FHIR Device that describes the model."""
        return {
            **self.common("Device", "device"),
            "identifier": [{"system": f"{LOCAL}:model-hash", "value": self.model.model_hash}],
            "manufacturer": "pneumonia (research software)",
            "deviceName": [{"name": self.model.name, "type": "model-name"}],
            "type": {"text": "Object detection network for chest radiographs"},
            "version": [{"value": self.model.version}],
            "note": [{"text": DISCLAIMER}],
        }

    def observation(self, kind: str, code: str, display: str, score: float) -> dict[str, Any]:
        """An observation of the model with a score as its value."""
        made = {
            **self.common("Observation", kind),
            "status": "preliminary",
            "code": _finding(code, display),
            "bodySite": _coded(SNOMED, "39607008", "Lung structure"),
            "valueQuantity": _quantity(score, "1", "1"),
            "device": {"reference": f"urn:uuid:{self.name('device')}"},
        }
        if self.date:
            made["effectiveDateTime"] = self.date
        if self.study_uid:
            made["derivedFrom"] = self.images()
        return made


def _day(date: str) -> str:
    """`20200102` as `2020-01-02`; empty for an absent or invalid date."""
    try:
        found = datetime.strptime(date, "%Y%m%d")
    except ValueError:
        return ""
    return "" if date == NO_DATE else f"{found:%Y-%m-%d}"


def _coded(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _finding(code: str, display: str) -> dict[str, Any]:
    """What a score is about: the finding's standard code, and ours for the kind of score."""
    opacity = {"system": DICOM, "code": OPACITY.value, "display": OPACITY.meaning}
    local = {"system": LOCAL, "code": code, "display": display}
    return {"coding": [opacity, local], "text": display}


def _quantity(value: float, unit: str, code: str) -> dict[str, Any]:
    return {"value": round(value, 6), "unit": unit, "system": UCUM, "code": code}


def _interpretation(flag: str) -> dict[str, Any]:
    code, display = FLAG_CODES[flag]
    return _coded(INTERPRETATION, code, display)


def _references(names: list[str]) -> list[dict[str, Any]]:
    return [{"reference": f"urn:uuid:{name}"} for name in names]


def _whole_image(facts: _Facts, result: ImageResult, members: list[str]) -> dict[str, Any]:
    made = facts.observation(
        "whole", "IMAGE_SCORE", "Lung opacity score of the image", result.max_score
    )
    made["interpretation"] = [_interpretation(result.flag)]
    made["note"] = [{"text": line} for line in statements(facts.model.facts(), result.warnings)]
    if members:
        made["hasMember"] = _references(members)
    return made


def _region(facts: _Facts, finding: Finding, index: int) -> dict[str, Any]:
    made = facts.observation(
        f"region {index}", "REGION_SCORE", "Lung opacity score of a region", finding.score
    )
    edges = zip(("left", "top", "right", "bottom"), finding.box_xyxy, strict=True)
    parts = [(f"{edge.upper()}_PX", edge, _quantity(value, "pixel", "{pixel}"))
             for edge, value in edges]  # fmt: skip
    if finding.size_mm is not None:
        width, height = finding.size_mm
        parts += [
            ("WIDTH_MM", "width", _quantity(width, "mm", "mm")),
            ("HEIGHT_MM", "height", _quantity(height, "mm", "mm")),
        ]
    made["component"] = [
        {"code": _coded(LOCAL, code, f"{what} of the region"), "valueQuantity": value}
        for code, what, value in parts
    ]
    if facts.instance_uid:
        source = _coded(LOCAL, "SOURCE_INSTANCE", "image the pixels belong to")
        made["component"].append({"code": source, "valueString": f"urn:oid:{facts.instance_uid}"})
    return made


def _report(facts: _Facts, result: ImageResult, observations: list[str]) -> dict[str, Any]:
    lines = [result.sentence() + ".", *statements(facts.model.facts(), result.warnings)]
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    made = {
        **facts.common("DiagnosticReport", "report"),
        "text": {
            "status": "generated",
            "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>',
        },
        "status": "preliminary",
        "category": [_coded("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": _coded(LOINC, "30745-4", "XR Chest Views"),
        "result": _references(observations),
        "conclusion": f"{result.sentence()}. {DISCLAIMER}",
        "conclusionCode": [_interpretation(result.flag)],
    }
    if facts.date:
        made["effectiveDateTime"] = facts.date
    if facts.study_uid:
        made["imagingStudy"] = facts.images()
    return made
