"""What to profile, checked before anything runs."""

import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from deploy_jetson.device.estimate.roofline import KernelFacts, kernel_facts
from deploy_jetson.device.estimate.work import LayerWork, network_work, totals
from deploy_jetson.device.power.find import check_sensor_name
from deploy_jetson.device.profile.recording import ProtocolSettings
from pneumonia.runtime.engines import ENGINES
from pneumonia.runtime.engines.thread_count import check_threads
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.output_folders import require_own_or_empty
from pneumonia.runtime.storage.bundle import Bundle, load_bundle

MAX_NUMBER = 1e5  # seconds, and samples per second


class ProfileRequest(NamedTuple):
    """What to profile."""

    bundles: Tuple[str, ...]  # folders; several are stages of pruning, in the order given
    out: str  # folder to write; new or empty
    # nvpmodel numbers; empty = the present one (all five for a prediction)
    modes: Tuple[int, ...] = ()
    engines: Tuple[str, ...] = ("auto",)  # as `open_engine` names them
    sensor: str = "auto"  # see `power.find.SENSORS`
    settings: ProtocolSettings = ProtocolSettings()  # of measured runs
    # path of calibration.json for predictions; None = as published
    calibration: Optional[str] = None
    threads: Optional[int] = None  # of CPU engines; None = all
    root: str = "/"  # prefix of `/sys`; another one in tests


class LoadedBundle(NamedTuple):
    """A loaded bundle and what the estimator needs of it."""

    label: str
    bundle: Bundle
    work: List[LayerWork]
    facts: Optional[KernelFacts]

    def record(self) -> Dict[str, Any]:
        """As JSON data."""
        return {
            "label": self.label,
            "model_name": self.bundle.model_name,
            "model_hash": self.bundle.model_hash,
            **totals(self.work)._asdict(),
        }


def load_stage(path: str) -> LoadedBundle:
    """Load a bundle.

    Raises:
        ArtefactError: It is not a bundle, or damaged.
    """
    bundle = load_bundle(path)
    label = os.path.basename(bundle.path)
    return LoadedBundle(
        label, bundle, network_work(bundle.spec, bundle.weights()), kernel_facts(bundle)
    )


def check_request(request: ProfileRequest) -> None:
    """Check a request before anything runs.

    Raises:
        ConfigError: No bundle, unknown engine or sensor, impossible numbers.
        OutputError: The output folder holds something already.
    """
    if not request.bundles:
        raise ConfigError(
            "No bundle to profile", fix="Name one: pneumonia profile BUNDLE --out DIR"
        )
    for name in request.engines:
        if name not in ENGINES:
            raise ConfigError("Unknown engine", ", ".join(ENGINES), repr(name), where="--engine")
    check_sensor_name(request.sensor)
    if request.threads is not None:
        check_threads(request.threads)
    settings = request.settings
    numbers = (settings.window_s, settings.idle_s, settings.rate_hz)
    sound = settings.windows >= 1 and settings.min_inferences >= 1
    if not sound or not all(0 < value < MAX_NUMBER for value in numbers):
        raise ConfigError(
            "Protocol cannot be run",
            expected="windows, inferences >= 1; seconds, rate > 0 and < {:g}".format(MAX_NUMBER),
            found=", ".join("{}={:g}".format(*item) for item in settings._asdict().items()),
        )
    require_own_or_empty(request.out)
