"""Objects to a PACS by C-STORE (DICOM PS3.4 B)."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydicom.filereader import read_file_meta_info

from pneumonia.runtime.errors import DataError
from pneumonia.runtime.results import SOP_CLASSES, SYNTAXES
from pneumonia.scoring.network.delivery import NOT_SENT, REFUSED, Delivery, status_of
from pneumonia.scoring.network.dicom_peer import Peer, association

REJECTIONS = {  # PS3.8 table 9-18
    1: "rejected by the user",
    2: "rejected without a reason",
    3: "abstract syntax not supported",
    4: "transfer syntaxes not supported",
}


class StoreSender:
    """Keeps one association open and opens another when it breaks."""

    def __init__(self, peer: Peer, own_title: str) -> None:
        self._peer = peer
        self._own_title = own_title
        self._stack = ExitStack()
        self._open: Any = None

    def close(self) -> None:
        """Release the association."""
        self._open = None
        self._stack.close()

    def attempt(self, path: Path) -> Delivery:
        """Send one object."""
        try:
            if self._open is None or not self._open.is_established:
                self._stack.close()
                self._open = self._stack.enter_context(self._associate())
            status = self._open.send_c_store(path)
        except ValueError:  # the peer accepted no presentation context for this class
            return Delivery(REFUSED, None, self._rejection(path))
        except DataError:
            return Delivery(NOT_SENT, None, "no association")
        except (RuntimeError, OSError):
            return Delivery(NOT_SENT, None, "the association broke")
        code = status.get("Status")
        if code is None:
            return Delivery(NOT_SENT, None, "no answer")
        return Delivery(status_of(code), int(code))

    def _associate(self) -> Any:
        from pynetdicom import build_context

        contexts = [build_context(kind, SYNTAXES) for kind in SOP_CLASSES.values()]
        return association(self._peer, self._own_title, contexts)

    def _rejection(self, path: Path) -> str:
        """The peer's reason for not accepting a presentation context for this object."""
        kind = read_file_meta_info(path).MediaStorageSOPClassUID
        for context in self._open.rejected_contexts:
            if context.abstract_syntax == kind:
                reason = REJECTIONS.get(context.result, "rejected")
                return f"presentation context: {reason}"
        return "no presentation context"
