"""Counters, gauges and histograms as Prometheus text, without a library."""

import threading
from typing import Callable, Dict, Iterable, List, Optional, Tuple

Labels = Tuple[Tuple[str, str], ...]
BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
PREFIX = "pneumonia_"
GaugeReader = Callable[[], Iterable[Tuple[Dict[str, str], float]]]


def _labels(pairs: Iterable[Tuple[str, str]]) -> str:
    inside = ",".join(
        '{}="{}"'.format(key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for key, value in pairs
    )
    return "{" + inside + "}" if inside else ""


class DaemonMetrics:
    """All metrics of one daemon; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._help: Dict[str, Tuple[str, str]] = {}
        self._counts: Dict[Tuple[str, Labels], float] = {}
        self._histograms: Dict[str, List[float]] = {}
        self._gauges: Dict[str, GaugeReader] = {}

    def describe(self, name: str, kind: str, text: str) -> None:
        """Register a metric of type `counter`, `gauge` or `histogram`."""
        self._help[name] = (kind, text)
        if kind == "histogram":
            self._histograms[name] = [0.0] * (len(BUCKETS_S) + 2)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._counts[key] = self._counts.get(key, 0.0) + amount

    def value(self, name: str, **labels: str) -> float:
        """Current value of a counter."""
        with self._lock:
            return self._counts.get((name, tuple(sorted(labels.items()))), 0.0)

    def observe(self, name: str, seconds: float) -> None:
        """Observe a value in a histogram."""
        with self._lock:
            cells = self._histograms[name]
            for index, bound in enumerate(BUCKETS_S):
                cells[index] += seconds <= bound
            cells[-2] += 1
            cells[-1] += seconds

    def gauge(self, name: str, text: str, reader: GaugeReader) -> None:
        """Register a metric whose values are read at every scrape."""
        self._help[name] = ("gauge", text)
        self._gauges[name] = reader

    def text(self) -> str:
        """All metrics in Prometheus' text format 0.0.4."""
        read = {name: self._read(reader) for name, reader in self._gauges.items()}
        lines: List[str] = []
        with self._lock:
            for name, (kind, about) in self._help.items():
                full = PREFIX + name
                lines += ["# HELP {} {}".format(full, about), "# TYPE {} {}".format(full, kind)]
                if kind == "histogram":
                    lines += self._histogram(full, self._histograms[name])
                elif kind == "gauge":
                    lines += [
                        "{}{} {!r}".format(full, _labels(sorted(labels.items())), float(value))
                        for labels, value in read[name] or ()
                    ]
                else:
                    lines += [
                        "{}{} {!r}".format(full, _labels(labels), value)
                        for (key, labels), value in self._counts.items()
                        if key == name
                    ]
        return "\n".join(lines) + "\n"

    @staticmethod
    def _read(reader: GaugeReader) -> Optional[List[Tuple[Dict[str, str], float]]]:
        try:
            return list(reader())
        except Exception:  # a failing sensor must not suppress the other metrics
            return None

    @staticmethod
    def _histogram(full: str, cells: List[float]) -> List[str]:
        lines = [
            '{}_bucket{{le="{:g}"}} {!r}'.format(full, bound, cells[index])
            for index, bound in enumerate(BUCKETS_S)
        ]
        return lines + [
            '{}_bucket{{le="+Inf"}} {!r}'.format(full, cells[-2]),
            "{}_sum {!r}".format(full, cells[-1]),
            "{}_count {!r}".format(full, cells[-2]),
        ]
