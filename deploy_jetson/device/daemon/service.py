"""The daemon put together: start, run, stop."""

import signal
import ssl
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.config import DaemonConfigError
from deploy_jetson.device.daemon.health.clock import DAY_S, WRITTEN_S, ClockCheck
from deploy_jetson.device.daemon.health.metrics import DaemonMetrics
from deploy_jetson.device.daemon.health.notify import SystemdNotifier
from deploy_jetson.device.daemon.health.power_rails import PowerMonitor
from deploy_jetson.device.daemon.health.thermal import CRITICAL, ThermalGovernor
from deploy_jetson.device.daemon.interfaces.rest import RestBackend, rest_server
from deploy_jetson.device.daemon.interfaces.rest_queries import RestQueries
from deploy_jetson.device.daemon.interfaces.watch_folder import FolderWatcher
from deploy_jetson.device.daemon.preflight import check_dicom_networking, check_secrets, read_token
from deploy_jetson.device.daemon.settings import DaemonSettings
from deploy_jetson.device.daemon.store.intake import MEGABYTE, AcceptedImage, ImageIntake
from deploy_jetson.device.daemon.store.job_store import JobStore
from deploy_jetson.device.daemon.store.spool import ImageSpool
from deploy_jetson.device.daemon.work.model import ServedModel
from deploy_jetson.device.daemon.work.recovery import open_journal, recover
from deploy_jetson.device.daemon.work.worker import JobWorker
from deploy_jetson.device.exit_codes import INTERRUPTED
from pneumonia.runtime.child import ChildLimits, DecodingChild, Wanted
from pneumonia.runtime.connections import address_text, server_context
from pneumonia.runtime.errors import ConfigError, DeviceError, OutputError
from pneumonia.runtime.image.read_limits import ReadLimits
from pneumonia.runtime.image.selection import WORDS_AGAINST, WORDS_WANTED

STALE_S = 90.0  # longer than a cold start of the decoding child
FORGET_EVERY_S = 60.0
REFERENCE = "reference"  # NumPy: for machines that have nothing else, and seconds for an image

COUNTERS = (
    ("received_total", "Images taken into the spool, by source."),
    ("duplicates_total", "Images that were known already, by source."),
    ("refused_total", "Images, requests and connections refused, by reason and source."),
    ("images_total", "Images answered, by status and reason."),
    ("deliveries_total", "Objects sent, by state and destination."),
    ("journal_rebuilt_total", "Damaged journals moved aside at this start."),
    ("clock_jumps_total", "Jumps of the clock by more than a day."),
)
Part = Any  # an interface with start() and stop()


