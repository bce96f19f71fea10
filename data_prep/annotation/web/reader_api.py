"""Routes of the reader's page. A reader never receives another reader's boxes."""

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field

from data_prep.annotation.candidates import (
    Offer,
    coarse_types,
    describe,
    from_report,
    groups,
    image_side,
    refilter,
)
from data_prep.annotation.project import Project
from data_prep.annotation.web.session import logged_in, reader_name
from data_prep.annotation.web.windowing import MAX_WIDTH, MIN_WIDTH
from data_prep.annotation.workspace.database import now
from data_prep.annotation.workspace.records import (
    MANAGER,
    MAX_BOXES,
    MAX_COMMENT,
    Annotation,
    Annotator,
    Reading,
    Study,
    annotation_json,
    check_reading,
)
from data_prep.annotation.workspace.store import MAX_STEP_S, State
from data_prep.reports.findings.scope import ABSENT
from pneumonia.runtime.errors import DataError

Person = Annotated[Annotator, Depends(logged_in)]
Text = Annotated[str, Field(max_length=200)]
ChangeId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{0,64}$")]
MAX_INTEGER = 2**63 - 1  # largest integer of SQLite
Key = Annotated[int, PathParameter(ge=0, le=MAX_INTEGER)]
Share = Annotated[float, Query(ge=-16, le=17)]
WindowWidth = Annotated[float, Query(ge=MIN_WIDTH, le=MAX_WIDTH)]


class AnnotationBody(BaseModel):
    """A box as the page sends it; see records.Annotation."""

    model_config = ConfigDict(extra="forbid")
    annotation_id: str = Field(pattern=r"^[a-z0-9]{1,40}$")
    box_xyxy: tuple[float, float, float, float]
    code: Text = ""
    coarse: Text = ""
    assertion: Text = "present"
    origin: Text = "drawn"
    mention: tuple[int, int] | None = None


class ReadingBody(BaseModel):
    """A whole reading as the page sends it, with the revision it was made on."""

    model_config = ConfigDict(extra="forbid")
    base_revision: int = Field(ge=0, le=MAX_INTEGER)
    change_id: ChangeId = ""
    annotations: list[AnnotationBody] = Field(max_length=MAX_BOXES)
    rejected: list[Text] = Field(max_length=1000)
    verdict: Text = ""
    comment: str = Field("", max_length=MAX_COMMENT)
    step_s: float = Field(0.0, ge=0, le=MAX_STEP_S)


class UndoBody(BaseModel):
    """An undo or redo, with the id of the change."""

    model_config = ConfigDict(extra="forbid")
    change_id: ChangeId = ""


class TimeBody(BaseModel):
    """Seconds of work without a change."""

    model_config = ConfigDict(extra="forbid")
    step_s: float = Field(ge=0, le=MAX_STEP_S)


def reader_routes(project: Project) -> APIRouter:
    """The routes below /api."""
    routes = APIRouter(prefix="/api")
    _add_readings(routes, project)
    _add_types(routes, project)
    return routes


def allowed(project: Project, key: Key, person: Annotator) -> Study:
    """The study, if it is on this person's list.

    Raises:
        HTTPException: 404, both for a missing study and for one not assigned to the person.
    """
    try:
        study = project.store.study(key)
    except DataError:
        raise HTTPException(404, "There is no such study") from None
    if person.role != MANAGER and not project.store.is_assigned(key, person.name):
        raise HTTPException(404, "There is no such study")
    if study.reason:
        raise HTTPException(404, "This study cannot be shown")
    return study


