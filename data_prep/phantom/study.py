"""Whole phantom studies, and a dataset folder of them that is ready to train on."""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from data_prep.dataset.reader import DatasetImage
from data_prep.dataset.splits import SplitImage, assign_splits
from data_prep.dataset.writer import CachedImage, DatasetFacts, is_up_to_date, new_dataset, to_cache
from data_prep.parallel import ordered_map
from data_prep.phantom.anatomy import PhantomPatient, render_chest, sample_patient
from data_prep.phantom.canvas import Canvas, Layer
from data_prep.phantom.dicom_file import PhantomStudy, encode_dicom, sample_encoding
from data_prep.phantom.film import expose, sample_pose
from data_prep.phantom.findings import (
    DISTRACTORS,
    HARMLESS,
    MAX_BOXES,
    add_distractors,
    add_opacities,
)
from pneumonia.runtime.csv_tables import csv_text
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.label_table import LABEL_FRAME, LUNG_OPACITY, NORMAL, NOT_NORMAL
from pneumonia.runtime.progress import Progress

VERSION = 1  # increase when the same seed draws different films
MIN_SIZE, MAX_SIZE = 64, 4096
MAX_COUNT = 99_999
FRACTIONS = (0.7, 0.15, 0.15)
_CLASS_SHARES = {LUNG_OPACITY: 0.45, NOT_NORMAL: 0.30, NORMAL: 0.25}
_BOX_COUNT_SHARES = (0.45, 0.50, 0.05)  # as in RSNA: one, two, three


class FilmPlan(NamedTuple):
    """Content of one phantom film, drawn before rendering."""

    number: int
    image_id: str
    patient: PhantomPatient
    class_name: str
    view: str


class PhantomFilm(NamedTuple):
    """A rendered phantom."""

    pixels: Layer  # float32 (size, size), 0 black .. 1 white as shown to a reader
    # float32 (n, 4) xyxy in pixels; on the whole numbers of the frame of 1024
    boxes: npt.NDArray[np.float32]
    findings: tuple[str, ...]  # names of the distractors in it


class _Written(NamedTuple):
    cached: CachedImage
    boxes: npt.NDArray[np.float32]


class _Task(NamedTuple):
    plan: FilmPlan
    seed: int
    size: int
    folder: str


def plan_phantoms(count: int, seed: int) -> list[FilmPlan]:
    """Draw patients (one to three films each), classes and views.

    Class shares are exact to one film; opacities are more frequent on AP films, as in practice.
    """
    rng = np.random.default_rng([seed, VERSION])
    shares = np.array(list(_CLASS_SHARES.values()))
    bounds = np.round(np.cumsum(shares) * count).astype(int)
    names = np.array(list(_CLASS_SHARES))[np.searchsorted(bounds, np.arange(count), side="right")]
    classes = [str(name) for name in rng.permutation(names)]
    plans: list[FilmPlan] = []
    n_patients = 0
    while len(plans) < count:
        patient = sample_patient(rng, f"PH{n_patients:05d}")
        n_patients += 1
        films = min(int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])), count - len(plans))
        for _ in range(films):
            class_name = classes[len(plans)]
            view = "AP" if rng.random() < (0.6 if class_name == LUNG_OPACITY else 0.4) else "PA"
            number = len(plans)
            plans.append(FilmPlan(number, f"phantom-{number:05d}", patient, class_name, view))
    return plans


def render_film(plan: FilmPlan, seed: int, size: int) -> PhantomFilm:
    """Render one planned film; the same arguments give the same film."""
    # the process pool distributes the cores; extra threads would compete for them
    cv2.setNumThreads(0)
    rng = np.random.default_rng([seed, VERSION, plan.number])
    supine = plan.view == "AP"
    canvas = Canvas(size, sample_pose(rng, supine))
    findings, heart_scale = _sample_findings(plan.class_name, rng)
    chest = render_chest(canvas, plan.patient, supine, heart_scale, rng)
    chest = add_distractors(canvas, chest, findings, rng)
    density, boxes = chest.density, np.zeros((0, 4))
    if plan.class_name == LUNG_OPACITY:
        n_boxes = int(rng.choice(np.arange(1, MAX_BOXES + 1), p=_BOX_COUNT_SHARES))
        density, boxes = add_opacities(canvas, chest, n_boxes, rng)
    frame = np.concatenate(
        [np.floor(boxes[:, :2] * LABEL_FRAME), np.ceil(boxes[:, 2:] * LABEL_FRAME)], axis=1
    )
    names = (*findings, "large heart") if heart_scale > 1.2 else findings
    pixels = expose(canvas, density, supine, rng)
    return PhantomFilm(pixels, (frame * (size / LABEL_FRAME)).astype(np.float32), names)