class DaemonService:
    """All parts of one daemon.

    Raises:
        PneumoniaError: A file, port or folder is missing, damaged or in use.
    """

    def __init__(
        self,
        config: DaemonSettings,
        notifier: Optional[SystemdNotifier] = None,
        load_model: Optional[Callable[[DaemonSettings], ServedModel]] = None,
        make_decoder: Optional[
            Callable[[DaemonSettings, Callable[[], None]], DecodingChild]
        ] = None,
    ) -> None:
        self.config = config
        self.metrics = DaemonMetrics()
        for name, text in COUNTERS:
            self.metrics.describe(name, "counter", text)
        self.metrics.describe("decode_seconds", "histogram", "Reading an image, in the child.")
        self.metrics.describe("inference_seconds", "histogram", "From pixels to boxes.")
        self._notifier = notifier or SystemdNotifier(None, None)
        self._stop = threading.Event()
        self._next_forget_s = 0.0  # monotonic
        self.clock = ClockCheck()
        self.spool = ImageSpool(config.daemon.state)
        self.model = (load_model or load_configured)(config)
        self.journal, self._rebuild = open_journal(self.spool)
        self.decoder = (make_decoder or make_child)(config, self._beat)
        store = JobStore(config, self.spool, self.journal, self.metrics)
        self.worker = JobWorker(store, self.model, self.decoder, self._notifier.send_watchdog)
        self.intake = ImageIntake(store, self.model.facts.model_hash, self.worker.wake)
        self.governor = ThermalGovernor(config.thermal)
        self.monitor = PowerMonitor()
        self.parts: List[Part] = []
        self.interfaces: Dict[str, Part] = {}  # those that listen, by name
        self.ports: Dict[str, int] = {}  # interface -> port that is listened on
        self._gauges()

    # --- start and stop ---

    def start(self) -> None:
        """Recover, start the decoding child and the interfaces, and say READY.

        Raises:
            PneumoniaError: The child does not start, a port is taken, the disk is full.
        """
        if self._rebuild:
            self.metrics.count("journal_rebuilt_total")
        recover(self.spool, self.journal, self.intake, self.worker, self._rebuild)
        try:
            self.decoder.start()
        except OSError:
            raise DeviceError(
                "Decoding child does not start",
                fix="[decode] memory_mb may be too small for NumPy and pydicom on this machine",
            ) from None
        self._open_rest()
        self._open_dicom()
        if self.config.watch.folder:
            self.parts.append(
                FolderWatcher(self.config.watch, self._door("watch"), self._refusals("watch"))
            )
        for part in self.parts:
            part.start()
        if self.model.engine_name == REFERENCE:
            logs.warning("slow_engine", engine=REFERENCE)
        self._notifier.ready("serving with engine {}".format(self.model.engine_name))
        logs.info(
            "ready",
            engine=self.model.engine_name,
            details=self.model.engine_details,
            ports=self.ports,
        )

    def _door(self, source: str) -> Callable[[Iterator[bytes]], AcceptedImage]:
        return lambda blocks: self.intake.accept(blocks, source)

    def _refusals(self, source: str) -> Callable[[str], None]:
        return lambda reason: self.metrics.count("refused_total", reason=reason, source=source)

    def _open_rest(self) -> None:
        rest = self.config.rest
        if rest.port < 0:
            return
        queries = RestQueries(
            self.spool, self.journal, self.metrics, self.model, self.not_ready, self.is_alive
        )
        backend = RestBackend(
            self._door("rest"), self.intake.refusal, queries.answer, self._refusals("rest")
        )
        limit = int(self.config.queue.max_image_mb * MEGABYTE)
        try:
            server = rest_server(rest, read_token(rest.token_file), _tls(rest), limit, backend)
        except OSError as error:
            raise _address_error("rest", rest.host, rest.port, error) from None
        self.ports["rest"] = server.server_port
        self.interfaces["rest"] = server
        self.parts.append(server)

    def _open_dicom(self) -> None:
        dicom = self.config.dicom
        if dicom.port < 0 and not self.config.destinations:
            return
        check_dicom_networking()
        from deploy_jetson.device.daemon.interfaces.dicom_receive import StoreService
        from deploy_jetson.device.daemon.interfaces.dicom_send import open_senders
        from pneumonia.runtime.commitment import CommitmentReports

        reports = CommitmentReports()
        self.parts += open_senders(
            self.config.destinations, self.config.retry, self.spool, self.journal, self.metrics,
            reports,
        )  # fmt: skip
        if dicom.port < 0:
            return
        limit = int(self.config.queue.max_image_mb * MEGABYTE)
        try:
            service = StoreService(
                dicom, _tls(dicom), limit, self._door("dicom"), self._refusals("dicom"),
                reports=reports,
            )  # fmt: skip
        except OSError as error:
            raise _address_error("dicom", dicom.host, dicom.port, error) from None
        self.ports["dicom"] = service.port
        self.interfaces["dicom"] = service
        self.parts.append(service)

    def stop(self, *unused: Any) -> None:
        """Stop after the current image; safe in a signal handler."""
        self._stop.set()
        self.worker.wake()

    def close(self) -> None:
        """Close everything; images without an answer stay in the spool."""
        self.intake.stopping = True
        for part in self.parts:
            part.stop()
        self.decoder.close()
        self.model.close()
        self.monitor.close()
        self.journal.close()
        self.spool.close()

    def run(self) -> None:
        """Work until `stop`.

        Raises:
            EngineLost: The engine failed for good.
        """
        try:
            self.worker.run(self._stop.is_set, self._pause)
        finally:
            self._notifier.stopping()
            logs.info("stopping", waiting=self.journal.waiting()[0])

    def _pause(self) -> float:
        now = time.monotonic()
        if now >= self._next_forget_s:
            self._next_forget_s = now + FORGET_EVERY_S
            self.forget_old()
        return self.governor.pause()

    def forget_old(self) -> None:
        """Remove what was answered and delivered more than `keep_days` ago.

        Nothing is removed while the clock is not set, or within a day of a jump of it.
        """
        if not self._clock_is_trusted():
            return
        now = time.time()
        try:
            self.journal.redate(WRITTEN_S, now)
            keys = self.journal.forget(now - self.config.disk.keep_days * DAY_S)
        except OutputError:
            return  # retried at the next run
        for key in keys:
            self.spool.forget(key)
        if keys:
            logs.info("forgotten", images=len(keys))

    def _clock_is_trusted(self) -> bool:
        before = self.clock.jumps
        is_trusted = self.clock.is_trusted()
        if self.clock.jumps > before:
            self.metrics.count("clock_jumps_total")
            logs.warning("clock_jumped", seconds=round(self.clock.jump_s))
        return is_trusted

    # --- health ---

    def _beat(self) -> None:
        self.worker.beat()

    def is_alive(self) -> bool:
        """Whether the worker's loop is running."""
        return time.monotonic() - self.worker.pulse < STALE_S

    def not_ready(self) -> List[str]:
        """Reasons why no image can be accepted or answered at present."""
        reasons = []
        refusal = self.intake.refusal()
        if refusal:
            reasons.append(refusal)
        if not self.spool.is_writable():
            reasons.append("spool_not_writable")
        if self.worker.trouble and self.worker.trouble not in reasons:
            reasons.append(self.worker.trouble)
        if self.governor.state == CRITICAL:
            reasons.append("too_hot")
        if not self.is_alive():
            reasons.append("worker_does_not_move")
        return reasons

    def _gauges(self) -> None:
        waiting = self.journal.waiting

        def one(value: float) -> Iterable[Tuple[Dict[str, str], float]]:
            return [({}, value)]

        def temperatures() -> Iterable[Tuple[Dict[str, str], float]]:
            seen = self.governor.snapshot
            zones = seen.zones.items() if seen is not None else ()
            return [({"zone": name}, zone.celsius) for name, zone in zones]

        def pending() -> Iterable[Tuple[Dict[str, str], float]]:
            return [({"state": k}, v) for k, v in self.journal.delivery_counts().items()]

        def watts() -> Iterable[Tuple[Dict[str, str], float]]:
            return self.monitor.watts()

        def connections() -> Iterable[Tuple[Dict[str, str], float]]:
            found = sorted(self.interfaces.items())
            return [({"interface": name}, part.connections) for name, part in found]

        add = self.metrics.gauge
        add("connections", "Open connections, by interface.", connections)
        add("engine", "1 for the engine that answers.",
            lambda: [({"name": self.model.engine_name}, 1.0)])  # fmt: skip
        add("queue_images", "Images that wait.", lambda: one(waiting()[0]))
        add("queue_bytes", "Bytes of the images that wait.", lambda: one(waiting()[1]))
        add("oldest_age_seconds", "Age of the oldest image.", lambda: one(waiting()[2]))
        add("disk_free_bytes", "Free bytes of the state folder's disk.",
            lambda: one(self.spool.disk().free))  # type: ignore[union-attr]  # fmt: skip
        add("temperature_celsius", "Temperatures of the board.", temperatures)
        add("power_watts", "Power of the board's rails now; VDD_IN is the module, no sum is.",
            watts)  # fmt: skip
        add("throttled", "1 near a trip point.", lambda: one(self.governor.state != "cool"))
        add("ready", "1 when images are taken and answered.", lambda: one(not self.not_ready()))
        add("clock_unset", "1 when the clock was never set.", lambda: one(not self.clock.is_set()))
        add("deliveries", "Deliveries on record, by state.", pending)


