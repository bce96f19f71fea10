"""Import files of other tools as readings of an annotator."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pydicom

from data_prep.annotation.exports.kcat import MARKER, KcatDocument, kcat_entity, read_kcat
from data_prep.annotation.imports.boxes import (
    ImportedStudies,
    import_classes,
    import_coco,
    import_rsna,
)
from data_prep.annotation.imports.structured_report import import_report
from data_prep.annotation.mention_links import check_links
from data_prep.annotation.project import AnnotationProject
from data_prep.annotation.workspace.database import now
from data_prep.annotation.workspace.records import (
    OPACITY,
    Annotation,
    MentionLink,
    Reading,
    Study,
    check_reading,
    verdict_of,
)
from data_prep.reports.findings.concepts import NIL
from data_prep.reports.findings.scope import PRESENT
from pneumonia.runtime.errors import DataError

Reader = Callable[[bytes, ImportedStudies], None]
IMPORTED = "imported"  # origin of an imported box


def import_file(project: AnnotationProject, annotator: str, data: bytes) -> dict[str, Any]:
    """Import a file as readings of an annotator; its format is detected from its content.

    RSNA csv (labels or classes), COCO and DICOM SR become readings of studies that the annotator
    has not begun; a KCAT file changes the links of the reports that have its text.

    Returns:
        `kind` of the file, numbers of imported items, and `left_out`: reason -> number.

    Raises:
        DataError: Unknown format, malformed, or without a study of this project.
    """
    head = data.removeprefix(b"\xef\xbb\xbf")[:4096].lstrip()
    if data[128:132] == b"DICM":
        report = partial(import_report, studies=_by_instance(project), base=project.base)
        return _import_boxes(project, annotator, data, "sr", report)
    if MARKER.encode() in data:
        return _import_links(project, annotator, read_kcat(data))
    if head.startswith(b"{"):
        return _import_boxes(project, annotator, data, "coco", import_coco)
    if head.startswith(b"patientId"):
        classes = b"class" in head.splitlines()[0]
        read = import_classes if classes else import_rsna
        return _import_boxes(project, annotator, data, "classes" if classes else "rsna", read)
    raise DataError(
        "Kind of file is not known", expected="RSNA csv, COCO JSON, DICOM SR, or a KCAT text"
    )


def _readable(project: AnnotationProject) -> list[Study]:
    return [study for study in project.store.studies() if not study.reason]


def _by_instance(project: AnnotationProject) -> dict[str, Study]:
    """SOP instance UID -> study, from the headers of the files."""
    found = {}
    for study in _readable(project):
        try:
            header = pydicom.dcmread(project.path(study), specific_tags=["SOPInstanceUID"],
                                     stop_before_pixels=True)  # fmt: skip
            found[str(header.SOPInstanceUID)] = study
        except Exception:  # not DICOM: no report can refer to it
            continue
    return found


def _import_boxes(
    project: AnnotationProject, annotator: str, data: bytes, kind: str, read: Reader
) -> dict[str, Any]:
    found = ImportedStudies(_readable(project), project.base)
    read(data, found)
    counts = {"studies": 0, "boxes": 0}
    for study in _readable(project):
        if study.image_id not in found.boxes:
            continue
        state = project.store.state(study, annotator)
        items = tuple(
            Annotation(
                f"i{number}", box.box_xyxy, box.code, _group(project, box.code), box.assertion,
                IMPORTED, changed_at=now(),
            )
            for number, box in enumerate(found.boxes[study.image_id], 1)
        )  # fmt: skip
        chosen = found.verdicts.get(study.image_id, "").replace(OPACITY, "")  # needs a box
        verdict = verdict_of(project.base, items, chosen)
        if state.reading.annotations or state.reading.verdict:
            found.left_out["already_read"] += 1
        elif not verdict:
            found.left_out["no_box_and_no_verdict"] += 1
        else:
            reading = Reading(study.image_id, annotator, items, verdict)
            reading = reading._replace(mentions=state.reading.mentions)
            check_reading(reading, study, project.base)
            project.store.save(study, reading, state.revision, 0.0)
            project.store.assign([(study.key, annotator)])
            counts["studies"] += 1
            counts["boxes"] += len(items)
    return {"kind": kind, **counts, "left_out": dict(found.left_out)}


def _group(project: AnnotationProject, code: str) -> str:
    return "" if code == NIL else project.base.path(code)[0]


def _import_links(
    project: AnnotationProject, annotator: str, document: KcatDocument
) -> dict[str, Any]:
    studies = [
        study
        for study in _readable(project)
        if study.image_id in project.reports
        and _same_text(project.reports[study.image_id].text, document.text)
    ]
    if not studies:
        raise DataError("Text of the file is not the report of a study of this project")
    codes = {kcat_entity(code): code for code in (*project.base, NIL)}
    changed = unknown = 0
    for study in studies:
        text = project.reports[study.image_id].text
        proposed = {link.span: link for link in project.proposed(study.image_id)}
        state = project.store.state(study, annotator)
        links = {link.span: link for link in state.reading.mentions}
        before = dict(links)
        for mention in document.mentions:
            span = (mention.start, mention.end)
            code = codes.get(mention.entity)
            if code is None:
                unknown += 1
                continue
            known = links.get(span) or proposed.get(span)
            if mention.type_path or known is None or known.code != code:
                links[span] = MentionLink(*span, code, known.assertion if known else PRESENT)
        if links == before:
            continue
        made = tuple(link for _, link in sorted(links.items()))
        check_links(made, text, project.base, state.reading.mentions)
        changed += sum(link != before.get(link.span) for link in made)
        reading = state.reading._replace(mentions=made)
        project.store.save(study, reading, state.revision, 0.0)
        project.store.assign([(study.key, annotator)])
    left_out = {"unknown_entity": unknown} if unknown else {}
    return {"kind": "kcat", "studies": len(studies), "mentions": changed, "left_out": left_out}


def _same_text(report: str, text: str) -> bool:
    """Whether a text is the report, with line feeds or with Windows line ends."""
    return report == text or report == text.replace("\r\n", "\n")
