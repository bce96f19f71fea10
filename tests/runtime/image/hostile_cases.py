"""Headers as devices write them against the standard: what was read before, and what is right.

`python -m tests.runtime.image.hostile_cases` prints the table of `docs/reference/dicom-cases.md`.
"""

import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import numpy as np
from pydicom.dataelem import DataElement

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.age import stated_age
from pneumonia.runtime.image.dicom_header import is_for_processing
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.image.selection import WORDS_AGAINST, WORDS_WANTED, word_against
from pneumonia.runtime.image.views import stated_view
from tests.runtime.dicoms import chest_dataset, save

SIDE = 64
RAMP = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE)).astype("<u2")  # 0..4095
PLACE = b"8888888888888888"  # of a number that the case replaces
FACTS = {"PatientAge": "AS", "PatientBirthDate": "DA", "StudyDate": "DA"}


class HostileCase(NamedTuple):
    """One header.

    Attributes:
        kind: What the case is about.
        name: The value as the file holds it.
        before: What was made of it when the case was tried first; empty: the same as now.
        now: What is right.
        look: Makes the header of `name` and returns what is read, in words; gets a folder.
    """

    kind: str
    name: str
    before: str
    now: str
    look: Callable[[str, Any], str]


def header(**tags):
    """A header without view and age but those given; values need not be valid."""
    dataset = chest_dataset(np.zeros((4, 4), np.uint8), ViewPosition=None, PatientAge=None)
    for keyword, value in tags.items():
        if keyword in FACTS:
            element = DataElement(keyword, FACTS[keyword], value, already_converted=True)
            dataset[keyword] = element
        else:
            setattr(dataset, keyword, value)
    return dataset


def by_view(text, folder):
    return str(stated_view(header(ViewPosition=text)).code)


def by_words(text, folder):
    found = word_against(header(SeriesDescription=text), WORDS_AGAINST, WORDS_WANTED)
    return "skipped" if found else "scored"


def by_orientation(text, folder):
    return str(stated_view(header(PatientOrientation=text.split("\\"))).code)


def by_age(text, folder):
    return _age(header(PatientAge=text))


def by_birth(text, folder):
    return _age(header(PatientBirthDate=text, StudyDate="20240102"))


def by_study_date(text, folder):
    dataset = header(PatientBirthDate="20220101")
    keyword, _, value = text.partition(" ")
    setattr(dataset, keyword, value)
    return _age(dataset)


def _age(dataset):
    return {True: "child", False: "adult", None: "unknown"}[stated_age(dataset).is_child]


def by_intent(text, folder):
    dataset = header(PresentationIntentType=text)
    return "for processing" if is_for_processing(dataset) else "for presentation"


def by_window(text, folder):
    """Window Center `text` of a window of width 2048: a mean grey level of 191 is right."""
    return _shown({"WindowCenter": PLACE.decode(), "WindowWidth": "2048"}, text, folder)


def by_slope(text, folder):
    """Rescale slope `text` (1 or -1) below a window on 1024."""
    tags = {"RescaleSlope": PLACE.decode(), "RescaleIntercept": "0", "WindowCenter": "1024"}
    return _shown({**tags, "WindowWidth": "2048"}, text, folder)


def by_photometric(text, folder):
    tags = {"WindowCenter": "1024", "WindowWidth": "2048", "PhotometricInterpretation": text}
    return _shown(tags, "", folder)


