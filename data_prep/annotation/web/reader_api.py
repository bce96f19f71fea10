"""Routes of the reader's page. A reader never receives another reader's boxes."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from fastapi import Path as PathParameter
from pydantic import Field

from data_prep.annotation.candidates import (
    coarse_types,
    describe,
    groups,
    image_side,
    offer_findings_of_mention,
    offer_findings_of_report,
    refilter,
)
from data_prep.annotation.mention_links import candidate_codes, check_links
from data_prep.annotation.project import AnnotationProject
from data_prep.annotation.web.session import RequestBody, logged_in, reader_name
from data_prep.annotation.windowing import MAX_WIDTH, MIN_WIDTH
from data_prep.annotation.workspace.database import now
from data_prep.annotation.workspace.records import (
    MANAGER,
    MAX_BOXES,
    MAX_COMMENT,
    MAX_MENTIONS,
    REPEAT,
    Annotation,
    Annotator,
    MentionLink,
    Reading,
    Study,
    annotation_json,
    check_reading,
)
from data_prep.annotation.workspace.store import MAX_STEP_S, ReadingState
from data_prep.annotation.workspace.studies import priors, spacing_mm
from pneumonia.runtime.errors import DataError

Person = Annotated[Annotator, Depends(logged_in)]
Text = Annotated[str, Field(max_length=200)]
ChangeId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{0,64}$")]
MAX_INTEGER = 2**63 - 1  # largest integer of SQLite
REPEAT_KEY = 2**40  # added to a study's key for the second reading of it
Key = Annotated[int, PathParameter(ge=0, le=MAX_INTEGER)]
Place = Annotated[int, Query(ge=0, le=MAX_INTEGER)]
Share = Annotated[float, Query(ge=-16, le=17)]
WindowWidth = Annotated[float, Query(ge=MIN_WIDTH, le=MAX_WIDTH)]


class AnnotationBody(RequestBody):
    """A box in a request; see records.Annotation."""

    annotation_id: str = Field(pattern=r"^[a-z0-9]{1,40}$")
    box_xyxy: tuple[float, float, float, float]
    code: Text = ""
    coarse: Text = ""
    assertion: Text = "present"
    origin: Text = "drawn"
    mention: tuple[int, int] | None = None


class MentionBody(RequestBody):
    """A decision on a mention of the report; see records.MentionLink."""

    start: int = Field(ge=0, le=MAX_INTEGER)
    end: int = Field(ge=0, le=MAX_INTEGER)
    code: Text
    assertion: Text = "present"


class ReadingBody(RequestBody):
    """A whole reading in a request, with the revision it is based on."""

    base_revision: int = Field(ge=0, le=MAX_INTEGER)
    change_id: ChangeId = ""
    annotations: list[AnnotationBody] = Field(max_length=MAX_BOXES)
    rejected: list[Text] = Field(max_length=1000)
    verdict: Text = ""
    comment: str = Field("", max_length=MAX_COMMENT)
    mentions: list[MentionBody] = Field([], max_length=MAX_MENTIONS)
    step_s: float = Field(0.0, ge=0, le=MAX_STEP_S)


class UndoBody(RequestBody):
    """An undo or redo, with the id of the change."""

    change_id: ChangeId = ""


class TimeBody(RequestBody):
    """Seconds of active work without a change."""

    step_s: float = Field(ge=0, le=MAX_STEP_S)


def reader_routes(project: AnnotationProject) -> APIRouter:
    """The routes below /api."""
    routes = APIRouter(prefix="/api")
    _add_studies(routes, project)
    _add_readings(routes, project)
    _add_types(routes, project)
    return routes


class OpenStudy(NamedTuple):
    """A study opened by one person."""

    key: int  # key in the request
    study: Study  # the study
    name: str  # name under which the reading is stored


def opened(project: AnnotationProject, key: int, person: Annotator) -> OpenStudy:
    """The study, if it is on this person's list; keys >= REPEAT_KEY are second readings.

    Raises:
        HTTPException: 404, both for a missing study and for one not assigned to the person.
    """
    repeat, number = divmod(key, REPEAT_KEY)
    name = reader_name(person) + (REPEAT if repeat else "")
    try:
        study = project.store.study(number)
    except DataError:
        raise HTTPException(404, "There is no such study") from None
    if repeat:
        listed = repeat == 1 and (number, person.name) in project.store.repeats()
    else:
        listed = person.role == MANAGER or project.store.is_assigned(number, person.name)
    if not listed:
        raise HTTPException(404, "There is no such study")
    if study.reason:
        raise HTTPException(404, "This study cannot be shown")
    return OpenStudy(key, study, name)


def _add_studies(routes: APIRouter, project: AnnotationProject) -> None:
    store = project.store

    @routes.get("/me")
    def me(person: Person) -> dict[str, Any]:
        return {"name": person.name, "role": person.role}

    @routes.get("/studies")
    def studies(person: Person) -> list[dict[str, Any]]:
        return _list(project, person)

    @routes.get("/guidelines")
    def guidelines(person: Person) -> dict[str, str]:
        return {"text": project.settings.guidelines}

    @routes.get("/studies/{key}")
    def study(key: Key, person: Person) -> dict[str, Any]:
        found = opened(project, key, person)
        return {**_facts(project, found), **_state(store.state(found.study, found.name))}

    @routes.get("/studies/{key}/image")
    def image(key: Key, person: Person, center: Share = 0.5, width: WindowWidth = 1.0) -> Response:
        return _image(project, opened(project, key, person).study, center, width)

    @routes.get("/studies/{key}/prior/{earlier}")
    def prior(key: Key, earlier: Key, person: Person) -> Response:
        """Image of an earlier study of the patient, which need not be on the person's list."""
        found = opened(project, key, person)
        if earlier not in {p.key for p in priors(project.database, found.study.key)}:
            raise HTTPException(404, "There is no such study")
        return _image(project, store.study(earlier), 0.5, 1.0)


