"""Answers to an image: a JSON document, and DICOM objects in its study."""

import contextlib
import json
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import pydicom
from pydicom.dataset import Dataset

from deploy_jetson.device.daemon.store.journal import (
    ANSWERED,
    FAILED,
    QUARANTINED,
    REJECTED,
    DaemonJob,
)
from deploy_jetson.device.daemon.store.spool import UID, ImageSpool
from pneumonia import __version__
from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.child import DecodedFile
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.image.attributes import OBJECT_UIDS
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import (
    KIND_OF,
    ObjectCreation,
    ResultFacts,
    build_results,
    header_from_bytes,
    result_of,
)
from pneumonia.runtime.results.files import write_dicom

SCHEMA = "pneumonia.daemon-result/1"
SET_ASIDE = (REJECTED, FAILED, QUARANTINED)
MAX_ANSWER_BYTES = 4 << 20


class JobAnswer(NamedTuple):
    """Outcome of an image."""

    state: str  # one of journal.ANSWERED
    reason: str = ""  # machine-readable, empty when done
    decoded: Optional[DecodedFile] = None  # the image, None when it was not opened
    prediction: Optional[Prediction] = None  # boxes in its pixels, None unless done
    warnings: Tuple[str, ...] = ()  # codes of conditions that did not prevent a result
    engine: str = ""  # engine that ran, empty unless done
    inference_s: float = 0.0  # time from pixels to boxes


def _findings(answer: JobAnswer, facts: ResultFacts) -> Dict[str, Any]:
    decoded, prediction = answer.decoded, answer.prediction
    assert decoded is not None
    assert prediction is not None
    spacing = decoded.info.get("spacing_mm")
    result = result_of(prediction, facts.threshold, spacing, answer.warnings)
    boxes: List[Dict[str, Any]] = []
    for finding in result.findings:
        box = {"box_xyxy": [round(edge, 3) for edge in finding.box_xyxy]}
        made: Dict[str, Any] = dict(box, score=round(finding.score, 6))
        if finding.size_mm is not None:
            made["size_mm"] = [round(side, 2) for side in finding.size_mm]
        boxes.append(made)
    return {
        "flag": result.flag,
        "statement": result.sentence(),
        "max_score": round(result.max_score, 6),
        "findings": boxes,
    }


def document(job: DaemonJob, answer: JobAnswer, facts: ResultFacts) -> Dict[str, Any]:
    """The JSON answer; docs/reference/daemon-config.md explains it.

    It names the image by UID, where it has one, and nothing else of the patient.
    """
    made: Dict[str, Any] = {}
    made["schema"] = SCHEMA
    made["disclaimer"] = DISCLAIMER
    made["job"] = job.key
    made["status"] = answer.state
    made["reason"] = answer.reason
    source = {"sha256": job.sha256, "bytes": job.bytes, "via": job.source}
    made["source"] = source
    if answer.decoded is not None:
        source.update(_uids(answer.decoded.identity))
        if answer.decoded.content_sha256:
            source["content_sha256"] = answer.decoded.content_sha256
    if answer.prediction is not None:
        source["width"], source["height"] = answer.prediction.width, answer.prediction.height
        made.update(_findings(answer, facts))
    made["warnings"] = list(answer.warnings)
    made["model"] = {
        "name": facts.model_name,
        "version": facts.model_version,
        "hash": facts.model_hash,
        "operating_point": facts.threshold_name,
        "threshold": facts.threshold,
    }
    made["engine"] = answer.engine
    made["software"] = __version__
    made["attempt"] = job.attempts
    made["received_at"] = moment(job.received_at)
    made["answered_at"] = moment(time.time())
    decode_s = answer.decoded.seconds if answer.decoded is not None else 0.0
    made["decode_ms"] = round(1e3 * decode_s, 3)
    made["inference_ms"] = round(1e3 * answer.inference_s, 3)
    return made


def _uids(identity: Dict[str, str]) -> Dict[str, str]:
    """The study, series and instance UID as far as they are UIDs; other text may name a patient."""
    return {name: identity[name] for name in OBJECT_UIDS if UID.match(identity.get(name, ""))}


def moment(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def dicom_results(
    spool: ImageSpool, job: DaemonJob, answer: JobAnswer, facts: ResultFacts, kinds: Sequence[str]
) -> List[str]:
    """Write the DICOM results of a scored image.

    Returns:
        The kinds that were made: none for pictures and for headers that cannot be taken over.

    Raises:
        OutputError: The disk is full or broken.
    """
    decoded, prediction = answer.decoded, answer.prediction
    if not kinds or decoded is None or prediction is None or not decoded.header:
        return []
    if not decoded.info.get("has_instance_uid") or decoded.pixels is None:
        return []
    wanted = [KIND_OF[kind] for kind in kinds]
    source = header_from_bytes(decoded.header)
    paths = {KIND_OF[kind]: spool.dicom(job.key, kind) for kind in kinds}
    creation = ObjectCreation(None, decoded.content_sha256, earlier_results(paths))
    built = build_results(
        source, decoded.pixels, prediction, facts, wanted, answer.warnings, creation
    )
    for kind in kinds:
        write_dicom(spool.dicom(job.key, kind), built[KIND_OF[kind]])
    return list(kinds)


def earlier_results(paths: Dict[str, str]) -> Dict[str, Dataset]:
    """Results that exist from an interrupted attempt; made again, they keep their time of creation.

    Args:
        paths: Kind -> file.
    """
    found: Dict[str, Dataset] = {}
    for kind, path in paths.items():
        with contextlib.suppress(Exception):  # absent, or not whole
            found[kind] = pydicom.dcmread(path, stop_before_pixels=True)
    return found


def write_answer(spool: ImageSpool, job: DaemonJob, made: Dict[str, Any]) -> None:
    """Write the JSON answer, the last of all files: its presence says that all others are written.

    Raises:
        OutputError: The disk is full or broken.
    """
    write_bytes(spool.result(job.key), answer_bytes(made))


def answer_bytes(made: Dict[str, Any]) -> bytes:
    """The JSON answer as text."""
    return (json.dumps(made, indent=1, allow_nan=False) + "\n").encode("ascii")


def read_answer(spool: ImageSpool, key: str) -> Optional[Dict[str, Any]]:
    """The JSON answer of a job, None when there is none or it is not whole."""
    try:
        with open(spool.result(key), "rb") as stream:
            made = json.loads(stream.read(MAX_ANSWER_BYTES).decode("ascii"))
    except (OSError, ValueError):
        return None
    whole = isinstance(made, dict) and made.get("schema") == SCHEMA and made.get("job") == key
    whole = whole and isinstance(made.get("dicom"), list) and "reason" in made
    return made if whole and made.get("status") in ANSWERED else None
