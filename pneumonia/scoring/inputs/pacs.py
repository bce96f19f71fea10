"""Images of a PACS: C-FIND to find them, C-GET or C-MOVE to fetch them (DICOM PS3.4 C)."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.errors import ConfigError, DataError, OutputError, os_errors_as
from pneumonia.runtime.image.attributes import all_values, first_text
from pneumonia.runtime.image.decodable import decodable_syntaxes
from pneumonia.runtime.image.read_limits import DEFAULT_LIMITS
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.scoring.image.expected import AMBIGUOUS, STATUS_OF, WRONG_OBJECT
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.inputs import IsDone
from pneumonia.scoring.inputs.c_find import FindAssociation, query_identifier
from pneumonia.scoring.inputs.object_uids import object_uids
from pneumonia.scoring.inputs.query import (
    SERIES_ANSWER,
    STUDY_ANSWER,
    FoundStudies,
    Query,
    RemoteImage,
    fetched_entry,
    fetched_path,
    is_uid,
    was_fetched,
)
from pneumonia.scoring.network.dicom_peer import OWN_TITLE, Peer, association
from pneumonia.scoring.settings import ScoreSettings

GET, MOVE = "1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.2.2.2"
# SOP classes of radiographs: CR, DX (presentation, processing), secondary capture, multi-frame.
STORAGE = tuple(
    f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("1", "1.1", "1.1.1", "7", "7.2", "7.3")
)
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
NOT_REQUESTED = 0xA900  # PS3.4 C.4.2.1.5: "identifier does not match SOP class": not requested


@dataclass(frozen=True)
class PacsInput:
    """The images of some studies in a PACS."""

    peer: Peer  # the PACS
    wanted: Query  # query that selects the studies
    own_title: str = OWN_TITLE  # our AE title, as configured in the PACS
    # port on which objects sent by C-MOVE are received; None for C-GET
    move_port: int | None = None
    max_file_bytes: int = DEFAULT_LIMITS.max_file_bytes  # larger images are refused
    kind: str = "pacs"

    @property
    def endpoint(self) -> str:
        """Title and address of the PACS."""
        return str(self.peer)

    def check(self, out: Path) -> None:
        """Accept any output folder, since a PACS is never written to."""

    # --- find ---

    def query(self, settings: ScoreSettings) -> list[FoundFile]:
        """The instances of all studies that match, by their UIDs; and studies that do not match."""
        found = FoundStudies()
        with FindAssociation.open(self.peer, self.own_title) as pacs:
            for asked in self.wanted.study_queries():
                answers = pacs.find("STUDY", {**dict.fromkeys(STUDY_ANSWER, ""), **asked})
                found.add(asked, [_named(answer, STUDY_ANSWER) for answer in answers])
            return found.entries(lambda uid: self._images(pacs, uid, found), settings.rules)

    def _images(
        self, pacs: FindAssociation, study: str, found: FoundStudies
    ) -> Iterator[RemoteImage]:
        asked = ("SeriesInstanceUID", "Modality", "BodyPartExamined", "SeriesDescription")
        for series in pacs.find("SERIES", {"StudyInstanceUID": study, **dict.fromkeys(asked, "")}):
            uid = first_text(series, "SeriesInstanceUID")
            if not found.is_series_of(study, _named(series, SERIES_ANSWER)):
                continue
            known = {"StudyInstanceUID": study, "SeriesInstanceUID": uid}
            for instance in pacs.find("IMAGE", {**known, "SOPInstanceUID": ""}):
                name = first_text(instance, "SOPInstanceUID")
                is_other = any(
                    first_text(instance, keyword) not in ("", value)
                    for keyword, value in known.items()
                )
                if is_uid(name) and not is_other:
                    yield RemoteImage(
                        study,
                        uid,
                        name,
                        all_values(series, "Modality"),
                        all_values(series, "BodyPartExamined"),
                        first_text(series, "SeriesDescription"),
                        found.studies[study],
                    )

    # --- get or move ---

    def fetch(
        self, entries: list[FoundFile], folder: Path, is_done: IsDone, progress: Progress | None
    ) -> list[FoundFile]:
        """Fetch the entries that have no status yet and are not scored, series by series."""
        needed = [entry for entry in entries if not entry.status and not is_done(entry)]
        absent = [entry for entry in needed if not was_fetched(folder, entry)]
        answers: dict[str, str] = {}
        receiver = _Receiver(folder, absent, self.max_file_bytes, progress)
        if absent:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            answers = self._retrieve(absent, receiver)
        found = {
            entry.relative: receiver.refusal(entry)
            or fetched_entry(entry, folder, answers.get(_series_of(entry), ""))
            for entry in needed
        }
        return [found.get(entry.relative, entry) for entry in entries]

    def _retrieve(self, entries: list[FoundFile], receiver: "_Receiver") -> dict[str, str]:
        """Retrieve the series; only a full disk ends the batch.

        Returns:
            `study/series` -> how the retrieval ended, for the manifest.
        """
        retrieve = self._get if self.move_port is None else self._move
        series = groupby(entries, key=_series_of)
        answers = {}
        with retrieve(receiver) as ask:
            for name, _ in series:
                study, uid = name.split("/")
                asked = {"StudyInstanceUID": study, "SeriesInstanceUID": uid}
                receiver.series = name
                try:
                    answers[name] = ask(query_identifier("SERIES", asked))
                except DataError:
                    answers[name] = "no association"
                receiver.check()
        return answers

    @contextmanager
    def _get(self, receiver: "_Receiver") -> Iterator[Callable[[Dataset], str]]:
        from pynetdicom import build_context, build_role, evt

        contexts = [build_context(GET)]
        # one context per syntax: a context of several would force the PACS to convert
        syntaxes = decodable_syntaxes()
        contexts += [build_context(kind, [syntax]) for kind in STORAGE for syntax in syntaxes]
        roles = [build_role(kind, scp_role=True) for kind in STORAGE]
        handlers = [(evt.EVT_C_STORE, receiver.store)]

        def ask(identifier: Dataset) -> str:
            with association(self.peer, self.own_title, contexts, roles, handlers) as peer:
                return _ended_with(lambda: peer.send_c_get(identifier, GET))

        yield ask

    @contextmanager
    def _move(self, receiver: "_Receiver") -> Iterator[Callable[[Dataset], str]]:
        from pynetdicom import AE, build_context, evt

        listener = AE(self.own_title)
        listener.require_called_aet = True
        for kind in STORAGE:
            listener.add_supported_context(kind, decodable_syntaxes())
        with os_errors_as(ConfigError, "Port for C-MOVE cannot be opened", self.move_port):
            server = listener.start_server(
                ("", self.move_port), block=False, evt_handlers=[(evt.EVT_C_STORE, receiver.store)]
            )

        def ask(identifier: Dataset) -> str:
            with association(self.peer, self.own_title, [build_context(MOVE)]) as peer:
                return _ended_with(lambda: peer.send_c_move(identifier, self.own_title, MOVE))

        try:
            yield ask
        finally:
            server.shutdown()


class _Receiver:
    """Receives objects from a PACS: only requested ones, each as a whole file.

    Attributes:
        series: `study/series` that was requested last.
    """

    def __init__(
        self, folder: Path, wanted: list[FoundFile], max_bytes: int, progress: Progress | None
    ) -> None:
        self.series = ""
        self._paths = {entry.relative: fetched_path(folder, entry) for entry in wanted}
        self._left = set(self._paths)
        self._stored: dict[str, bytes] = {}  # relative -> SHA-256 of its data set
        self._total = len(self._left)
        self._max_bytes = max_bytes
        self._progress = progress
        self._refused: dict[str, tuple[str, str]] = {}  # relative -> status, reason
        self._error: OutputError | None = None

    def store(self, event: Any) -> int:
        """Store one object; returns a C-STORE status (PS3.4 B.2.3)."""
        asked = f"{self.series}/{event.request.AffectedSOPInstanceUID}.dcm"
        if len(event.request.DataSet.getbuffer()) > self._max_bytes:
            self._refuse(asked, ("rejected", "resource_limit"))
            return CANNOT_UNDERSTAND  # of this object: "out of resources" would end the retrieval
        data = event.encoded_dataset()
        uids = object_uids(data)
        name = asked if uids is None else "/".join(uids) + ".dcm"
        digest = hashlib.sha256(event.request.DataSet.getbuffer()).digest()
        if name != asked:  # the requested object may still come
            self._refuse(asked, (STATUS_OF[WRONG_OBJECT], WRONG_OBJECT))
        if name in self._stored:
            return self._compare_repeated(name, digest)
        if name not in self._left:
            return NOT_REQUESTED
        try:
            write_bytes(str(self._paths[name]), data)
        except OutputError as error:
            self._error = error
            return OUT_OF_RESOURCES
        self._left.discard(name)
        self._stored[name] = digest
        report_progress(self._progress, self._total - len(self._left), self._total, "fetch")
        return SUCCESS

    def _compare_repeated(self, name: str, digest: bytes) -> int:
        """Compare an object with one of the same UIDs that was stored; returns the status.

        Of two different objects, perhaps of two patients, either may be the requested one: both
        are refused.
        """
        if self._stored[name] == digest:
            return SUCCESS
        self._paths[name].unlink(missing_ok=True)
        self._left.add(name)
        self._refuse(name, (STATUS_OF[AMBIGUOUS], AMBIGUOUS))
        return NOT_REQUESTED

    def _refuse(self, relative: str, reason: tuple[str, str]) -> None:
        if relative in self._left:
            self._refused[relative] = reason

    def refusal(self, entry: FoundFile) -> FoundFile | None:
        """The entry with the reason for refusing what was sent; None if nothing was refused."""
        if entry.relative not in self._left or entry.relative not in self._refused:
            return None
        status, reason = self._refused[entry.relative]
        return replace(entry, status=status, reason=reason)

    def check(self) -> None:
        """Raise the error that occurred in the storing thread."""
        if self._error is not None:
            raise self._error


def _series_of(entry: FoundFile) -> str:
    """`study/series` of an entry."""
    return entry.relative.rsplit("/", 1)[0]


def _named(answer: Dataset, keywords: Sequence[str]) -> Mapping[str, str]:
    """First values of attributes in an answer, by keyword."""
    return {keyword: first_text(answer, keyword) for keyword in keywords}


def _ended_with(ask: Callable[[], Iterable[tuple[Dataset, Dataset | None]]]) -> str:
    """Wait until a retrieval ends; its last status (PS3.4 C.4.3), such as `status 0xA702`."""
    code = None
    try:
        for status, _ in ask():
            code = status.get("Status") if status else None
    except ValueError:  # no accepted presentation context
        return "the PACS does not offer the retrieval"
    except RuntimeError:
        code = None
    return "the connection broke off" if code is None else f"status 0x{code:04X}"
