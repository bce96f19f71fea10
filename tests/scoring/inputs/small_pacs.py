"""A PACS in this process: C-FIND, C-GET and C-MOVE over a list of data sets, with its faults."""

from contextlib import contextmanager

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt

from pneumonia.scoring.inputs.c_find import FIND
from pneumonia.scoring.inputs.pacs import GET, MOVE, STORAGE
from pneumonia.scoring.network.dicom_peer import Peer

PENDING = 0xFF00
RETURNED = {
    "STUDY": ("StudyInstanceUID", "AccessionNumber", "StudyDate", "PatientID", "PatientName"),
    "SERIES": ("StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}


class SmallPacs:
    """Holds data sets and answers queries as a PACS does.

    Attributes:
        held: The data sets.
        ignored: Matching keys that it ignores, at every level.
        unnamed: Attributes that its answers leave out.
        sends: Given the matching data sets, those that a retrieval sends.
        codes: C-STORE statuses that it got.
    """

    def __init__(self, held):
        for dataset in held:
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        self.held = held
        self.ignored = ()
        self.unnamed = ()
        self.sends = lambda found: found
        self.codes = []
        self.mover = None

    def matching(self, identifier):
        asked = {
            element.keyword: str(element.value)
            for element in identifier
            if element.value and element.keyword not in ("QueryRetrieveLevel", *self.ignored)
        }
        return [
            held for held in self.held
            if all(str(held.get(keyword, "")) == value for keyword, value in asked.items())
        ]  # fmt: skip

    def find(self, event):
        level = event.identifier.QueryRetrieveLevel
        seen = set()
        for held in self.matching(event.identifier):
            answer = Dataset()
            answer.QueryRetrieveLevel = level
            for keyword in RETURNED[level]:
                if keyword not in self.unnamed and keyword in event.identifier:
                    setattr(answer, keyword, held.get(keyword, ""))
            if answer.to_json() not in seen:
                seen.add(answer.to_json())
                yield PENDING, answer

    def get(self, event):
        found = self.sends(self.matching(event.identifier))
        yield len(found)
        for held in found:
            yield PENDING, held

    def move(self, event):
        yield self.mover
        yield from self.get(event)

    def note(self, event):
        if event.message.__class__.__name__ == "C_STORE_RSP":
            self.codes.append(event.message.command_set.Status)


@contextmanager
def serving(pacs):
    """Yields its Peer."""
    entity = AE("SMALL")
    for kind in (FIND, GET, MOVE):
        entity.add_supported_context(kind)
    for kind in STORAGE:
        entity.add_supported_context(kind, scu_role=True, scp_role=True)
        entity.add_requested_context(kind)
    handlers = [
        (evt.EVT_C_FIND, pacs.find), (evt.EVT_C_GET, pacs.get), (evt.EVT_C_MOVE, pacs.move),
        (evt.EVT_DIMSE_RECV, pacs.note),
    ]  # fmt: skip
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield Peer("SMALL", "127.0.0.1", server.socket.getsockname()[1])
    finally:
        server.shutdown()
