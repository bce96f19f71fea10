"""Files that live only until they are compiled."""

from collections.abc import Mapping
from pathlib import Path


def write_scratch(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files that live only until they are compiled: without waiting for the disk."""
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
