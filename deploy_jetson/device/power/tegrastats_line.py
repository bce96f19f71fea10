"""One line of tegrastats, whatever the board and the release: keyed on names, never on position."""

import re
from collections import OrderedDict
from typing import Dict, NamedTuple, Optional, Tuple

NUMBER = r"-?\d+(?:\.\d+)?"
# `NAME cur/avg[/more]`, milliwatts with or without the unit. Not `RAM 1/2MB`: MB follows.
RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) +(\d+)(?:mW)?/(\d+)(?:mW)?(?:/\d+(?:mW)?)*(?=\s|$)")
TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(" + NUMBER + r")C(?:/" + NUMBER + r"C)?(?=\s|$)")
CORES = re.compile(r"(?<!\S)(?:CPU|cpu) \[([^\]]*)\](?:@(\d+))?")
CORE = re.compile(r"^(\d+)%(?:@(\d+))?$")
UNIT = re.compile(r"(?<!\S)(\w+) +(?:(\d+)%)?(?:@(?:\[([\d,]+)\]|(\d+)))?(?=\s|$)")
MEMORY = re.compile(r"(?<!\S)RAM (\d+)/(\d+)MB")
STAMP = re.compile(r"^\[?(\d{2,4}-\d{2}-\d{2,4} \d{2}:\d{2}:\d{2})\]?")
POWERED_DOWN_C = -256.0  # printed for a sensor without power
UNCONNECTED = ("NC",)
NO_UNITS = ("fg", "bg", "MTS", "RAM", "SWAP", "IRAM")


class CoreLoad(NamedTuple):
    """Load in per cent and clock in MHz of one core; both None when it is off."""

    load_percent: Optional[int]
    clock_mhz: Optional[int]


class UnitLoad(NamedTuple):
    """Load in per cent and clock in MHz of one engine or memory; None where not printed."""

    load_percent: Optional[int]
    clock_mhz: Optional[int]


class TegrastatsLine(NamedTuple):
    """Values of one line.

    Attributes:
        rails: Name -> (current, average) in mW; the average runs since tegrastats started.
        temperatures_c: Zone -> degrees; None for a sensor without power.
        cores: In order.
        units: `EMC`, `GR3D`, `NVDLA0`... -> load and clock.
        ram_mb: (used, total), None when not printed.
        stamp: The line's own wall clock, as printed.
    """

    rails: Dict[str, Tuple[int, int]]
    temperatures_c: Dict[str, Optional[float]]
    cores: Tuple[CoreLoad, ...]
    units: Dict[str, UnitLoad]
    ram_mb: Optional[Tuple[int, int]]
    stamp: Optional[str]


def _number(text: Optional[str]) -> Optional[int]:
    return int(text) if text else None


def _cores(line: str) -> Tuple[CoreLoad, ...]:
    found = CORES.search(line)
    if found is None:
        return ()
    shared = _number(found.group(2))
    cores = []
    for word in found.group(1).split(","):
        core = CORE.match(word.strip())
        if core is None:
            cores.append(CoreLoad(None, None))
        else:
            cores.append(CoreLoad(int(core.group(1)), _number(core.group(2)) or shared))
    return tuple(cores)


def _units(line: str) -> Dict[str, UnitLoad]:
    units = OrderedDict()  # type: OrderedDict[str, UnitLoad]
    for name, load, clocks, clock in UNIT.findall(line):
        if (not load and not clocks and not clock) or name in NO_UNITS:
            continue
        first = clocks.split(",")[0] if clocks else clock
        short = name[: -len("_FREQ")] if name.endswith("_FREQ") else name
        units[short] = UnitLoad(_number(load), _number(first))
    return units


def parse_line(line: str) -> Optional[TegrastatsLine]:
    """Parse one line; None when it is not a line of tegrastats.

    A rail whose numbers are cut off is left out, never guessed.
    """
    memory = MEMORY.search(line)
    if memory is None:
        return None
    rails = OrderedDict()  # type: OrderedDict[str, Tuple[int, int]]
    for name, now, average in RAIL.findall(line):
        if name not in UNCONNECTED:
            rails[name] = (int(now), int(average))
    temperatures = OrderedDict()  # type: OrderedDict[str, Optional[float]]
    for name, text in TEMPERATURE.findall(line):
        value = float(text)
        temperatures[name] = None if value <= POWERED_DOWN_C else value
    stamp = STAMP.match(line)
    return TegrastatsLine(
        rails,
        temperatures,
        _cores(line),
        _units(line),
        (int(memory.group(1)), int(memory.group(2))),
        stamp.group(1) if stamp else None,
    )
