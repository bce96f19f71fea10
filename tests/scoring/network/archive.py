"""An archive for tests: stores, and commits to what it stored or reports it as missing."""

import threading
import time
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt

from pneumonia.runtime.commitment import PUSH_MODEL
from pneumonia.scoring.network.dicom_peer import Peer

CLASSES = tuple("1.2.840.10008.5.1.4.1.1." + end for end in ("88.33", "11.1", "7"))


class Archive:
    """Stores, and reports commitments: on the association of the request, or on its own.

    Attributes:
        lost: SOP Instance UIDs that it reports as missing.
        own_port: Port to report to, in an association of its own; None for the same association.
        answer: Status of the request.
    """

    def __init__(self):
        self.lost = set()
        self.own_port = None
        self.answer = 0x0000
        self.is_silent = False
        self.is_offered = True
        self.waits_for_end = False
        self.requests = 0
        self.stored = []
        self.transaction = None

    def store(self, event):
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    def act(self, event):
        self.requests += 1
        if self.answer == 0 and not self.is_silent:
            threading.Thread(
                target=self.report, args=(event.assoc, event.action_information)
            ).start()
        return self.answer, None

    def report(self, association, asked):
        made = Dataset()
        made.TransactionUID = self.transaction or asked.TransactionUID
        kept, lost = [], []
        for item in asked.ReferencedSOPSequence:
            if item.ReferencedSOPInstanceUID in self.lost:
                item.FailureReason = 0x0112
                lost.append(item)
            else:
                kept.append(item)
        made.ReferencedSOPSequence = kept
        if lost:
            made.FailedSOPSequence = lost
        kind = 2 if lost else 1
        time.sleep(0.05)  # the request is answered first
        while self.waits_for_end and association.is_established:
            time.sleep(0.01)
        if self.own_port is None:
            association.send_n_event_report(made, kind, PUSH_MODEL, "1.2.840.10008.1.20.1.1")
            return
        entity = AE("PACS")
        entity.add_requested_context(PUSH_MODEL)
        opened = entity.associate(
            "127.0.0.1", self.own_port, ae_title="PNEUMONIA",
            ext_neg=[build_role(PUSH_MODEL, scp_role=True)],
        )  # fmt: skip
        opened.send_n_event_report(made, kind, PUSH_MODEL, "1.2.840.10008.1.20.1.1")
        opened.release()


@contextmanager
def archive(**changed):
    made = Archive()
    for name, value in changed.items():
        setattr(made, name, value)
    entity = AE("PACS")
    for kind in CLASSES:
        entity.add_supported_context(kind)
    if made.is_offered:
        entity.add_supported_context(PUSH_MODEL)
    handlers = [
        (evt.EVT_C_STORE, lambda event: made.store(event)),  # noqa: PLW0108 - tests replace it
        (evt.EVT_N_ACTION, made.act),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield made, Peer("PACS", "127.0.0.1", server.socket.getsockname()[1])
    finally:
        server.shutdown()