def _shown(tags, text, folder):
    value = text.encode("utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are wrong on purpose
        path = save(folder / "film.dcm", chest_dataset(RAMP, 12, **tags))
        data = path.read_bytes()
        assert data.count(PLACE) == (1 if text else 0)
        path.write_bytes(data.replace(PLACE, value.ljust(len(PLACE), b" ")))
        try:
            found = read_radiograph(str(path))
        except DicomError as error:
            return f"{error.status}: {error.reason}"
    codes = [code for code in found.warnings if code not in ("looks_inverted", "blank_image")]
    return " ".join([f"mean {round(float(found.pixels.mean()))}", *codes])


MALFORMED = "mean 128 number_malformed window_invalid"


def rows(kind, look, text):
    """Cases of lines `value | before | now`; an empty `before` stands for the same."""
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, before, now = (part.strip() for part in line.split("|"))
        yield HostileCase(kind, name.replace("~", " "), before, now, look)


CASES = [
    *rows("View Position", by_view, """
        Lat. | | LATERAL
        LATERAL (L) | | LATERAL
        X-LAT | | LATERAL
        PROFIL GAUCHE | | LATERAL
        SAGITTAL | OTHER | LATERAL
        Seitenaufnahme | OTHER | LATERAL
        SIDE | OTHER | LATERAL
        LATERO-LAT | OTHER | LATERAL
        LATERALIZQUIERDA | OTHER | LATERAL
        LTL | OTHER | LATERAL
        AP LORDOTIC | OTHER | LORDOTIC
        APICAL | OTHER | LORDOTIC
        PA OBLIQUE | OTHER | OBLIQUE
        AP AXIAL | OTHER | AXIAL
        AX | OTHER | AXIAL
        DORSO-VENTRAL | OTHER | PA
        d.v. | OTHER | PA
        VENTRODORSAL | OTHER | AP
        p.-a. | | PA
        A/P | | AP
        SEMI ERECT AP | | AP
        PA_LAT | | OTHER
    """),
    *rows("Series Description", by_words, """
        Thorax LAT li | | skipped
        Rx torace 2P LL | | skipped
        CHEST PROFILE | scored | skipped
        CHESTLAT | scored | skipped
        Zijdelingse opname | scored | skipped
        thorax profiel | scored | skipped
        Chest RAO 45 | scored | skipped
        DECUB L | scored | skipped
        Thorax seitl.+p.a. | | scored
        Unilateral effusion | | scored
        RLL opacity | | scored
        Thorax PA links | | scored
    """),
    *rows("Patient Orientation", by_orientation, r"""
        a\f | | LATERAL
        AF\F | | LATERAL
        A\ | None | LATERAL
        L\H | | None
        LA\F | | None
    """),
    *rows("Patient Age", by_age, """
        017Y | | child
        6570D | | child
        216M | | adult
        2J | unknown | child
        2A | unknown | child
        3T | unknown | child
        2 años | unknown | child
        10 semaines | unknown | child
        8 jours | unknown | child
        5 giorni | unknown | child
        12 mths | unknown | child
        2.5Y | unknown | child
        2,5Y | unknown | child
        2y 3m | unknown | child
        17y 14m | unknown | adult
        P2Y | unknown | child
        2 yrs old | unknown | child
        -02Y | | unknown
        NEWBORN | | unknown
        045 | | unknown
    """),
    *rows("birth date, study of 20240102", by_birth, """
        20220000 | | child
        01.01.2022 | unknown | child
        01/02/2022 | unknown | child
        2022-1-1 | unknown | child
        20220101120000 | unknown | child
        2022-01-01T00:00:00 | unknown | child
        1-JAN-2022 | unknown | child
        1.1.2006 | | unknown
        31.12.1950 | unknown | adult
        20221301 | | unknown
        220101 | | unknown
    """),
    *rows("study date, born 20220101", by_study_date, """
        AcquisitionDateTime 20240102101112.00 | unknown | child
        ContentDate 20240102 | | child
        StudyDate 2024.01.02 | | child
    """),
    *rows("Presentation Intent Type", by_intent, """
        for processing | | for processing
        FOR_PROCESSING | | for processing
        FORPROCESSING | for presentation | for processing
        PROCESSING | for presentation | for processing
        FOR PRESENTATION | | for presentation
    """),
    *rows("Photometric Interpretation", by_photometric, """
        monochrome2 | rejected: photometric_interpretation | mean 191
        MONOCHROME 2 | rejected: photometric_interpretation | mean 191
        Monochrome1 | rejected: photometric_interpretation | mean 64
        MONOCHROME | | rejected: photometric_interpretation
        PALETTE COLOR | | rejected: colour
    """),
    *rows("Window Center 1024", by_window, f"""
        1.024E+3 | | mean 191
        +1024 | | mean 191
        1024. | | mean 191
        1024,0 | | mean 191 decimal_comma
        1024,5E0 | | mean 191 decimal_comma
        1_024 | mean 191 | {MALFORMED}
        1,024.0 | | {MALFORMED}
        1.024,0 | | {MALFORMED}
        1 024 | | {MALFORMED}
        0x400 | | {MALFORMED}
        1024d0 | | {MALFORMED}
        1E400 | | {MALFORMED}
        1024 HU | | {MALFORMED}
        −1024 | | {MALFORMED}
        NaN | | {MALFORMED}
    """),
    *rows("Rescale Slope", by_slope, """
        1,0 | | mean 191 decimal_comma
        1e0 | | mean 191
        0 | | mean 191 rescale_slope_zero
        1_0 | mean 249 | mean 191 number_malformed rescale_incomplete
        -1 | | mean 0
    """),
]  # fmt: skip


def table():
    """The cases as a Markdown table."""
    lines = ["| header | value | before | now |", "|---|---|---|---|"]
    for case in CASES:
        cells = (case.kind, f"`{case.name}`", case.before or "same", case.now)
        lines.append("| " + " | ".join(re.sub(r"\|", r"\\|", cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    click.echo(table(), nl=False)
