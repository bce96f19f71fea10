"""Downloads of the manager's page: tables, DICOM reports, KCAT files, a dataset folder."""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom

from data_prep.annotation.agreement.consensus import StudyTruth, truth_of
from data_prep.annotation.exports.kcat import KcatDocument, KcatMention, kcat_entity, write_kcat
from data_prep.annotation.exports.structured_report import build_reading_report
from data_prep.annotation.exports.tables import class_csv, coco_json, left_out_csv, rsna_csv
from data_prep.annotation.exports.training_set import write_training_set
from data_prep.annotation.mention_links import vote_links
from data_prep.annotation.project import AnnotationProject, readers_only
from data_prep.annotation.workspace.database import WorkspaceDatabase
from data_prep.annotation.workspace.records import (
    REPEAT,
    MentionLink,
    Reading,
    Study,
    annotation_json,
)
from data_prep.reports.findings.concepts import NIL
from pneumonia.runtime.errors import DISCLAIMER, DataError, DicomError
from pneumonia.runtime.results import file_bytes


def _studies(project: AnnotationProject) -> dict[str, Study]:
    return {study.image_id: study for study in project.store.studies() if not study.reason}


def _truths(project: AnnotationProject) -> dict[str, StudyTruth]:
    known = _studies(project)
    return {
        name: truth_of(made, project.base)
        for name, made in project.consensus().items()
        if name in known
    }


