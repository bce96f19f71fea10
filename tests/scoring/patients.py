"""Several patients with their files, some of them damaged or with hostile names."""

from pathlib import Path

from PIL import Image

from tests.runtime.dicoms import SERIES, chest_dataset, save, save_compressed

HOSTILE = '<img src=x onerror=alert(1)>&"'


def patient(number, **tags):
    """Identity and UIDs of one of several patients."""
    base = f"{SERIES}.{number}"
    return {
        "PatientName": f"CANARY^PHI{number}",
        "PatientID": f"CANARY{number}",
        "PatientBirthDate": "19600101",
        "PatientSex": "O",
        "StudyDate": "20200102",
        "StudyTime": "101112",
        "AccessionNumber": f"ACC{number}",
        "StudyID": "1",
        "ReferringPhysicianName": "",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "PatientOrientation": ["L", "F"],
        "SOPInstanceUID": base + ".1.1",
        "StudyInstanceUID": base,
        "SeriesInstanceUID": base + ".1",
        **tags,
    }


def fill(folder: Path, bright, dark):
    folder.mkdir(parents=True)
    two = bright.copy()
    two[48:64, 0:16] = 240
    save(folder / "one.dcm", chest_dataset(bright, PixelSpacing=[0.5, 0.25], **patient(1)))
    save(folder / "two.dcm", chest_dataset(two, **patient(2)))
    save(folder / "none.dcm", chest_dataset(dark, **patient(3)))
    save(folder / "nameless.dcm", chest_dataset(bright, **patient(4, SOPInstanceUID=None)))
    Image.fromarray(bright).save(folder / f"{HOSTILE}.png")
    save(folder / "side.dcm", chest_dataset(bright, ViewPosition="LL", **patient(5)))
    cut = save(folder / "cut.dcm", chest_dataset(bright, **patient(6)))
    cut.write_bytes(cut.read_bytes()[:-999])
    save_compressed(folder / "noise.dcm", chest_dataset(bright, **patient(7)), b"x" * 300)
    (folder / "text.dcm").write_text(HOSTILE)
