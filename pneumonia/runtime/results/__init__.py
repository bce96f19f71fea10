"""Results as DICOM objects beside their source: structured report, presentation state, capture.

    facts = ResultFacts.from_bundle(bundle, "balanced")
    for kind, dataset in build_results(source, pixels, prediction, facts).items():
        write_dicom(kind + ".dcm", dataset)

`score --dicom` and the daemon write these.
"""

import warnings as python_warnings
from typing import Dict, Sequence

import numpy as np
from pydicom.dataset import Dataset

from pneumonia.runtime.image.dicom_header import spacing_mm
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results.capture import SECONDARY_CAPTURE, build_capture
from pneumonia.runtime.results.facts import ImageResult, ResultFacts, result_of
from pneumonia.runtime.results.files import file_bytes, write_dicom
from pneumonia.runtime.results.header import (
    header_bytes,
    header_from_bytes,
    header_warnings,
    source_header,
)
from pneumonia.runtime.results.identity import NOW, ObjectCreation, identify
from pneumonia.runtime.results.objects import check_source
from pneumonia.runtime.results.presentation import GREYSCALE_STATE, build_presentation
from pneumonia.runtime.results.report import COMPREHENSIVE_SR, build_report

__all__ = [
    "KINDS",
    "KIND_OF",
    "SOP_CLASSES",
    "SYNTAXES",
    "ImageResult",
    "ObjectCreation",
    "ResultFacts",
    "build_results",
    "file_bytes",
    "header_bytes",
    "header_from_bytes",
    "header_warnings",
    "result_of",
    "source_header",
    "write_dicom",
]

KIND_OF = {"sr": "SR", "gsps": "PR", "sc": "SC"}  # name in options and settings -> kind
KINDS = tuple(KIND_OF.values())
SOP_CLASSES = {"sr": COMPREHENSIVE_SR, "gsps": GREYSCALE_STATE, "sc": SECONDARY_CAPTURE}
# What the objects can be written in. Each peer accepts the latter (PS3.5 10.1); a peer that may
# choose big endian, which pynetdicom offers as well, would be sent nothing.
SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


def build_results(
    source: Dataset,
    pixels: np.ndarray,
    prediction: Prediction,
    facts: ResultFacts,
    kinds: Sequence[str] = KINDS,
    warnings: Sequence[str] = (),
    creation: ObjectCreation = NOW,
) -> Dict[str, Dataset]:
    """The results of one image, in the source's study, ready for `write_dicom`.

    The same source, pixels, prediction, model and threshold give the same UIDs; with the same time
    of creation, the same bytes.

    Args:
        source: Header of the image (pixel data is not read).
        pixels: The image as it is displayed, uint8 (H, W); only the capture needs it.
        prediction: Boxes in pixels of the source; those below the threshold are left out.
        kinds: Some of KINDS.
        warnings: Codes of warnings; `degraded` makes an image without a box indeterminate.
        creation: When the objects are made, and what exists already for this image.

    Returns:
        Kind -> dataset, in the order of `kinds`.

    Raises:
        DicomError: The source names no SOP class or instance.
    """
    header = source_header(source)
    check_source(header)
    header.Rows, header.Columns = prediction.height, prediction.width
    result = result_of(prediction, facts.threshold, spacing_mm(header), warnings)
    made: Dict[str, Dataset] = {}
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # pydicom's warnings quote values of the file
        for kind in kinds:
            if kind == "SR":
                made[kind] = build_report(header, result, facts)
            elif kind == "PR":
                made[kind] = build_presentation(header, result, facts)
            else:
                made[kind] = build_capture(header, pixels, result, facts)
            identify(made[kind], kind, header, creation)
    return made