def _member(study: Study, suffix: str) -> str:
    """Archive member name with only ASCII letters, digits, `.`, `_` and `-`: no path parts."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", study.image_id).lstrip(".")[:80]
    return f"{study.key:05d}_{stem}{suffix}"


def rsna_bytes(project: AnnotationProject) -> bytes:
    """The official label csv."""
    return rsna_csv(_truths(project), _studies(project)).encode()


def class_bytes(project: AnnotationProject) -> bytes:
    """The official class csv."""
    return class_csv(_truths(project)).encode()


def left_out_bytes(project: AnnotationProject) -> bytes:
    """Csv of the studies that the csv files and COCO leave out, with the reason."""
    return left_out_csv(_truths(project)).encode()


def coco_bytes(project: AnnotationProject) -> bytes:
    """COCO JSON of the consensus."""
    known = _studies(project)
    made = [c for name, c in project.consensus().items() if name in known]
    return json.dumps(coco_json(made, known, project.base), indent=1, allow_nan=False).encode()


def readings_bytes(project: AnnotationProject) -> bytes:
    """All readings as JSON, each with its first revision that had a verdict.

    In a blinded project `first_finished` was made without the report and suggestions.
    """
    known = _studies(project)
    first = first_finished(project.database)
    rows: list[dict[str, Any]] = [
        {
            **r._asdict(),
            "annotator": r.annotator.removesuffix(REPEAT),
            "repeat": r.annotator.endswith(REPEAT),
            "annotations": [annotation_json(a) for a in r.annotations],
            "mentions": [link._asdict() for link in r.mentions],
            "first_finished": first.get((name, r.annotator)),
        }
        for repeats in (False, True)
        for name, readings in project.store.readings(repeats=repeats).items()
        if name in known
        for r in readings
    ]
    table = {"schema": "pneumonia.readings/1", "disclaimer": DISCLAIMER, "readings": rows}
    return json.dumps(table, indent=1, allow_nan=False).encode()


def reports_zip(project: AnnotationProject) -> bytes:
    """Archive with one structured report per DICOM study; studies without one are listed."""
    skipped: list[str] = []
    members: dict[str, bytes] = {}
    known = _studies(project)
    for name, made in project.consensus().items():
        if name not in known:
            continue
        study = known[name]
        try:
            header = _header(project.path(study))
            members[_member(study, ".dcm")] = file_bytes(build_reading_report(header, made))
        except (DicomError, DataError):
            skipped.append(f"{study.key:05d}: not a DICOM image")
    return _zip(members, skipped)


def _header(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values of the file
        try:
            return pydicom.dcmread(path, stop_before_pixels=True)
        except Exception as error:  # parsers of foreign files may raise any exception
            raise DataError("Not a DICOM image", found=type(error).__name__) from None


def kcat_zip(project: AnnotationProject) -> bytes:
    """KCAT text files: one folder per annotator and one of the majority, one file per report."""
    known = _studies(project)
    members: dict[str, bytes] = {}
    skipped: list[str] = []
    numbers = {person.name: n for n, person in enumerate(project.people.annotators(), 1)}
    for name, readings in project.store.readings().items():
        report = project.reports.get(name)
        if name not in known or report is None or report.reason:
            continue
        proposed = project.proposed(name)
        done = [reading for reading in readings if reading.finished]
        documents = {
            _folder(r.annotator, numbers): _document(project, report.text, proposed, r)
            for r in done
        }
        if len(readers_only(done)) > 1:
            links = vote_links(project.base, proposed, readers_only(done))
            documents["majority"] = _links_document(
                project, report.text, links, {item.span for item in links}
            )
        for folder, document in documents.items():
            try:
                text = write_kcat(document)
            except DataError:
                skipped.append(f"{known[name].key:05d}: text cannot be written")
                continue
            members[f"{folder}/{_member(known[name], '.txt')}"] = text.encode()
    return _zip(members, skipped)


def _folder(annotator: str, numbers: Mapping[str, int]) -> str:
    """Folder of an annotator in ASCII; with a number where names may look alike in ASCII."""
    folder = re.sub(r"[^A-Za-z0-9_-]+", "_", annotator)
    plain = folder == annotator and folder != "majority"
    return folder if plain else f"{folder}_{numbers.get(annotator, 0)}"


def _document(
    project: AnnotationProject, text: str, proposed: Sequence[MentionLink], reading: Reading
) -> KcatDocument:
    """KCAT document of a reader's links; typed: those decided on, or used for a box's finding."""
    typed = {
        item.mention: MentionLink(*item.mention, item.code)
        for item in reading.annotations
        if item.mention and item.code
    }
    links = {**{item.span: item for item in proposed}, **typed}
    links.update((item.span, item) for item in reading.mentions)
    decided = {*typed, *(item.span for item in reading.mentions)}
    return _links_document(project, text, [links[span] for span in sorted(links)], decided)


def _links_document(
    project: AnnotationProject,
    text: str,
    links: Iterable[MentionLink],
    typed: Collection[tuple[int, int]],
) -> KcatDocument:
    """KCAT document; a type only for links in `typed`, and none for NIL."""
    mentions = []
    for link in links:
        group = "" if link.code == NIL else kcat_entity(project.base.path(link.code)[0])
        type_path = f"/{group}/{kcat_entity(link.code)}" if group and link.span in typed else ""
        mentions.append(KcatMention(*link.span, kcat_entity(link.code), type_path))
    return KcatDocument(text, tuple(mentions))


def _zip(members: dict[str, bytes], skipped: list[str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        note = "\n".join([DISCLAIMER, f"{len(members)} files", *skipped]) + "\n"
        for name, data in {"README.txt": note.encode(), **members}.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return stream.getvalue()


def export_dataset(project: AnnotationProject) -> tuple[Path, dict[str, int]]:
    """Write the dataset folder into the workspace; returns it with its counts.

    Raises:
        DataError: No study has a truth to learn from.
        OutputError: It cannot be written.
    """
    out = project.sources.work / "dataset"
    paths = {name: project.path(study) for name, study in _studies(project).items()}
    return out, write_training_set(out, _truths(project), paths)


def first_finished(database: WorkspaceDatabase) -> dict[tuple[str, str], dict[str, Any]]:
    """(image_id, annotator) -> the first revision that had a verdict, with its time `saved_at`."""
    rows = database.rows(
        "SELECT s.image_id, r.name, r.saved_at, r.body, MIN(r.id) FROM revisions r "
        "JOIN studies s ON s.key = r.study WHERE json_extract(r.body, '$.verdict') <> '' "
        "GROUP BY r.study, r.name"
    )
    return {
        (row["image_id"], row["name"]): {**json.loads(row["body"]), "saved_at": row["saved_at"]}
        for row in rows
    }


# kind -> file name, media type, maker
DOWNLOADS: dict[str, tuple[str, str, Callable[[AnnotationProject], bytes]]] = {
    "rsna": ("labels.csv", "text/csv", rsna_bytes),
    "classes": ("class_info.csv", "text/csv", class_bytes),
    "left_out": ("left_out.csv", "text/csv", left_out_bytes),
    "coco": ("coco.json", "application/json", coco_bytes),
    "readings": ("readings.json", "application/json", readings_bytes),
    "sr": ("structured_reports.zip", "application/zip", reports_zip),
    "kcat": ("kcat.zip", "application/zip", kcat_zip),
}
