"""tegrastats as a sensor: the fallback where sysfs cannot be read.

Every line is stamped when it arrives; its own stamp has only seconds.
"""

import os
import re
import select
import shutil
import subprocess
from typing import Dict, List, Optional, Tuple

from deploy_jetson.device.power.sensor import (
    MILLIWATT,
    PowerRail,
    PowerSensor,
    SensorGap,
    SensorInfo,
    SensorLost,
    scope_of,
    total_of,
)
from pneumonia.runtime.errors import DeviceError

PROGRAM = "tegrastats"
MIN_INTERVAL_MS = 50  # faster than this it prints no new values
FIRST_LINE_S = 10.0
STALL_INTERVALS = 5.0
MAX_STALLS = 12  # after this many stalls the sensor is lost
MAX_BUFFER = 1 << 16
# `NAME cur/avg[/more]`, milliwatts with or without the unit. Not `RAM 1/2MB`: MB follows.
RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) +(\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)*(?=\s|$)")
MEMORY = re.compile(r"(?<!\S)RAM \d+/\d+MB")
UNCONNECTED = ("NC",)


def parse_rails(line: str) -> Optional[Dict[str, int]]:
    """Rail -> milliwatts now; None when it is not a line of tegrastats.

    A rail whose numbers are cut off is left out, never guessed.
    """
    if MEMORY.search(line) is None:
        return None
    found = RAIL.findall(line)
    return {name: int(now) for name, now in found if name not in UNCONNECTED}


class TegrastatsSensor(PowerSensor):
    """Runs tegrastats and reads its lines.

    Args:
        command: The program; another one in tests.

    Raises:
        DeviceError: The program is missing, ends at once, or its lines hold no rail.
    """

    paced = True

    def __init__(self, interval_s: float, command: Tuple[str, ...] = (PROGRAM,)) -> None:
        program = shutil.which(command[0])
        if program is None:
            raise DeviceError("tegrastats is not installed", fix="It comes with L4T (a Jetson)")
        interval_ms = max(MIN_INTERVAL_MS, round(interval_s * 1e3))
        self._stall_s = STALL_INTERVALS * interval_ms / 1e3
        self._stalls = 0
        self._buffer = b""
        self._process: Optional[subprocess.Popen] = subprocess.Popen(  # type: ignore[type-arg]
            [program] + list(command[1:]) + ["--interval", str(interval_ms)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            first = self._first_line()
        except DeviceError:
            self.close()
            raise
        rails = tuple(PowerRail(name, MILLIWATT, scope_of(name), "tegrastats") for name in first)
        notes = (("interval_ms", str(interval_ms)),)
        self.info = SensorInfo("tegrastats", "measured", rails, total_of(list(first)), notes)

    def _first_line(self) -> Dict[str, int]:
        """The rails of the first line that has any."""
        for _ in range(5):  # a date or a warning may come first
            text = self._next_line(FIRST_LINE_S)
            rails = parse_rails(text) if text is not None else None
            if rails:
                return rails
            if text is None:
                break
        self.close()
        raise DeviceError(
            "tegrastats shows no power rail",
            expected="lines with rails such as VDD_IN",
            fix="Older releases show them to root only",
        )

    def _next_line(self, timeout_s: float) -> Optional[str]:
        """The next whole line; None when none came in time. A part of a line is kept."""
        process = self._process
        if process is None or process.stdout is None:
            raise SensorLost("tegrastats is closed", found="tegrastats closed")
        handle = process.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([handle], [], [], timeout_s)
            if not ready:
                return None
            data = os.read(handle, 4096)
            if not data:
                raise SensorLost("tegrastats ended", found="tegrastats ended")
            self._buffer = (self._buffer + data)[-MAX_BUFFER:]
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("ascii", "replace")

    def read(self) -> Tuple[Dict[str, float], List[str]]:
        """The rails of the next line.

        Raises:
            SensorGap: No line in time, or one that is none of tegrastats.
            SensorLost: It ended, or prints nothing any more.
        """
        text = self._next_line(self._stall_s)
        if text is None:
            self._stalls += 1
            if self._stalls >= MAX_STALLS:
                raise SensorLost("tegrastats prints nothing", found="tegrastats silent")
            raise SensorGap("silent")
        self._stalls = 0
        rails = parse_rails(text)
        if rails is None:
            raise SensorGap("not_a_sample")
        values = {name: float(now) for name, now in rails.items()}
        known = [rail.name for rail in self.info.rails]
        return values, ["{}:missing".format(name) for name in known if name not in values]

    def close(self) -> None:
        """End the program."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
