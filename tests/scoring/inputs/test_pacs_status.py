"""A PACS in this process that refuses C-GET: the manifest says with which status.

Spans: pneumonia.scoring.inputs.c_find, pneumonia.scoring.inputs.pacs.
"""

import json

import pytest
from pydicom.dataset import Dataset

from pneumonia.scoring.batch.run import score_batch
from pneumonia.scoring.inputs.c_find import FIND
from pneumonia.scoring.inputs.pacs import GET, PacsInput
from pneumonia.scoring.inputs.query import Query
from pneumonia.scoring.network.dicom_peer import Peer
from tests.runtime.dicoms import SERIES

PENDING, REFUSED = 0xFF00, 0xA702  # "unable to perform sub-operations" (PS3.4 C.4.3.1.4)
SERIES_OF = {"1": ("DX", "PA"), "2": ("SR", "RESEARCH ONLY: yolov3"), "3": ("SR", "Report")}


def find(event):
    """One study with a radiograph, a result of ours and a report."""
    level = event.identifier.QueryRetrieveLevel
    numbers = ["1"] if level != "SERIES" else list(SERIES_OF)
    for number in numbers:
        answer = Dataset()
        answer.QueryRetrieveLevel = level
        answer.StudyInstanceUID = SERIES
        if level == "SERIES":
            answer.SeriesInstanceUID = f"{SERIES}.{number}"
            answer.Modality, answer.SeriesDescription = SERIES_OF[number]
        if level == "IMAGE":
            answer.SOPInstanceUID = f"{event.identifier.SeriesInstanceUID}.1"
        yield PENDING, answer


def get(event):
    yield 1
    yield REFUSED, None


@pytest.fixture
def port():
    pynetdicom = pytest.importorskip("pynetdicom")
    entity = pynetdicom.AE("REFUSER")
    entity.add_supported_context(FIND)
    entity.add_supported_context(GET)
    handlers = [(pynetdicom.evt.EVT_C_FIND, find), (pynetdicom.evt.EVT_C_GET, get)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    yield server.socket.getsockname()[1]
    server.shutdown()


def test_the_status_of_a_refused_retrieval_is_in_the_manifest(port, detector, tmp_path):
    source = PacsInput(Peer("REFUSER", "127.0.0.1", port), Query(studies=(SERIES,)))
    score_batch(source, tmp_path / "out", detector)
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").open()]
    found = {line["path"].split("/")[1][-1]: (line["status"], line["reason"]) for line in lines}
    assert found == {
        "1": ("failed", "not_retrieved"),
        "2": ("skipped", "own_result"),
        "3": ("skipped", "not_an_image"),
    }
    assert [line["detail"] for line in lines if "detail" in line] == ["status 0xA702"]
