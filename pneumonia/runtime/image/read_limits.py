"""Limits on the files that are read. Loads without pydicom, which takes a third of a second."""

from typing import NamedTuple


class ReadLimits(NamedTuple):
    """Limits on files, and which non-standard files are accepted.

    Attributes:
        max_file_bytes: Larger files are not opened.
        max_side: Most rows or columns.
        max_pixels: Most rows x columns x frames.
        force_read: Take DICOM data without the 128-byte preamble.
        allow_deflated: Take deflated DICOM (inflated size is bounded by `max_file_bytes`).
        first_frame: Take the first frame of a multi-frame image instead of refusing it.
    """

    max_file_bytes: int = 256 * 1024 * 1024
    max_side: int = 16384
    max_pixels: int = 64 * 1024 * 1024
    force_read: bool = False
    allow_deflated: bool = False
    first_frame: bool = False


DEFAULT_LIMITS = ReadLimits()
