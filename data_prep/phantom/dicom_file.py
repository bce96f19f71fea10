"""Store a film as DICOM with varying bit depth, polarity, window and transfer syntax."""

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    generate_uid,
)

from data_prep.phantom.canvas import Layer

FRAME_MM = 360.0  # side of the imaged field


class DicomEncoding(NamedTuple):
    """DICOM encoding of a film."""

    bits: int  # bits stored, 8 to 14
    inverted: bool  # MONOCHROME1 instead of MONOCHROME2
    windowed: bool  # the film fills only part of the stored range and a window selects it
    slope: float  # rescale slope; 1 with intercept 0 means that no rescale is written
    intercept: float  # rescale intercept
    transfer_syntax: str  # DICOM UID
    jpeg_quality: int  # quality of JPEG baseline; 0 for other syntaxes


class PhantomStudy(NamedTuple):
    """Header attributes of one phantom film."""

    image_id: str
    patient_id: str
    sex: str
    age: int
    view: str


def sample_encoding(rng: np.random.Generator) -> DicomEncoding:
    """Draw an encoding: half as the RSNA files are (8-bit JPEG), half as other archives'."""
    if rng.random() < 0.5:
        return DicomEncoding(8, False, False, 1.0, 0.0, JPEGBaseline8Bit, int(rng.integers(85, 96)))
    bits = int(rng.choice([8, 10, 12, 14]))
    rescaled = bits > 8 and rng.random() < 0.4
    syntax = ExplicitVRLittleEndian if rng.random() < 0.7 else ImplicitVRLittleEndian
    return DicomEncoding(
        bits=bits,
        inverted=bool(rng.random() < 0.4),
        windowed=bits > 8,  # without a window, 8 bits are what is shown
        slope=float(rng.choice([0.5, 2.0])) if rescaled else 1.0,
        intercept=float(rng.choice([-1024.0, 100.0])) if rescaled else 0.0,
        transfer_syntax=syntax,
        jpeg_quality=0,
    )


def encode_dicom(
    film: Layer, study: PhantomStudy, encoding: DicomEncoding, rng: np.random.Generator
) -> bytes:
    """A DICOM file of a film.

    Args:
        film: float32 (size, size), 0 black .. 1 white as shown to a reader.
        rng: Generator that draws the part of the stored range selected by the window.

    Returns:
        The file's bytes; the same arguments give the same bytes.
    """
    dataset = _header(study, encoding)
    size = film.shape[0]
    dataset.Rows, dataset.Columns = film.shape
    dataset.ImagerPixelSpacing = [f"{FRAME_MM / size:.6g}"] * 2
    _set_pixels(dataset, film, encoding, rng)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _header(study: PhantomStudy, encoding: DicomEncoding) -> FileDataset:
    computed = encoding.bits == 10 or encoding.transfer_syntax == JPEGBaseline8Bit
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = (
        ComputedRadiographyImageStorage if computed else DigitalXRayImageStorageForPresentation
    )
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["instance", study.image_id])
    meta.TransferSyntaxUID = encoding.transfer_syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", study.image_id])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", study.image_id])
    dataset.Modality = "CR" if computed else "DX"
    dataset.Manufacturer = "Phantom"
    dataset.ImageComments = "Synthetic phantom, not a patient"
    dataset.PatientName = "Phantom^" + study.patient_id
    dataset.PatientID = study.patient_id
    dataset.PatientSex = study.sex
    dataset.PatientAge = f"{study.age:03d}Y"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = study.view
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.ReferringPhysicianName = dataset.PatientBirthDate = ""
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    return dataset


def _set_pixels(
    dataset: FileDataset, film: Layer, encoding: DicomEncoding, rng: np.random.Generator
) -> None:
    top = (1 << encoding.bits) - 1
    low, high = 0.0, float(top)
    if encoding.windowed:
        low, high = (
            float(round(rng.uniform(0.02, 0.2) * top)),
            float(round(rng.uniform(0.7, 0.95) * top)),
        )
    stored = np.clip(np.round(low + film.astype(np.float64) * (high - low)), 0, top)
    if encoding.inverted:
        stored, low, high = top - stored, top - high, top - low
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if encoding.inverted else "MONOCHROME2"
    dataset.BitsAllocated = 8 if encoding.bits == 8 else 16
    dataset.BitsStored = encoding.bits
    dataset.HighBit = encoding.bits - 1
    dataset.PixelRepresentation = 0
    if encoding.slope != 1.0 or encoding.intercept != 0.0:
        dataset.RescaleSlope, dataset.RescaleIntercept = encoding.slope, encoding.intercept
        dataset.RescaleType = "US"
    if encoding.windowed:
        # PS3.3 C.11.2.1.2.1: black at c - 0.5 - (w-1)/2, white at c - 0.5 + (w-1)/2
        first = low * encoding.slope + encoding.intercept
        last = high * encoding.slope + encoding.intercept
        dataset.WindowCenter = f"{(first + last) / 2 + 0.5:.10g}"
        dataset.WindowWidth = f"{last - first + 1:.10g}"
    if encoding.transfer_syntax == JPEGBaseline8Bit:
        dataset.PixelData = encapsulate([_jpeg(stored.astype(np.uint8), encoding.jpeg_quality)])
        dataset["PixelData"].is_undefined_length = True
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
        return
    dtype = np.uint8 if encoding.bits == 8 else np.dtype("<u2")
    data = stored.astype(dtype).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if encoding.bits == 8 else "OW"


def _jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()
