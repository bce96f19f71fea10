"""The one error tree of the project, and the exit code each branch ends a command with."""

from contextlib import contextmanager
from typing import Iterator, Optional, Type

DISCLAIMER = "Research use only. Not a medical device."
RESEARCH_ONLY = "RESEARCH USE ONLY - NOT FOR CLINICAL USE"  # in DICOM objects and images


class PneumoniaError(Exception):
    """Base of every error a user can cause or repair.

    The message is one line: what went wrong, what was expected, what was found (its repr), where
    (path, layer or key) and what to do. No message may hold a patient identifier.

    Args:
        what: The failed rule, starting with a capital letter, without a final full stop.
        expected: What would be valid.
        found: The value found; shown as given, so pass `repr(x)` for a user's value.
        where: Path, layer, key or line.
        fix: What the user can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        expected: Optional[str] = None,
        found: Optional[str] = None,
        where: Optional[str] = None,
        fix: Optional[str] = None,
    ) -> None:
        parts = [what]
        if expected is not None:
            parts.append("expected {}".format(expected))
        if found is not None:
            parts.append("found {}".format(found))
        text = "; ".join(parts)
        if where is not None:
            text += " (in {})".format(where)
        if fix is not None:
            text += ". {}".format(fix)
        super().__init__(" ".join(text.split()))
        self.what = what
        self.expected = expected
        self.found = found
        self.where = where
        self.fix = fix


class ConfigError(PneumoniaError):
    """A recipe, option or combination of options is wrong."""

    exit_code = 2


class PartialFailure(PneumoniaError):  # noqa: N818 - most of the batch did succeed
    """The batch ended, but some inputs failed; the manifest names them."""

    exit_code = 3


class ArtefactError(PneumoniaError):
    """A bundle, checkpoint or threshold is damaged, foreign or does not match its hash."""

    exit_code = 4


class SpecError(ArtefactError):
    """A network description is not valid."""


class OutputError(PneumoniaError):
    """An output cannot be written."""

    exit_code = 5


class DataError(PneumoniaError):
    """Labels, images or a dataset folder are unusable."""

    exit_code = 6


class DicomError(DataError):
    """A radiograph cannot be read; `status` and `reason` are its codes in the manifest.

    Args:
        what: One line without patient identifiers.
        status: `rejected`, `failed` or `skipped`.
        reason: Short machine-readable code, for example `pixel_data_truncated`.
        expected, found, where, fix: As in PneumoniaError.
    """

    def __init__(
        self,
        what: str,
        status: str = "rejected",
        reason: str = "unreadable",
        expected: Optional[str] = None,
        found: Optional[str] = None,
        where: Optional[str] = None,
        fix: Optional[str] = None,
    ) -> None:
        super().__init__(what, expected, found, where, fix)
        self.status = status
        self.reason = reason


class TrainingError(PneumoniaError):
    """Training cannot go on: no labels, loss not finite, wrong input range."""

    exit_code = 7


class PruneError(PneumoniaError):
    """A compression recipe prunes nothing, prunes what is protected, or cannot reach its rate."""

    exit_code = 8


class ExportError(PneumoniaError):
    """A model cannot be written in the target format."""

    exit_code = 9


class DeviceError(PneumoniaError):
    """An engine, sensor or device is missing or fails."""

    exit_code = 10


class InferenceError(DeviceError):
    """An engine ran but gave numbers that cannot be used."""


@contextmanager
def os_errors_as(kind: Type[PneumoniaError], what: str, where: object) -> Iterator[None]:
    """Raise `kind` in place of an OSError of the block, with the system's reason as `found`."""
    try:
        yield
    except OSError as error:
        raise kind(what, found=error.strerror or str(error), where=str(where)) from None
