"""The boards an archive can be made for: their Python, its last wheels, and their processors."""

from collections.abc import Mapping
from typing import NamedTuple

from deploy_jetson.kernels.targets import TARGETS, Target
from pneumonia.runtime.errors import ConfigError


class BoardSystem(NamedTuple):
    """A board's system."""

    name: str  # as given to `--board`
    title: str  # for people
    python: str  # version of its own Python
    # wheels of the daemon's packages for this Python on aarch64, `NAME==VERSION`
    pinned: tuple[str, ...]
    # libraries that are generated; the board takes the one of its core
    target_names: tuple[str, ...]

    @property
    def targets(self) -> list[Target]:
        """The targets of its libraries."""
        return [TARGETS[name] for name in self.target_names]

    @property
    def python_tag(self) -> str:
        """Such as `cp36`."""
        return "cp" + "".join(self.python.split(".")[:2])

    @property
    def cores(self) -> str:
        """Its cores, for messages."""
        return " and ".join(f"Cortex-{target.core}" for target in self.targets)


# The last versions for this Python and processor, with the packages that click needs there.
# Licences: BSD (numpy, click), HPND (Pillow), MIT (pydicom, pynetdicom, zipp), Apache-2.0
# (importlib-metadata), PSF (typing-extensions). NumPy is not the last one: 1.19.5 crashes on a TX2
# with an illegal instruction unless OPENBLAS_CORETYPE is set (numpy#18131).
PYTHON_36 = (
    "numpy==1.19.4",
    "Pillow==8.4.0",
    "pydicom==2.3.1",
    "pynetdicom==1.5.7",
    "click==8.0.4",
    "importlib-metadata==4.8.3",
    "typing-extensions==4.1.1",
    "zipp==3.6.0",
)
PYTHON_38 = (
    "numpy==1.24.4",
    "Pillow==10.4.0",
    "pydicom==2.4.4",
    "pynetdicom==2.0.2",
    "click==8.1.8",
    "typing-extensions==4.12.2",
)
# NumPy 1: the TensorRT of JetPack 6 was built against it.
PYTHON_310 = (
    "numpy==1.26.4",
    "Pillow==11.3.0",
    "pydicom==2.4.4",
    "pynetdicom==2.1.1",
    "click==8.1.8",
)
ORIN = ("cortex-a78ae", "cortex-a57")  # the second for Xavier, which lacks the dot product

BOARDS: Mapping[str, BoardSystem] = {
    board.name: board
    for board in (
        BoardSystem("jetpack4", "Jetson TX2, JetPack 4.6", "3.6.9", PYTHON_36, ("cortex-a57",)),
        BoardSystem("jetpack5", "Jetson Orin, JetPack 5", "3.8.10", PYTHON_38, ORIN),
        BoardSystem("jetpack6", "Jetson Orin, JetPack 6", "3.10.12", PYTHON_310, ORIN),
        BoardSystem(
            "pi-os-12", "Raspberry Pi 4 and 5, Raspberry Pi OS 12", "3.11.2", PYTHON_310,
            ("cortex-a76", "cortex-a72"),
        ),
    )
}  # fmt: skip
DEFAULT_BOARD = "jetpack4"
BOARD_HELP = "; ".join(f"{board.name}: {board.title}" for board in BOARDS.values())


def find_board(name: str) -> BoardSystem:
    """The board of a name.

    Raises:
        ConfigError: Unknown name.
    """
    if name not in BOARDS:
        raise ConfigError("Unknown board", ", ".join(BOARDS), repr(name), "--board")
    return BOARDS[name]