def _sample_findings(class_name: str, rng: np.random.Generator) -> tuple[tuple[str, ...], float]:
    """Draw distractors and the heart's scale; `Not Normal` has a distractor or a large heart."""
    if class_name == NORMAL:
        return (), 1.0
    names = [name for name in HARMLESS if rng.random() < 0.2]
    if class_name == LUNG_OPACITY:
        if rng.random() < 0.15:
            names.append("effusion")
        return tuple(names), float(rng.choice([1.0, 1.25], p=[0.85, 0.15]))
    heart_scale = float(rng.uniform(1.25, 1.5)) if rng.random() < 0.3 else 1.0
    others = sorted(set(DISTRACTORS) - set(HARMLESS))
    wanted = int(rng.integers(0 if names or heart_scale > 1 else 1, 3))
    names += [str(name) for name in rng.choice(others, size=wanted, replace=False)]
    return tuple(names), heart_scale


def make_phantoms(
    out: str | Path,
    count: int,
    seed: int = 0,
    size: int = 512,
    workers: int | None = None,
    progress: Progress | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> bool:
    """Write phantom studies and the dataset folder made of them.

    `out` becomes a dataset folder (see `docs/architecture.md`) that also holds `dicom/*.dcm` and
    `class_info.csv`, so that it can be imported again like RSNA's data. Its images are the DICOM
    files as read in scoring.

    Args:
        out: New folder, or a phantom dataset to replace.
        count: Number of films.
        seed: The same seed, count and size give the same films, labels and splits.
        size: Side in pixels.
        workers: Processes; None = one per core.
        progress: Called with (done, total, note).
        fractions: Shares of the patients in train, val and test; their sum is 1.

    Returns:
        False when `out` already holds exactly this dataset and nothing was done.

    Raises:
        ConfigError: Count, size or fractions out of range.
        OutputError: `out` holds something else or cannot be written.
    """
    out = Path(out)
    _check_range("count", count, 1, MAX_COUNT)
    _check_range("size", size, MIN_SIZE, MAX_SIZE)
    _check_range("seed", seed, 0, 2**31 - 1)
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ConfigError(
            "Fractions of train, val and test are out of range",
            expected="three shares >= 0 whose sum is 1",
            found=" ".join(f"{share:g}" for share in fractions),
        )
    key = hashlib.sha256(
        f"phantom {VERSION} {count} {seed} {size} {fractions}".encode()
    ).hexdigest()
    if is_up_to_date(out, key) and (out / "dicom").is_dir():
        return False
    plans = plan_phantoms(count, seed)
    images = [
        SplitImage(plan.patient.patient_id, plan.class_name == LUNG_OPACITY) for plan in plans
    ]
    split = assign_splits(images, seed, fractions)
    with new_dataset(out, "phantom") as writer:
        dicom = writer.folder / "dicom"
        dicom.mkdir()
        tasks = [_Task(plan, seed, size, str(dicom)) for plan in plans]
        results = ordered_map(_write_study, tasks, workers, progress)
        for plan, written in zip(plans, results, strict=True):
            writer.add(_record(plan, size), written.cached, written.boxes)
        writer.set_splits(split.splits)
        _write_classes(writer.folder / "class_info.csv", plans)
        writer.finish(
            DatasetFacts(
                source={"type": "phantom", "count": count, "seed": seed, "size": size},
                source_key=key,
                cache_size=size,
                split={"method": split.method, "seed": seed, "leak_warning": None},
                rejected=[],
                adjusted={},
            )
        )
    return True


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(
            f"Phantom {name} is out of range", expected=f"{low} to {high}", found=repr(value)
        )


def _record(plan: FilmPlan, size: int) -> DatasetImage:
    patient = plan.patient
    return DatasetImage(
        image_id=plan.image_id,
        kind="phantom",
        split="train",  # replaced by `set_splits`
        patient_id=patient.patient_id,
        class_name=plan.class_name,
        view=plan.view,
        sex=patient.sex,
        age=patient.age,
        width=size,
        height=size,
        labelled=True,
    )


def _write_study(task: _Task) -> _Written:
    plan = task.plan
    film = render_film(plan, task.seed, task.size)
    # a separate random stream: the encoding of a film does not change its content
    rng = np.random.default_rng([task.seed, VERSION, plan.number, 1])
    study = PhantomStudy(
        plan.image_id, plan.patient.patient_id, plan.patient.sex, plan.patient.age, plan.view
    )
    path = Path(task.folder) / f"{plan.image_id}.dcm"
    path.write_bytes(encode_dicom(film.pixels, study, sample_encoding(rng), rng))
    return _Written(to_cache(read_radiograph(str(path)).pixels, task.size), film.boxes)


def _write_classes(path: Path, plans: list[FilmPlan]) -> None:
    rows = ((plan.image_id, plan.class_name) for plan in plans)
    path.write_text(csv_text(("patientId", "class"), rows), encoding="utf-8")