def load_configured(config: DaemonSettings) -> ServedModel:
    """Load the model of the configuration."""
    part = config.daemon
    return ServedModel.load(part.bundle, part.threshold, part.engine, part.threads)


def make_child(config: DaemonSettings, tick: Callable[[], None]) -> DecodingChild:
    """The child process that opens images, as configured."""
    decode = config.decode
    read = ReadLimits(
        max_file_bytes=int(config.queue.max_image_mb * MEGABYTE),
        max_side=decode.max_side,
        max_pixels=decode.max_pixels,
    )
    limits = ChildLimits(read, decode.memory_mb, decode.seconds)
    wanted = Wanted(
        header=bool(config.results.dicom), words_against=WORDS_AGAINST, words_wanted=WORDS_WANTED
    )
    return DecodingChild(limits, wanted, tick)


def _tls(part: Any) -> Optional[ssl.SSLContext]:
    """TLS context of an interface, None without TLS."""
    return server_context(part.tls_cert, part.tls_key, part.tls_ca) if part.tls_cert else None


def _address_error(section: str, host: str, port: int, error: OSError) -> ConfigError:
    return DaemonConfigError(
        "Cannot listen on " + address_text(host, port), found=error.strerror or str(error),
        where="[{}]".format(section), fix="Is another daemon running? Choose another port",
    )  # fmt: skip


def serve(config: DaemonSettings) -> None:
    """Run a daemon until SIGTERM, SIGINT or SIGHUP; a second one ends it at once.

    Raises:
        PneumoniaError: It cannot start, or its engine is lost. What is wrong in the configuration
            has the exit code of that, wherever it was found.
    """
    logs.log_to_stderr(config.daemon.log_level)
    logs.silence_others()
    try:
        check_secrets(config)
        _serve(config)
    except ConfigError as error:
        raise DaemonConfigError.of(error) from None


def _serve(config: DaemonSettings) -> None:
    service = DaemonService(config, SystemdNotifier.from_environment())

    def on_signal(number: int, frame: Any) -> None:
        if service._stop.is_set():
            sys.exit(INTERRUPTED)  # the journal knows what was not answered
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(number, on_signal)
    try:
        service.start()
        service.run()
    finally:
        service.close()
    logs.info("stopped")
