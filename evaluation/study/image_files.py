"""Find and read the radiograph of an image id in a folder."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", "")


def find_image(folder: str | Path, image_id: str) -> Path | None:
    """The file `IMAGE_ID.{png,jpg,jpeg,dcm}` or `IMAGE_ID` in a folder, or None.

    An id may contain folders (`P1/PA`); an id that leads out of the folder is never found.
    """
    parts = image_id.split("/")
    if "" in parts or "." in parts or ".." in parts or os.path.isabs(image_id) or "\\" in image_id:
        return None
    for suffix in SUFFIXES:
        path = Path(folder) / (image_id + suffix)
        if path.is_file():
            return path
    return None


def read_pixels(path: str | Path) -> NDArray[np.uint8]:
    """The radiograph as (H, W) uint8, read as in scoring.

    Raises:
        DicomError: The file cannot be read.
    """
    from pneumonia.runtime.image.radiograph import read_radiograph

    return np.asarray(read_radiograph(str(path)).pixels, dtype=np.uint8)
