"""Decode one source image into the cache format; runs in worker processes."""

from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.errors import InvalidDicomError

from data_prep.dataset.reader import DatasetImage
from data_prep.dataset.writer import CachedImage, to_cache
from pneumonia.runtime.age_text import age_years
from pneumonia.runtime.errors import DataError, DicomError
from pneumonia.runtime.image.attributes import first_text
from pneumonia.runtime.image.radiograph import read_radiograph

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
VIEWS = ("AP", "PA")
SEXES = ("F", "M")
_TAGS = ["PatientID", "PatientAge", "PatientSex", "ViewPosition"]


class ImportedImage(NamedTuple):
    """A decoded image, or the reason why decoding failed."""

    cached: CachedImage | None  # the grey image at cache size; None when it could not be read
    width: int = 0  # width of the original image in pixels
    height: int = 0  # height of the original image in pixels
    patient_id: str = ""  # PatientID of the DICOM header
    age: str = ""  # from the header, for example `056Y`
    sex: str = ""  # `F`, `M` or empty, from the header
    view: str = ""  # `AP`, `PA` or empty, from the header
    rotated: bool = False  # whether EXIF data state another orientation than the stored pixels have
    reason: str = ""  # short code when `cached` is None
    detail: str = ""  # the reason as a sentence, without patient identifiers


def one_of(text: str, allowed: tuple[str, ...]) -> str:
    """The text without blanks around it if it is an allowed one, else an empty string."""
    return text.strip() if text.strip() in allowed else ""


def decode_image(path: Path, cache_size: int) -> ImportedImage:
    """Read a DICOM, PNG or JPEG file as in scoring and scale it for the cache."""
    try:
        radiograph = read_radiograph(str(path))
    except DicomError as error:
        return ImportedImage(None, reason=error.reason, detail=error.what)
    except (DataError, OSError):
        return ImportedImage(None, reason="unreadable")
    pixels = radiograph.pixels
    height, width = pixels.shape
    header = _header(path) if path.suffix.lower() not in _PICTURE_SUFFIXES else {}
    return ImportedImage(
        to_cache(pixels, cache_size),
        width,
        height,
        patient_id=header.get("PatientID", ""),
        age=header.get("PatientAge", ""),
        sex=one_of(header.get("PatientSex", ""), SEXES),
        view=one_of(header.get("ViewPosition", ""), VIEWS),
        rotated="exif_orientation_ignored" in radiograph.warnings,
    )


def parse_age(text: str) -> int | None:
    """Whole years of an age; None when absent, malformed or implausible."""
    years = age_years(text)
    return None if years is None else int(years)


def dataset_record(image: ImportedImage, image_id: str, kind: str, patient_id: str) -> DatasetImage:
    """The record of a decoded image: in `train` until all patients are known, without a class."""
    return DatasetImage(
        image_id=image_id,
        kind=kind,
        split="train",
        patient_id=patient_id,
        class_name="",
        view=image.view,
        sex=image.sex,
        age=parse_age(image.age),
        width=image.width,
        height=image.height,
        labelled=True,
    )


def _header(path: Path) -> dict[str, str]:
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except (InvalidDicomError, OSError, ValueError):
        return {}
    return {tag: first_text(dataset, tag) for tag in _TAGS}