def _add_readings(routes: APIRouter, project: AnnotationProject) -> None:
    store = project.store

    @routes.put("/studies/{key}/reading")
    def save(key: Key, body: ReadingBody, person: Person) -> dict[str, Any]:
        _, found, name = opened(project, key, person)
        stored = store.state(found, name).reading
        before = {a.annotation_id: a for a in stored.annotations}
        items = tuple(_dated(Annotation(**item.model_dump()), before) for item in body.annotations)
        links = tuple(MentionLink(**item.model_dump()) for item in body.mentions)
        reading = Reading(
            found.image_id, name, items, body.verdict, tuple(body.rejected), comment=body.comment,
            mentions=links,
        )  # fmt: skip
        check_reading(reading, found, project.base)
        check_links(links, _report_text(project, found, name), project.base, stored.mentions)
        saved = store.save(found, reading, body.base_revision, body.step_s, body.change_id)
        return _state(saved)

    @routes.post("/studies/{key}/undo")
    def undo(key: Key, body: UndoBody, person: Person) -> dict[str, Any]:
        _, found, name = opened(project, key, person)
        return _state(store.undo(found, name, body.change_id))

    @routes.post("/studies/{key}/redo")
    def redo(key: Key, body: UndoBody, person: Person) -> dict[str, Any]:
        _, found, name = opened(project, key, person)
        return _state(store.redo(found, name, body.change_id))

    @routes.post("/studies/{key}/time")
    def spent(key: Key, body: TimeBody, person: Person) -> dict[str, Any]:
        _, found, name = opened(project, key, person)
        store.add_time(found, name, body.step_s)
        return {}


def _add_types(routes: APIRouter, project: AnnotationProject) -> None:
    base = project.base

    @routes.get("/studies/{key}/offers")
    def offers(
        key: Key, person: Person, coarse: Text = "", x1: float = 0.0, x2: float = 0.0
    ) -> dict[str, Any]:
        _, study, name = opened(project, key, person)
        linked = project.linking(study, name)
        frontal = project.store.view(study.key) in ("AP", "PA", "")
        side = image_side((x1, 0.0, x2, 1.0), study.width) if frontal and x2 > x1 else ""
        offers = (
            refilter(base, linked, coarse, side)
            if coarse
            else offer_findings_of_report(base, linked, side)
        )
        return {
            "offers": [offer._asdict() for offer in offers],
            "coarse": coarse_types(base, linked),
        }

    @routes.get("/studies/{key}/mention")
    def mention(
        key: Key, person: Person, start: Place, end: Place, coarse: Text = ""
    ) -> dict[str, Any]:
        _, study, name = opened(project, key, person)
        text = _report_text(project, study, name)
        codes = candidate_codes(base, text, (start, end))
        return {
            "offers": [offer._asdict() for offer in offer_findings_of_mention(base, codes, coarse)]
        }

    @routes.get("/types/children")
    def children(person: Person, node: Text = "") -> dict[str, Any]:
        names = base.children(node) if node else groups(base)
        path = list(base.path(node)) if node else []
        return {"path": path, "nodes": [[name, len(base.children(name))] for name in names]}

    @routes.get("/types/search")
    def search(person: Person, prefix: Text = "") -> list[str]:
        return project.index.search(prefix)

    @routes.get("/types/description")
    def description(person: Person, node: Text) -> dict[str, Any]:
        return describe(base, node)


