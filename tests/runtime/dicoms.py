"""DICOM files for tests, written with whichever pydicom (2.3 or 3) is installed."""

import io
import struct
import zlib

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

LITTLE = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"
J2K = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
SERIES = "1.2.826.0.1.3680043.10.999"


def chest_dataset(pixels, bits=None, photometric="MONOCHROME2", **tags):
    """A DX object around stored values (H, W) of an integer type."""
    pixels = np.asarray(pixels)
    allocated = 8 * pixels.dtype.itemsize
    dataset = Dataset()
    dataset.SOPClassUID = DX
    dataset.SOPInstanceUID = SERIES + ".1.1.1"
    dataset.StudyInstanceUID = SERIES + ".1"
    dataset.SeriesInstanceUID = SERIES + ".1.1"
    dataset.Modality = "DX"
    dataset.ViewPosition = "PA"
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientAge = "045Y"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = allocated
    dataset.BitsStored = bits or allocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 1 if pixels.dtype.kind == "i" else 0
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW"
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def lut_item(values, first, bits, signed=False):
    item = Dataset()
    vr = "SS" if signed else "US"
    item.add_new("LUTDescriptor", vr, [len(values), first, bits])
    item.add_new("LUTData", "US", [int(value) for value in values])
    return item


def save(path, dataset, syntax=LITTLE, preamble=b"\0" * 128):
    """Write the dataset; PixelData must already be in the syntax's encoding."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", DX)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", SERIES)
    dataset.preamble = preamble
    if int(pydicom.__version__.split(".", maxsplit=1)[0]) >= 3:
        dataset.save_as(str(path), enforce_file_format=True)
    else:
        dataset.is_little_endian = syntax != BIG
        dataset.is_implicit_VR = syntax == IMPLICIT
        dataset.save_as(str(path), write_like_original=False)
    return path


def jpeg_bytes(pixels, quality=95):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def j2k_bytes(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", no_jp2=True)
    return stream.getvalue()


def save_compressed(path, dataset, frame, syntax=JPEG):
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return save(path, dataset, syntax)


def save_rle(path, dataset):
    save(path, dataset)
    again = pydicom.dcmread(str(path))
    again.compress(UID(RLE), generate_instance_uid=False) if hasattr(
        again, "pixel_array_options"
    ) else again.compress(UID(RLE))
    again.save_as(str(path))
    return path


def blurred(shape=(96, 80), seed=0):
    """A smooth 8-bit image: JPEG keeps it nearly as it is."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 5), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize(shape[::-1], 3))


def png_bytes(samples, interlaced=False):
    """A PNG of 16 bits per channel, uint16 (H, W, 1..4), with a different filter in each row."""
    height, width, channels = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0,
                       int(interlaced))  # fmt: skip
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)] if interlaced else [(0, 0, 1, 1)]  # fmt: skip
    rows = b"".join(_filtered(samples[top::down, left::right]) for top, left, down, right in passes)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _filtered(samples):
    """Rows of a PNG, filtered by none, Sub and Up in turn."""
    step = 2 * samples.shape[2]
    above = np.zeros(samples.shape[1] * step, np.uint8)
    rows = []
    for number, row in enumerate(samples):
        octets = np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
        left = np.concatenate([np.zeros(step, np.uint8), octets[:-step]])
        predicted = (np.zeros_like(octets), left, above)[number % 3]
        rows.append(bytes([number % 3]) + (octets - predicted).tobytes())
        above = octets
    return b"".join(rows)


def save_image(path, array, mode=None, **options):
    """Write an array with Pillow; `mode` is the image's mode in the file."""
    image = Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)
    image.save(str(path), **options)
    return path
