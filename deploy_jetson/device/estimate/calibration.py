"""Turns measured runs on a TX2 into factors of the estimator, per engine.

A factor is the geometric mean of measured over predicted, a band the worst deviation that is left
(never below what one board says about another).
"""

import io
import json
import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from pneumonia.runtime.errors import ArtefactError, DataError

SCHEMA = "pneumonia.tx2-calibration/1"
MIN_BAND = 1.1
LIMITS = (0.02, 50.0)  # a factor beyond these is a mistake, not a calibration


class CorrectionFactors(NamedTuple):
    """Correction factors of an engine's prediction; 1 without a band if unmeasured."""

    latency: float = 1.0
    idle: float = 1.0
    busy: float = 1.0
    latency_band: Optional[float] = None
    power_band: Optional[float] = None
    runs: int = 0


class EstimateCalibration(NamedTuple):
    """Factors per engine, and what they come from."""

    engines: Dict[str, CorrectionFactors]  # engine -> factors
    idle: float  # factor of the idle power, of all runs together; for engines not measured too
    sources: List[str]  # SHA-256 of the energy.json files

    def factors(self, engine: str) -> CorrectionFactors:
        """Factors of an engine; only the idle power's where it was not measured."""
        return self.engines.get(engine, CorrectionFactors(idle=self.idle))

    def document(self) -> Dict[str, Any]:
        """As JSON data."""
        engines = {name: f._asdict() for name, f in self.engines.items()}
        return {
            "schema": SCHEMA,
            "engines": engines,
            "idle": self.idle,
            "sources": self.sources,
        }


class MeasuredVersusPredicted(NamedTuple):
    """One measured run beside its uncalibrated prediction: measured over predicted."""

    engine: str
    latency: float
    idle: float
    busy: float


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in ratios) / len(ratios))


def _band(ratios: Sequence[float], factor: float) -> float:
    return max([MIN_BAND] + [max(value / factor, factor / value) for value in ratios])


def fit(
    comparisons: Sequence[MeasuredVersusPredicted], sources: Sequence[str]
) -> EstimateCalibration:
    """Fit factors.

    Raises:
        DataError: Nothing to fit, or a ratio no calibration explains.
    """
    if not comparisons:
        raise DataError(
            "Nothing to calibrate with",
            expected="a run measured on a Jetson TX2, not voided",
            found="none",
            fix="Run `pneumonia profile` on the board",
        )
    for item in comparisons:
        for value in item[1:]:
            if not LIMITS[0] <= value <= LIMITS[1]:
                raise DataError(
                    "Measured run is too far from its prediction to calibrate with",
                    expected="a ratio between {} and {}".format(*LIMITS),
                    found="{:.3g}".format(value),
                    where="engine {!r}".format(item.engine),
                )
    idle = _mean([item.idle for item in comparisons])
    engines: Dict[str, CorrectionFactors] = {}
    for name in sorted({item.engine for item in comparisons}):
        ours = [item for item in comparisons if item.engine == name]
        latency, busy = _mean([i.latency for i in ours]), _mean([i.busy for i in ours])
        bands = (_band([i.latency for i in ours], latency), _band([i.busy for i in ours], busy))
        engines[name] = CorrectionFactors(latency, idle, busy, bands[0], bands[1], len(ours))
    return EstimateCalibration(engines, idle, list(sources))


def _factors(record: Dict[str, Any]) -> CorrectionFactors:
    factors = CorrectionFactors(**record)
    numbers = [value for value in factors[:5] if value is not None]
    if not all(LIMITS[0] <= float(value) <= LIMITS[1] for value in numbers):
        raise ValueError("factor")
    return factors._replace(runs=int(factors.runs))


def read_calibration(path: str) -> EstimateCalibration:
    """Read calibration.json.

    Raises:
        ArtefactError: It is not one.
    """
    try:
        with io.open(path, encoding="utf-8") as stream:
            document = json.load(stream)
        if document["schema"] != SCHEMA:
            raise ValueError("schema")
        engines = {name: _factors(record) for name, record in document["engines"].items()}
        idle = _factors({"idle": document["idle"]}).idle
        return EstimateCalibration(engines, idle, [str(item) for item in document["sources"]])
    except OSError as error:
        raise ArtefactError(
            "Calibration cannot be read", found=error.strerror or "", where=path
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise ArtefactError(
            "Not a calibration",
            expected=repr(SCHEMA),
            where=path,
            fix="`pneumonia profile calibrate RUN --out FILE` writes one",
        ) from None
