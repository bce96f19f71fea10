"""Which image a file holds, whatever its transfer syntax, file meta information or writer."""

import hashlib
from typing import Any

import numpy as np

from pneumonia.runtime.image.attributes import joined_text

# What a result takes from its source to be filed under the right patient, study and image.
IDENTITY = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber",
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyDate",
)  # fmt: skip


def content_digest(stored: np.ndarray, shown: np.ndarray, dataset: Any) -> str:
    """SHA-256 (hex) of the pixels and the identity of the header.

    Explicit and implicit VR, raw and losslessly compressed pixels, another character set or writer
    give the same digest; other pixels, another grey scale or another patient do not.

    Args:
        stored: Stored values, integers of at most 16 bits (H, W).
        shown: The grey image, uint8 (H, W).
        dataset: Its header.
    """
    texts = [joined_text(dataset, keyword).rstrip("^ ") for keyword in IDENTITY]
    texts.append("{} {} {}".format(stored.shape[0], stored.shape[1], int(stored.min()) < 0))
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass"))
    is_small = stored.dtype == np.uint8 or (stored.min() >= 0 and stored.max() < 256)
    kind = np.uint8 if is_small else np.dtype("<u2")  # whichever width the file allocates
    digest.update(np.ascontiguousarray(stored.astype(kind, copy=False)).data)
    digest.update(np.ascontiguousarray(shown).data)
    return digest.hexdigest()
