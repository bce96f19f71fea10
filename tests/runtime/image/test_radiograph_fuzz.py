"""Damaged bytes and real odd files: a grey image or a named refusal, never another exception.

Spans: pneumonia.runtime.image.
"""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.image.read_limits import ReadLimits
from tests.runtime.dicoms import (
    blurred,
    chest_dataset,
    j2k_bytes,
    jpeg_bytes,
    save,
    save_compressed,
    save_image,
)

STATUSES = {"rejected", "failed", "skipped"}
LIMITS = ReadLimits(max_pixels=1 << 20, allow_deflated=True, first_frame=True)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    picture = blurred((40, 48))
    wide = chest_dataset(picture.astype(np.uint16) * 16, 12, WindowCenter=2000, WindowWidth=4000)
    paths = [
        save(folder / "a.dcm", wide),
        save_compressed(folder / "b.dcm", chest_dataset(picture), jpeg_bytes(picture)),
        save_compressed(
            folder / "c.dcm", chest_dataset(picture), j2k_bytes(picture), "1.2.840.10008.1.2.4.90"
        ),
        save_image(folder / "d.png", picture),
        save_image(folder / "e.jpg", picture),
    ]
    return [path.read_bytes() for path in paths]


def read_or_refuse(path):
    try:
        return read_radiograph(path, LIMITS)
    except DicomError as error:
        return error


@given(data=st.data())
def test_damaged_files(originals, tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(originals)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(1, len(content)))
    path = tmp_path_factory.mktemp("f") / "x"
    path.write_bytes(bytes(content if data.draw(st.booleans()) else content[:end]))
    found = read_or_refuse(path)
    if isinstance(found, DicomError):
        assert found.status in STATUSES
        assert found.reason
    else:
        assert found.pixels.dtype == np.uint8
        assert found.pixels.ndim == 2


def zoo():
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("PNEUMONIA_DATA", default)) / "dicom-zoo"
    return folder if folder.is_dir() else None


@pytest.mark.real_data
@pytest.mark.skipif(zoo() is None, reason="no dicom-zoo: set PNEUMONIA_DATA")
def test_every_file_of_the_zoo_is_read_or_refused_by_name():
    refused = {}
    with (zoo() / "index.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    means = {}
    for row in rows:
        try:
            found = read_radiograph(zoo() / row["file"])
        except DicomError as error:
            refused[row["file"]] = error.reason
            continue
        assert found.pixels.shape == (int(row["rows"]), int(row["cols"])), row["file"]
        assert found.info["inverted"] == (row["photometric"] == "MONOCHROME1")
        assert len(np.unique(found.pixels)) > 4, row["file"]
        means[row["file"]] = found.pixels.mean()
    assert set(refused.values()) <= {
        "deflated",
        "transfer_syntax",
        "bits_allocated",
        "dimension_mismatch",
        "pixel_data_truncated",
    }
    assert refused["pydicom_test_files_MR_truncated.dcm"] == "pixel_data_truncated"
    assert refused["pydicom_test_files_image_dfl.dcm"] == "deflated"
    # the same picture in several codings, some of them slightly lossy
    for family, n_least in (("RG3", 4), ("MR_small", 7)):
        values = [value for name, value in means.items() if family in name and "padded" not in name]
        assert len(values) >= n_least
        assert max(values) - min(values) < 0.1