def _dated(item: Annotation, before: dict[str, Annotation]) -> Annotation:
    """Annotation with its change time: the stored one if unchanged, else the current time."""
    old = before.get(item.annotation_id)
    same = old is not None and old._replace(changed_at="") == item
    return item._replace(changed_at=old.changed_at if old is not None and same else now())


def _shuffled(name: str, key: int) -> str:
    """Sort key of a study for one reader: a fixed pseudo-random order per reader."""
    return hashlib.sha256(f"{name}:{key}".encode()).hexdigest()


def _list(project: AnnotationProject, person: Annotator) -> list[dict[str, Any]]:
    """The person's studies, then the second readings, numbered after the last study."""
    store, name = project.store, reader_name(person)
    readable = [study for study in store.studies() if not study.reason]
    mine = {key for key, other in store.assignments() if other == person.name}
    chosen = [study for study in readable if person.role == MANAGER or study.key in mine]
    if project.settings.shuffle:
        chosen.sort(key=lambda study: _shuffled(person.name, study.key))
    mine_read = _readings_of(store.readings(), name)
    lines = [_line(study.key, study.key, mine_read.get(study.image_id)) for study in chosen]
    repeated = {key for key, other in store.repeats() if other == person.name}
    again = [study for study in readable if study.key in repeated]
    again.sort(key=lambda study: _shuffled(name + REPEAT, study.key))
    read_again = _readings_of(store.readings(repeats=True), name + REPEAT)
    last = max((study.key for study in store.studies()), default=0)
    for number, study in enumerate(again, last + 1):
        lines.append(_line(REPEAT_KEY + study.key, number, read_again.get(study.image_id)))
    return lines


def _readings_of(readings: Mapping[str, Sequence[Reading]], name: str) -> dict[str, Reading]:
    return {i: one for i, found in readings.items() for one in found if one.annotator == name}


def _image(project: AnnotationProject, study: Study, center: float, width: float) -> Response:
    stamp = project.files[study.relative].stamp if study.relative in project.files else ""
    data = project.png(project.path(study), stamp, center, width)
    return Response(data, media_type="image/png")


def _report_text(project: AnnotationProject, study: Study, name: str) -> str:
    """The report's text; empty without a report and while it is hidden from the reader."""
    report = project.reports.get(study.image_id)
    return "" if report is None or project.blinded(study, name) else report.text


def _line(key: int, number: int, reading: Reading | None) -> dict[str, Any]:
    started = reading is not None and bool(reading.annotations or reading.rejected)
    return {
        "key": key,
        "number": number,
        "boxes": len(reading.annotations) if reading else 0,
        "verdict": reading.verdict if reading else "",
        "started": started,
    }


def _facts(project: AnnotationProject, found: OpenStudy) -> dict[str, Any]:
    key, study, name = found
    blinded = project.blinded(study, name)
    report = None if blinded else project.reports.get(study.image_id)
    return {
        "key": key,
        "width": study.width,
        "height": study.height,
        "view": project.store.view(study.key),
        "spacing_mm": spacing_mm(project.database, study.key),
        "priors": [prior._asdict() for prior in priors(project.database, study.key)],
        "blinded": blinded,
        "suggestions": [] if blinded else [s._asdict() for s in project.suggested(study, name)],
        "coarse": coarse_types(project.base, project.linking(study, name)),
        "opacity": list(project.base.opacity),
        "opacity_group": next(map(project.base.group, project.base.opacity), ""),
        "report": None
        if report is None
        else {
            "text": report.text,
            "reason": report.reason,
            "mentions": [link._asdict() for link in project.proposed(study.image_id)],
        },
    }


def _state(state: ReadingState) -> dict[str, Any]:
    reading = state.reading
    return {
        "revision": state.revision,
        "confirmed": state.confirmed,
        "can_undo": state.can_undo,
        "can_redo": state.can_redo,
        "annotations": [annotation_json(item) for item in reading.annotations],
        "rejected": list(reading.rejected),
        "verdict": reading.verdict,
        "comment": reading.comment,
        "mentions": [link._asdict() for link in reading.mentions],
        "active_s": reading.active_s,
    }
