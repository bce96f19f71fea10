"""The C-STORE service: status Success is sent once the image is in spool and journal."""

import contextlib
import logging
import math
import socket
import ssl
import threading
import time
from socketserver import BaseServer
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.config import allowed
from deploy_jetson.device.daemon.interfaces.association_limits import bounded
from deploy_jetson.device.daemon.interfaces.store_request import (
    CANNOT_UNDERSTAND,
    NO_RESOURCES,
    NOT_AUTHORIZED,
    PROCESSING_FAILURE,
    SUCCESS,
    OverlongDataSet,
    StoreRefused,
    request_blocks,
)
from deploy_jetson.device.daemon.settings import DicomSettings
from deploy_jetson.device.daemon.store.intake import AcceptedImage, IntakeRefused
from pneumonia.runtime.commitment import PUSH_MODEL, CommitmentReports
from pneumonia.runtime.image.decodable import decodable_syntaxes

try:
    from pynetdicom import AllStoragePresentationContexts as StorageContexts
except ImportError:  # all that pynetdicom has before 2.0
    from pynetdicom import StoragePresentationContexts as StorageContexts

VERIFICATION = "1.2.840.10008.1.1"
# (source, diagnostic) of an A-ASSOCIATE-RJ -> reason (PS3.8 table 9-21)
REJECTIONS = {(1, 3): "calling_aet", (1, 7): "called_aet", (3, 2): "too_many_connections"}
POLL_S = 0.1
GRACE_S = 1.0  # pynetdicom has the same limit and aborts the association
STOP_S = 5.0
ENDLESS = 16  # times the largest image: a data set that is longer ends the association
MAX_IDLE = 16  # connections without an association, and TLS handshakes
LOCAL_LIMIT = (0x02, 0x03, 0x02)  # A-ASSOCIATE-RJ: transient, local limit exceeded
OVERHEAD_BYTES = 1 << 20  # protocol overhead of an image
MAX_PDU = 65536
HANDSHAKE_S = 10.0


class _Listener(ThreadedAssociationServer):  # type: ignore[misc]
    """pynetdicom's server with an allow-list, and TLS handshakes out of the accepting thread."""

    networks: Tuple[str, ...] = ()
    tls: Optional[ssl.SSLContext] = None
    handshakes: List[Any] = []  # noqa: RUF012 - set for each server
    daemon_threads = True
    several_times_a_second: Callable[[], None] = staticmethod(lambda: None)
    refused: Callable[[str], None] = staticmethod(lambda reason: None)

    def service_actions(self) -> None:
        super().service_actions()
        self.several_times_a_second()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        is_allowed = allowed(str(client_address[0]), self.networks)
        if not is_allowed:
            self.refused("address")
        return is_allowed

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            try:
                request = self._secured(request)
            except (OSError, ValueError):
                self.refused("tls")
                request.close()
                return
        super().process_request_thread(request, client_address)

    def _secured(self, request: Any) -> Any:
        """The connection after the handshake; of too many handshakes the oldest is ended."""
        assert self.tls is not None
        request.settimeout(HANDSHAKE_S)
        link = self.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        self.handshakes.append(link)
        try:
            if len(self.handshakes) > MAX_IDLE:
                self.refused("too_many_connections")
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self.handshakes[0], socket.SHUT_RDWR)
            link.do_handshake()
        except (OSError, ValueError):
            link.close()
            raise
        finally:
            self.handshakes.remove(link)
        link.settimeout(None)
        return link


