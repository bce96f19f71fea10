"""Settings of the daemon; docs/reference/daemon-config.md explains every key."""

from typing import Dict, NamedTuple, Tuple

Names = Tuple[str, ...]
LOOPBACK = ("127.0.0.0/8", "::1/128")


class ServiceSettings(NamedTuple):
    """`[daemon]`: the model, and where the daemon keeps what it must not lose."""

    bundle: str = ""
    state: str = ""
    engine: str = "auto"
    threads: int = 0
    threshold: str = ""
    log_level: str = "info"


class QueueSettings(NamedTuple):
    """`[queue]`: how much may wait."""

    max_images: int = 200
    max_mb: float = 2048.0
    max_image_mb: float = 256.0
    max_attempts: int = 3


class DiskSettings(NamedTuple):
    """`[disk]`: when the daemon stops accepting, and how long it keeps what it has answered."""

    reserve_mb: float = 1024.0
    max_used_percent: float = 95.0
    keep_days: float = 30.0


class DecodeLimits(NamedTuple):
    """`[decode]`: limits of the child process that decodes images."""

    memory_mb: int = 2048
    seconds: float = 30.0
    max_side: int = 16384
    max_pixels: int = 64 * 1024 * 1024


class RulesSettings(NamedTuple):
    """`[rules]`: which images are scored; codes that a header lacks say nothing against it."""

    modality: Names = ("CR", "DX", "RG", "XR")
    view: Names = ("AP", "PA")
    body_part: Names = ("CHEST", "THORAX", "LUNG")
    children: str = "score"
    pictures: str = "score"


class ResultsSettings(NamedTuple):
    """`[results]`: DICOM objects made beside the JSON."""

    dicom: Names = ()


class RestSettings(NamedTuple):
    """`[rest]`: the HTTP interface; `port` -1 is off, 0 any free one."""

    host: str = "127.0.0.1"
    port: int = 8080
    allow: Names = LOOPBACK
    token_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    max_connections: int = 16
    request_s: float = 30.0


class DicomSettings(NamedTuple):
    """`[dicom]`: the C-STORE service; `port` -1 is off, 0 any free one."""

    host: str = "127.0.0.1"
    port: int = -1
    aet: str = "PNEUMONIA"
    allow: Names = LOOPBACK
    allow_aets: Names = ()
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    max_associations: int = 8
    timeout_s: float = 30.0


class WatchSettings(NamedTuple):
    """`[watch]`: a folder whose files are taken, and removed when they are safe; empty is off."""

    folder: str = ""
    scan_s: float = 1.0
    quiet_s: float = 2.0
    max_depth: int = 4


class RetrySettings(NamedTuple):
    """`[retry]`: sending again, with exponential back-off and jitter."""

    first_s: float = 5.0
    longest_s: float = 900.0
    max_attempts: int = 60


class ThermalSettings(NamedTuple):
    """`[thermal]`: pauses below the board's trip points."""

    poll_s: float = 1.0
    pause_below_trip_c: float = 5.0
    pause_s: float = 1.0
    critical_c: float = 95.0


class ResultDestination(NamedTuple):
    """`[destination NAME]`: a DICOM peer that gets results."""

    host: str = ""
    port: int = 104
    aet: str = ""
    calling_aet: str = "PNEUMONIA"
    kinds: Names = ("sr", "gsps", "sc")
    timeout_s: float = 30.0
    commit_s: float = 0.0
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


class DaemonSettings(NamedTuple):
    """All settings; see the classes."""

    daemon: ServiceSettings = ServiceSettings()
    queue: QueueSettings = QueueSettings()
    disk: DiskSettings = DiskSettings()
    decode: DecodeLimits = DecodeLimits()
    rules: RulesSettings = RulesSettings()
    results: ResultsSettings = ResultsSettings()
    rest: RestSettings = RestSettings()
    dicom: DicomSettings = DicomSettings()
    watch: WatchSettings = WatchSettings()
    retry: RetrySettings = RetrySettings()
    thermal: ThermalSettings = ThermalSettings()
    destinations: Dict[str, ResultDestination] = {}  # noqa: RUF012 - never changed
