"""The model in the daemon: opened, warmed up, opened once more when its engine fails."""

import time
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np

from deploy_jetson.device.daemon import logs
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import Engine, open_engine
from pneumonia.runtime.errors import ConfigError, DeviceError, InferenceError, PneumoniaError
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import ResultFacts
from pneumonia.runtime.storage.bundle import Bundle, load_bundle

WARM_UP = 2
OpenEngine = Callable[[Bundle], Engine]


class ServedModel:
    """Bundle, operating point and engine.

    Args:
        threshold: Operating point; empty for the bundle's first.

    Raises:
        ConfigError: No operating point of that name.
        DeviceError: The engine does not open or does not run.
    """

    def __init__(self, bundle: Bundle, threshold: str, opener: OpenEngine) -> None:
        name = threshold or next(iter(bundle.operating_points), "")
        if not name:
            raise ConfigError(
                "Bundle has no operating point", where=bundle.path,
                fix="Write one: pneumonia evaluate ... --freeze-into BUNDLE",
            )  # fmt: skip
        self.bundle = bundle
        self.facts = ResultFacts.from_bundle(bundle, name)
        self._opener = opener
        self._detector = self._open()

    @classmethod
    def load(cls, path: str, threshold: str, engine: str, threads: int) -> "ServedModel":
        """Check a bundle and open it with an engine of `runtime.engines`.

        Raises:
            ArtefactError: The bundle is damaged, or its parts are of different models.
        """
        return cls(
            load_bundle(path),
            threshold,
            lambda bundle: open_engine(bundle, engine, threads or None),
        )

    @property
    def engine_name(self) -> str:
        """The engine that answers."""
        return self._detector.engine.name

    @property
    def engine_details(self) -> Dict[str, Any]:
        """What the engine states about itself: threads and CPUs, precision; may be empty."""
        return dict(getattr(self._detector.engine, "details", {}))

    def _open(self) -> Detector:
        detector = Detector(self.bundle, self._opener(self.bundle))
        size = self.bundle.spec.input
        for _ in range(WARM_UP):
            detector.predict(np.zeros((size.height, size.width), np.uint8), "warm-up")
        return detector

    def reopen(self) -> None:
        """Drop the engine and open it again.

        Raises:
            DeviceError: It does not come back.
        """
        self.close()
        try:
            self._detector = self._open()
        except DeviceError:
            raise
        except PneumoniaError as error:
            raise DeviceError("Engine does not open again", found=type(error).__name__) from None

    def close(self) -> None:
        """Release the engine's resources."""
        self._detector.engine.close()

    def detect(self, pixels: np.ndarray, key: str) -> Tuple[Prediction, float]:
        """Find boxes; an engine that fails is opened again once.

        Returns:
            The boxes, and the seconds it took.

        Raises:
            InferenceError: The output is not finite.
            DeviceError: The engine failed twice.
        """
        failure: Optional[DeviceError] = None
        for _ in range(2):
            started = time.monotonic()
            try:
                found = self._detector.predict(pixels, key)
                return found, time.monotonic() - started
            except InferenceError:
                raise
            except DeviceError as error:
                failure = error
                logs.warning("engine_failed", engine=self.engine_name, job=key)
                self.reopen()
        assert failure is not None
        raise failure
