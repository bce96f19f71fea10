"""Phantoms as RSNA stores its radiographs, for the benchmarks of scoring."""

from pathlib import Path

import numpy as np
from pydicom.uid import JPEGBaseline8Bit

from data_prep.phantom.dicom_file import DicomEncoding, PhantomStudy, encode_dicom
from data_prep.phantom.study import plan_phantoms, render_film

PICTURES = 8  # rendering takes longer than scoring; a picture may repeat under many names
RSNA = DicomEncoding(8, False, False, 1.0, 0.0, JPEGBaseline8Bit, 90)


def write_dicoms(folder: Path, count: int, side: int = 1024) -> list[Path]:
    """Write `count` DICOM files (JPEG baseline, side x side), each a study of its own."""
    folder.mkdir(parents=True)
    plans = plan_phantoms(PICTURES, seed=0)
    films = [render_film(plan, 0, side).pixels for plan in plans]
    paths = []
    for number in range(count):
        plan = plans[number % PICTURES]
        study = PhantomStudy(
            f"bench-{number:05d}", f"P{number:05d}", plan.patient.sex, 50, plan.view
        )
        data = encode_dicom(films[number % PICTURES], study, RSNA, np.random.default_rng(number))
        paths.append(folder / f"{number:05d}.dcm")
        paths[-1].write_bytes(data)
    return paths
