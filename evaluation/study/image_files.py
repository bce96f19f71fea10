"""Find and read the radiograph of an image id in a folder."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", "")


def find_image(folder: str | Path, image_id: str) -> Path | None:
    """The file `IMAGE_ID.{png,jpg,jpeg,dcm}` or `IMAGE_ID` directly in a folder, or None."""
    if not image_id or os.path.basename(image_id) != image_id:
        return None  # an id is never a way out of the folder
    for suffix in SUFFIXES:
        path = Path(folder) / (image_id + suffix)
        if path.is_file():
            return path
    return None


def read_pixels(path: str | Path) -> NDArray[np.uint8]:
    """The radiograph as 2-D uint8, read as the deployed model reads it.

    Raises:
        DicomError: It cannot be read.
    """
    from pneumonia.runtime.radiograph import read_radiograph

    return np.asarray(read_radiograph(str(path)).pixels, dtype=np.uint8)