def _add_readings(routes: APIRouter, project: Project) -> None:
    store = project.store

    @routes.get("/me")
    def me(person: Person) -> dict[str, Any]:
        return {"name": person.name, "role": person.role}

    @routes.get("/studies")
    def studies(person: Person) -> list[dict[str, Any]]:
        mine = {key for key, name in store.assignments() if name == person.name}
        said = {
            image_id: reading
            for image_id, readings in store.readings().items()
            for reading in readings
            if reading.annotator == reader_name(person)
        }
        chosen = [
            study
            for study in store.studies()
            if not study.reason and (person.role == MANAGER or study.key in mine)
        ]
        if project.sources.shuffle:
            chosen.sort(key=lambda study: _shuffled(person.name, study.key))
        return [_line(study, said.get(study.image_id)) for study in chosen]

    @routes.get("/studies/{key}")
    def study(key: Key, person: Person) -> dict[str, Any]:
        found = allowed(project, key, person)
        name = reader_name(person)
        return {**_facts(project, found, name), **_state(store.state(found, name))}

    @routes.get("/studies/{key}/image")
    def image(key: Key, person: Person, center: Share = 0.5, width: WindowWidth = 1.0) -> Response:
        found = allowed(project, key, person)
        path = project.path(found)
        data = project.png(path, project.files[found.relative].stamp, center, width)
        return Response(data, media_type="image/png")

    @routes.put("/studies/{key}/reading")
    def save(key: Key, body: ReadingBody, person: Person) -> dict[str, Any]:
        found, name = allowed(project, key, person), reader_name(person)
        before = {a.annotation_id: a for a in store.state(found, name).reading.annotations}
        items = tuple(_dated(Annotation(**item.model_dump()), before) for item in body.annotations)
        reading = Reading(
            found.image_id, name, items, body.verdict, tuple(body.rejected), comment=body.comment
        )
        check_reading(reading, found, project.base)
        saved = store.save(found, reading, body.base_revision, body.step_s, body.change_id)
        return _state(saved)

    @routes.post("/studies/{key}/undo")
    def undo(key: Key, body: UndoBody, person: Person) -> dict[str, Any]:
        found = allowed(project, key, person)
        return _state(store.undo(found, reader_name(person), body.change_id))

    @routes.post("/studies/{key}/redo")
    def redo(key: Key, body: UndoBody, person: Person) -> dict[str, Any]:
        found = allowed(project, key, person)
        return _state(store.redo(found, reader_name(person), body.change_id))

    @routes.post("/studies/{key}/time")
    def spent(key: Key, body: TimeBody, person: Person) -> dict[str, Any]:
        store.add_time(allowed(project, key, person), reader_name(person), body.step_s)
        return {}


def _add_types(routes: APIRouter, project: Project) -> None:
    base = project.base

    @routes.get("/studies/{key}/offers")
    def offers(
        key: Key, person: Person, coarse: Text = "", x1: float = 0.0, x2: float = 0.0
    ) -> dict[str, Any]:
        study = allowed(project, key, person)
        blinded = project.blinded(study, reader_name(person))
        linked = () if blinded else project.linked(study.image_id)
        frontal = project.store.view(key) in ("AP", "PA", "")
        side = image_side((x1, 0.0, x2, 1.0), study.width) if frontal and x2 > x1 else ""
        if not coarse:
            return {"offers": [_offer(o) for o in from_report(base, linked, side)]}
        return {"offers": [_offer(o) for o in refilter(base, linked, coarse, side)]}

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
    """Annotation with its change time: kept when it is unchanged, else the current time."""
    old = before.get(item.annotation_id)
    same = old is not None and old._replace(changed_at="") == item
    return item._replace(changed_at=old.changed_at if old is not None and same else now())


def _shuffled(name: str, key: int) -> str:
    """Sort key of a study for one reader: a fixed pseudo-random order per reader."""
    return hashlib.sha256(f"{name}:{key}".encode()).hexdigest()


def _line(study: Study, reading: Reading | None) -> dict[str, Any]:
    started = reading is not None and bool(reading.annotations or reading.rejected)
    return {
        "key": study.key,
        "boxes": len(reading.annotations) if reading else 0,
        "verdict": reading.verdict if reading else "",
        "started": started,
    }


def _facts(project: Project, study: Study, name: str) -> dict[str, Any]:
    blinded = project.blinded(study, name)
    report = None if blinded else project.reports.get(study.image_id)
    linked = () if blinded else project.linked(study.image_id)
    return {
        "key": study.key,
        "width": study.width,
        "height": study.height,
        "view": project.store.view(study.key),
        "blinded": blinded,
        "suggestions": [] if blinded else [s._asdict() for s in project.suggested(study, name)],
        "coarse": coarse_types(project.base, linked),
        "opacity": list(project.base.opacity),
        "opacity_group": next(map(project.base.group, project.base.opacity), ""),
        "report": None
        if report is None
        else {
            "text": report.text,
            "reason": report.reason,
            "mentions": [
                {"start": c.span[0], "end": c.span[1], "code": c.code, "assertion": c.assertion}
                for c in linked
                if c.assertion != ABSENT
            ],
        },
    }


def _state(state: State) -> dict[str, Any]:
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
        "active_s": reading.active_s,
    }


def _offer(offer: Offer) -> dict[str, Any]:
    return offer._asdict()
