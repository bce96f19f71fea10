"""C-FIND at study root: all answers to a query, or an error (DICOM PS3.4 C.4.1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.dataset import Dataset

from pneumonia.runtime.errors import DataError
from pneumonia.scoring.network.dicom_peer import Peer, association

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PENDING, SUCCESS = (0xFF00, 0xFF01), 0x0000
ATTEMPTS = 3


def query_identifier(level: str, attributes: dict[str, str]) -> Dataset:
    """The identifier of a C-FIND, C-GET or C-MOVE request.

    Args:
        level: STUDY, SERIES or IMAGE.
        attributes: Matching keys, and return keys with empty values.
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in attributes.items():
        setattr(identifier, keyword, value)
    return identifier


class FindAssociation:
    """Queries of a PACS over one association; made by `open`.

    On a busy machine pynetdicom (3.0) can lose a response between its threads: a study would be
    missing without an error. The responses that arrive are therefore counted.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._association: Any = None
        self._n_arrived = 0

    @classmethod
    @contextmanager
    def open(cls, peer: Peer, own_title: str) -> Iterator["FindAssociation"]:
        """Open an association; it is released at the end.

        Raises:
            DataError: The PACS is not reached, or refuses.
        """
        from pynetdicom import build_context, evt

        found = cls(peer)
        handlers = [(evt.EVT_DIMSE_RECV, found._count)]
        with association(peer, own_title, [build_context(FIND)], handlers=handlers) as opened:
            found._association = opened
            yield found

    def find(self, level: str, asked: dict[str, str]) -> list[Dataset]:
        """All answers to a query.

        Args:
            level, asked: As `query_identifier`.

        Raises:
            DataError: The PACS does not answer, or answers are lost.
        """
        identifier = query_identifier(level, asked)
        for _ in range(ATTEMPTS):
            self._n_arrived = 0
            answers, n_responses = self._ask(identifier)
            if n_responses == self._n_arrived:
                return answers
        raise self._no_answer("responses are lost on this machine")

    def _ask(self, identifier: Dataset) -> tuple[list[Dataset], int]:
        """The answers to a query, and the number of responses including the final one."""
        found, n_responses = [], 0
        try:
            for status, answer in self._association.send_c_find(identifier, FIND):
                n_responses += 1
                code = status.get("Status") if status else None
                if code in PENDING and answer is not None:
                    found.append(answer)
                elif code != SUCCESS:
                    raise self._no_answer("no answer" if code is None else f"status 0x{code:04X}")
        except ValueError:  # no accepted presentation context
            raise self._no_answer("does not offer C-FIND at study root") from None
        except RuntimeError:
            raise self._no_answer("the association ended") from None
        return found, n_responses

    def _count(self, event: Any) -> None:
        self._n_arrived += type(event.message).__name__ == "C_FIND_RSP"

    def _no_answer(self, found: str) -> DataError:
        return DataError("PACS does not answer the query", found=found, where=str(self._peer))