class StoreService:
    """Listens for C-ECHO and C-STORE.

    Args:
        reports: Get the reports of storage commitment about results that were sent.

    Raises:
        OSError: The address is taken.
    """

    def __init__(
        self,
        settings: DicomSettings,
        context: Optional[ssl.SSLContext],
        max_bytes: int,
        accept: Callable[[Iterator[bytes]], AcceptedImage],
        refused: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        reports: Optional[CommitmentReports] = None,
    ) -> None:
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs identifiers
        self._settings = settings
        self._max_bytes = max_bytes
        self._accept = accept
        self._refused = refused
        self._clock = clock
        self._received: Dict[Any, int] = {}
        self._heard: Dict[Any, float] = {}  # association -> time of its last complete PDU
        self._lock = threading.Lock()
        entity = AE(ae_title=settings.aet)
        syntaxes = decodable_syntaxes()
        for offered in StorageContexts:
            entity.add_supported_context(offered.abstract_syntax, syntaxes)
        entity.add_supported_context(VERIFICATION)
        entity.require_called_aet = True
        entity.require_calling_aet = list(settings.allow_aets)
        entity.maximum_associations = 10 * (settings.max_associations + MAX_IDLE)  # see _admit
        entity.maximum_pdu_size = MAX_PDU
        entity.acse_timeout = settings.timeout_s
        entity.dimse_timeout = settings.timeout_s
        entity.network_timeout = settings.timeout_s
        handlers: List[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_CONN_OPEN, self._greet),
            (evt.EVT_REQUESTED, self._admit),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_CONN_CLOSE, self._forget),
            (evt.EVT_PDU_SENT, self._count_rejection),
        ]
        if reports is not None:
            # the peer opens the association, but stays the provider of the service
            entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
            handlers.append((evt.EVT_N_EVENT_REPORT, reports.take))
        self._entity = entity
        self._server = _Listener(
            entity, (settings.host, settings.port), _title(settings.aet),
            entity.supported_contexts, evt_handlers=handlers,
        )  # fmt: skip
        self._server.networks = settings.allow
        self._server.tls = context
        self._server.handshakes = []
        self._server.several_times_a_second = self._cut_late
        self._server.refused = refused
        self.port = int(self._server.server_address[1])
        if self.port == 0:
            self.port = int(self._server.socket.getsockname()[1])

    @property
    def connections(self) -> int:
        """Associations and connections that are open now."""
        return len(self._heard)

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="dicom", daemon=True
        ).start()

    def stop(self) -> None:
        """Accept no further associations and close the open ones."""
        BaseServer.shutdown(self._server)  # pynetdicom's method requires a server it created
        self._server.server_close()
        with self._lock:
            waiting = list(self._heard)
        for association in waiting:
            _hang_up(association)
        end = time.monotonic() + STOP_S
        for association in waiting:
            association.join(max(0.0, end - time.monotonic()))

    def _greet(self, event: Any) -> None:
        """Bound what a new connection may announce, and how many have no association.

        Those that came first are closed when there are too many.
        """
        link = event.assoc.dul.socket
        link.recv = bounded(link, lambda: self._refused("protocol_limit"))
        with self._lock:
            idle = [one for one in self._heard if not one.is_established]
            excess = idle[: len(idle) - MAX_IDLE + 1] if len(idle) >= MAX_IDLE else []
            for one in excess:
                del self._heard[one]
            self._heard[event.assoc] = self._clock()
        for one in excess:
            self._refused("too_many_connections")
            _hang_up(one)

    def _admit(self, event: Any) -> None:
        """Reject an association beyond the limit; pynetdicom would count idle connections too."""
        with self._lock:
            n_established = sum(one.is_established for one in self._heard)
        if n_established >= self._settings.max_associations:
            event.assoc.acse.send_reject(*LOCAL_LIMIT)
            event.assoc.kill()  # as pynetdicom does: the answer is sent before the end

    def _mark_heard(self, association: Any, moment: float) -> None:
        """Set when a connection was heard last; not of one that has been closed meanwhile."""
        if association in self._heard:
            self._heard[association] = moment

    def _cut_late(self) -> None:
        """Close associations whose PDU stays incomplete: pynetdicom has no timeout for it."""
        late = self._clock() - self._settings.timeout_s - GRACE_S
        with self._lock:
            found = [association for association, heard in self._heard.items() if heard < late]
            for association in found:
                self._heard[association] = math.inf  # cut once
        for association in found:
            self._refused("timeout")
            _hang_up(association)

    def _count_rejection(self, event: Any) -> None:
        if type(event.pdu).__name__ == "A_ASSOCIATE_RJ":
            cause = (event.pdu.source, event.pdu.reason_diagnostic)
            self._refused(REJECTIONS.get(cause, "rejected"))

    def _store(self, event: Any) -> int:
        with self._lock:
            self._received.pop(event.assoc, None)
            self._mark_heard(event.assoc, math.inf)  # the peer waits for this side
        try:
            return self._take(event)
        finally:
            with self._lock:
                self._mark_heard(event.assoc, self._clock())

    def _take(self, event: Any) -> int:
        try:
            if not allowed(str(event.assoc.requestor.address), self._settings.allow):
                raise StoreRefused(NOT_AUTHORIZED, "address")
            self._accept(request_blocks(event.request, event.context))
        except StoreRefused as refused:
            self._refused(refused.reason)
            logs.warning("refused", reason=refused.reason, source="dicom")
            return refused.status
        except IntakeRefused as refused:
            return NO_RESOURCES if refused.later else CANNOT_UNDERSTAND
        except Exception:
            logs.broken("dicom_internal_error")
            return PROCESSING_FAILURE
        return SUCCESS

    def _count(self, event: Any) -> None:
        """Keep no more of a data set than an image may have, since it is held in memory.

        The rest is received and dropped, so that the peer gets an answer and can go on; a data set
        without end closes the association.
        """
        with self._lock:
            if event.assoc not in self._heard:
                return  # closed meanwhile
            size = self._received.get(event.assoc, 0) + len(event.data)
            self._received[event.assoc] = size
            self._mark_heard(event.assoc, self._clock())
        limit = self._max_bytes + OVERHEAD_BYTES
        if size <= limit:
            return
        message = event.assoc.dimse.message
        if size > ENDLESS * limit or message is None:
            self._refused("too_large")
            logs.warning("refused", reason="too_large", source="dicom")
            _hang_up(event.assoc)
        elif not isinstance(message.data_set, OverlongDataSet):
            message.data_set = OverlongDataSet(b"\0")

    def _forget(self, event: Any) -> None:
        if not event.assoc.is_established:
            # or its thread would wait for a request, and take a place, until `acse_timeout`
            event.assoc.dul.to_user_queue.put(None)
        with self._lock:
            self._received.pop(event.assoc, None)
            self._heard.pop(event.assoc, None)


def _hang_up(association: Any) -> None:
    """Close the connection under an association; its threads end by themselves."""
    with contextlib.suppress(OSError, AttributeError):
        association.dul.socket.socket.shutdown(socket.SHUT_RDWR)


def _title(aet: str) -> Any:
    """An AE title as the installed pynetdicom keeps it: 16 bytes before 2.0, text since."""
    return AE(ae_title=aet).ae_title
