"""Limits on the files that are read. Loads without pydicom, which takes a third of a second."""

from typing import NamedTuple


class ReadLimits(NamedTuple):
    """Limits on files, and which non-standard files are accepted."""

    max_file_bytes: int = 256 * 1024 * 1024  # larger files are not opened
    max_side: int = 16384  # most rows or columns
    max_pixels: int = 64 * 1024 * 1024  # most rows x columns x frames
    force_read: bool = False  # take DICOM data without the 128-byte preamble
    # take deflated DICOM (inflated size is bounded by `max_file_bytes`)
    allow_deflated: bool = False
    first_frame: bool = False  # take the first frame of a multi-frame image instead of refusing it


DEFAULT_LIMITS = ReadLimits()
