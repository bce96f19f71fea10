"""Settings of a batch, and the description and digest of what its scores depend on."""

import hashlib
import json
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from pneumonia import __version__
from pneumonia.runtime.child import ChildLimits
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.json_files import read_json_object
from pneumonia.runtime.results.facts import ResultFacts
from pneumonia.runtime.storage.bundle import OPERATING_POINTS, Bundle
from pneumonia.scoring.image.records import ScoringModel
from pneumonia.scoring.image.selection import SelectionRules, load_rules
from pneumonia.scoring.outputs import OutputSettings

PACKAGES = ("numpy", "onnxruntime", "pillow", "pydicom", "pyjpegls", "python-gdcm")


@dataclass(frozen=True)
class ScoreSettings:
    """How a batch is scored.

    Attributes:
        threshold_name: Operating point of the bundle; None takes its first.
        limits: Bounds of reading and of the child processes.
        overlays: `findings` (positive and indeterminate), `all` or `none`.
        jobs: Child processes that decode.
        fresh: Score again what an earlier run into the same folder has scored.
        refetch: Fetch images of a server again that an earlier run has scored, and score those that
            have changed.
        identifiers: Write accession number and study date into the worklist, and with the UIDs into
            the study files.
        outputs: What is written besides the tables, study files and overlays.
        rules: Which images are scored.
        deidentify: `basic` to write nothing that names a patient, study, image or file.
        allow_burned_in: With `deidentify`, accept images that have text burned in.
    """

    threshold_name: str | None = None
    limits: ChildLimits = field(default_factory=ChildLimits)
    overlays: str = "findings"
    jobs: int = 1
    fresh: bool = False
    refetch: bool = True
    identifiers: bool = False
    outputs: OutputSettings = field(default_factory=OutputSettings)
    rules: SelectionRules = field(default_factory=load_rules)
    deidentify: str = ""
    allow_burned_in: bool = False

    def __post_init__(self) -> None:
        if self.deidentify not in ("", "basic"):
            raise ConfigError("Unknown profile", expected="basic", found=repr(self.deidentify))
        if self.deidentify and self.identifiers:
            raise ConfigError(
                "Outputs cannot be de-identified and hold identifiers",
                found="deidentify and identifiers",
                fix="Choose one",
            )


def describe_model(detector: Detector, settings: ScoreSettings) -> ScoringModel:
    """The model, its operating point, and the digest of everything that changes an output.

    Raises:
        ConfigError: Unknown operating point.
    """
    bundle = detector.bundle
    name = settings.threshold_name or next(iter(bundle.operating_points), "")
    threshold = bundle.threshold(name)
    engine = detector.engine.name
    parts = [__version__, engine, name, threshold, settings.overlays]
    parts += [detector.settings, settings.limits.read._asdict(), settings.rules.digest()]
    parts += [settings.deidentify, settings.allow_burned_in, settings.identifiers]
    digest = hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()
    version = ResultFacts.from_bundle(bundle, name).model_version
    return ScoringModel(
        bundle.model_name, bundle.model_hash, name, threshold, engine, digest, version
    )


def selected_on(bundle: Bundle) -> dict[str, Any]:
    """The images that thresholds and their sensitivity and specificity were measured on.

    Args:
        bundle: A loaded one, so that its files are the ones that were exported.

    Returns:
        `images`, `positive`, `patients`, `split`, ...; empty when the bundle does not say.
    """
    document = read_json_object(bundle.file(OPERATING_POINTS), "File of operating points")
    selected_on = document.get("selected_on")
    return selected_on if isinstance(selected_on, dict) else {}


def software_versions() -> dict[str, str]:
    """Versions of the software that produced the scores."""
    versions = {"pneumonia": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
