"""The thermal governor: pauses between images when the board comes near its trip points."""

import time
from typing import Callable, Optional

from deploy_jetson.device.board import BoardSnapshot, take_snapshot
from deploy_jetson.device.daemon.settings import ThermalSettings

COOL, NEAR, CRITICAL = "cool", "near_trip", "critical"


class ThermalGovernor:
    """Computes the pause before the next image from the thermal zones, read every `poll_s`."""

    def __init__(
        self,
        settings: ThermalSettings,
        read: Callable[[], BoardSnapshot] = take_snapshot,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._read = read
        self._clock = clock
        self._next = -1e9
        self._paused_for = -1e9
        self.state = COOL
        self.snapshot: Optional[BoardSnapshot] = None

    def look(self) -> str:
        """`cool`, `near_trip` or `critical`, at most `poll_s` old."""
        now = self._clock()
        if now < self._next:
            return self.state
        self._next = now + self._settings.poll_s
        self.snapshot = self._read()
        self.state = COOL
        for zone in self.snapshot.zones.values():
            if zone.celsius >= self._settings.critical_c:
                self.state = CRITICAL
            trip = zone.trip_celsius
            near = trip is not None and zone.celsius > trip - self._settings.pause_below_trip_c
            if near and self.state == COOL:
                self.state = NEAR
        return self.state

    def pause(self) -> float:
        """Seconds to wait before the next image; near a trip one pause between two images."""
        state = self.look()
        if state == CRITICAL:
            return self._settings.poll_s
        if state == COOL:
            return 0.0
        now = self._clock()
        rested = now - self._paused_for < self._settings.pause_s + self._settings.poll_s
        self._paused_for = -1e9 if rested else now
        return 0.0 if rested else self._settings.pause_s
