"""Routes of the manager's page: people, assignment, progress, agreement, exports."""

from collections.abc import Sequence
from statistics import median
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from data_prep.annotation.agreement.consensus import truth_of
from data_prep.annotation.agreement.pairwise import (
    IOU_THRESHOLD,
    LEVELS,
    PairAgreement,
    compare_all,
    compare_pair,
    verdict_fleiss,
)
from data_prep.annotation.agreement.reader_errors import finding_fleiss, reader_errors
from data_prep.annotation.exports.downloads import DOWNLOADS, export_dataset
from data_prep.annotation.imports.readings import import_file
from data_prep.annotation.mention_links import link_agreement
from data_prep.annotation.project import AnnotationProject, readers_only
from data_prep.annotation.web.reader_api import MAX_INTEGER, Key
from data_prep.annotation.web.session import RequestBody, manager
from data_prep.annotation.workspace.records import REPEAT, Annotator, Reading, annotation_json
from data_prep.annotation.workspace.settings import MAX_GUIDELINES
from data_prep.annotation.workspace.store import choose_repeats, share_out

ManagerOnly = Annotated[Annotator, Depends(manager)]


class AnnotatorBody(RequestBody):
    """An annotator's name."""

    name: str = Field(max_length=200)


class NewAnnotator(AnnotatorBody):
    """An annotator to add; `assign_all` assigns every study."""

    assign_all: bool = True


class ShareBody(RequestBody):
    """Number of annotators to assign to every study."""

    readers: int = Field(ge=1, le=1000)


class AssignmentBody(AnnotatorBody):
    """Assignment of one study to one annotator, switched on or off."""

    key: int = Field(ge=0, le=MAX_INTEGER)
    on: bool


class SettingsBody(RequestBody):
    """Settings to change; see ProjectSettings."""

    blind: bool | None = None
    shuffle: bool | None = None
    guidelines: str | None = Field(None, max_length=MAX_GUIDELINES)


class RepeatBody(RequestBody):
    """Share of each reader's studies to read a second time."""

    percent: float = Field(gt=0, le=100)


def manager_routes(project: AnnotationProject) -> APIRouter:
    """The routes below /api/manage."""
    routes = APIRouter(prefix="/api/manage")
    _add_people(routes, project)
    _add_settings(routes, project)
    _add_import(routes, project)
    _add_results(routes, project)
    return routes


def _readable(project: AnnotationProject) -> list[int]:
    return [study.key for study in project.store.studies() if not study.reason]


def _add_people(routes: APIRouter, project: AnnotationProject) -> None:
    people, store = project.people, project.store

    @routes.post("/annotators")
    def add(body: NewAnnotator, person: ManagerOnly) -> dict[str, str]:
        token = people.add(body.name)
        name = " ".join(body.name.split())
        if body.assign_all:
            store.assign((key, name) for key in _readable(project))
        return {"name": name, "token": token}

    @routes.post("/annotators/renew")
    def renew(body: AnnotatorBody, person: ManagerOnly) -> dict[str, str]:
        return {"name": body.name, "token": people.renew(body.name)}

    @routes.post("/annotators/revoke")
    def revoke(body: AnnotatorBody, person: ManagerOnly) -> dict[str, str]:
        people.revoke(body.name)
        return {}

    @routes.post("/assign")
    def assign(body: AssignmentBody, person: ManagerOnly) -> dict[str, str]:
        store.study(body.key)
        if body.name not in {person.name for person in people.annotators()}:
            raise HTTPException(404, "There is no such annotator")
        if body.on:
            store.assign([(body.key, body.name)])
        else:
            store.unassign(body.key, body.name)
        return {}

    @routes.post("/share")
    def share(body: ShareBody, person: ManagerOnly) -> dict[str, str]:
        names = [p.name for p in people.annotators() if people.can_log_in(p.name)]
        store.assign(share_out(_readable(project), names, body.readers), replace=True)
        project.change_settings(readers=body.readers)
        return {}


def _add_settings(routes: APIRouter, project: AnnotationProject) -> None:
    @routes.post("/settings")
    def settings(body: SettingsBody, person: ManagerOnly) -> dict[str, str]:
        project.change_settings(**body.model_dump(exclude_none=True))
        return {}

    @routes.post("/rescan")
    def rescan(person: ManagerOnly) -> dict[str, int]:
        return {"new": project.rescan()}

    @routes.post("/repeats")
    def repeats(body: RepeatBody, person: ManagerOnly) -> dict[str, int]:
        pairs = choose_repeats(project.store.assignments(), body.percent / 100)
        project.store.add_repeats(pairs)
        return {"studies": len(pairs)}


def _add_import(routes: APIRouter, project: AnnotationProject) -> None:
    @routes.post("/import")
    async def take_over(request: Request, person: ManagerOnly, annotator: str) -> dict[str, Any]:
        """Import the file in the body, which is read only after the session has been checked."""
        if annotator not in {person.name for person in project.people.annotators()}:
            raise HTTPException(404, "There is no such annotator")
        try:
            data = await request.body()
        except ClientDisconnect:
            raise HTTPException(400, "The upload was interrupted") from None
        return await run_in_threadpool(import_file, project, annotator, data)


def _add_results(routes: APIRouter, project: AnnotationProject) -> None:
    @routes.get("/overview")
    def overview(person: ManagerOnly) -> dict[str, Any]:
        return _overview(project)

    @routes.get("/agreement")
    def agreement(person: ManagerOnly, iou: float = IOU_THRESHOLD) -> dict[str, Any]:
        return _agreement(project, min(max(iou, 0.05), 0.95))

    @routes.get("/studies/{key}")
    def study(key: Key, person: ManagerOnly) -> dict[str, Any]:
        return _side_by_side(project, key)

    @routes.get("/export/{kind}")
    def export(kind: str, person: ManagerOnly) -> Response:
        if kind not in DOWNLOADS:
            raise HTTPException(404, "There is no such export")
        name, media, make = DOWNLOADS[kind]
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(make(project), media_type=media, headers=headers)

    @routes.post("/dataset")
    def dataset(person: ManagerOnly) -> dict[str, Any]:
        folder, counts = export_dataset(project)
        return {"folder": str(folder), "counts": counts}


def _overview(project: AnnotationProject) -> dict[str, Any]:
    store = project.store
    assigned = sorted(store.assignments())
    names_of: dict[int, list[str]] = {}
    for key, name in assigned:
        names_of.setdefault(key, []).append(name)
    readings = store.readings()
    consensus = project.consensus()
    truths = {name: truth_of(made, project.base) for name, made in consensus.items()}
    by_name: dict[str, list[Reading]] = {}
    for found in readings.values():
        for reading in found:
            by_name.setdefault(reading.annotator, []).append(reading)
    studies = []
    for study in store.studies():
        truth = truths.get(study.image_id)
        by_reader = {r.annotator: r for r in readings.get(study.image_id, [])}
        studies.append(
            {
                "key": study.key, "image_id": study.image_id, "file": study.relative,
                "reason": study.reason,
                "assigned": names_of.get(study.key, []),
                "readers": {
                    n: {"verdict": r.verdict, "boxes": len(r.annotations)} for n, r in
                        by_reader.items()
                },
                "source": consensus[study.image_id].source if truth else "",
                "class": truth.class_name if truth else "",
                "doubt": truth.reason if truth else "",
                "differs": _differ(readers_only(readings.get(study.image_id, []))),
            }
        )  # fmt: skip
    settings = project.settings
    return {
        "settings": settings._asdict(),
        "studies": studies,
        "annotators": [
            {
                "name": person.name,
                "active": project.people.can_log_in(person.name),
                "assigned": sum(name == person.name for _, name in assigned),
                **_work(by_name.get(person.name, [])),
            }
            for person in project.people.annotators()
        ],
    }


def _differ(readings: Sequence[Reading]) -> bool:
    """Whether finished readings differ in their verdicts or findings."""
    results = {
        (r.verdict, tuple(sorted(a.code for a in r.annotations))) for r in readings if r.finished
    }
    return len(results) > 1


def _work(readings: Sequence[Reading]) -> dict[str, Any]:
    done = [r for r in readings if r.finished]
    return {
        "finished": len(done),
        "started": sum(bool(r.annotations) for r in readings if not r.finished),
        "boxes": sum(len(r.annotations) for r in done),
        "median_s": median(r.active_s for r in done) if done else None,
        "total_s": sum(r.active_s for r in readings),
    }


def _agreement(project: AnnotationProject, iou: float) -> dict[str, Any]:
    readings = {name: readers_only(found) for name, found in project.store.readings().items()}
    everything = [reading for found in readings.values() for reading in found]
    consensus = project.consensus()
    errors = []
    for name in sorted({r.annotator for r in everything if r.finished}):
        judged = [
            (r, consensus[r.image_id])
            for r in everything
            if r.annotator == name and r.image_id in consensus
        ]
        errors.append(reader_errors(name, judged, project.base)._asdict())
    proposed = {name: project.proposed(name) for name in readings if name in project.reports}
    return {
        "iou": iou,
        "pairs": [_pair_json(pair) for pair in compare_all(everything, project.base, iou)],
        "repeats": [_pair_json(pair) for pair in _repeat_agreement(project, everything, iou)],
        "links": [pair._asdict() for pair in link_agreement(readings, proposed)],
        "verdict_fleiss": verdict_fleiss(everything),
        "finding_fleiss": [
            finding_fleiss(readings, project.base, level) for level in range(LEVELS)
        ],
        "errors": errors,
    }


def _pair_json(pair: PairAgreement) -> dict[str, Any]:
    return {**pair._asdict(), "levels": [level._asdict() for level in pair.levels]}


def _repeat_agreement(
    project: AnnotationProject, readings: Sequence[Reading], iou: float
) -> list[PairAgreement]:
    """Each reader's first readings against the second ones of the same studies."""
    again: dict[str, dict[str, Reading]] = {}
    for image_id, found in project.store.readings(repeats=True).items():
        for reading in found:
            if reading.finished:
                again.setdefault(reading.annotator.removesuffix(REPEAT), {})[image_id] = reading
    compared = []
    for name, second in sorted(again.items()):
        first = {r.image_id: r for r in readings if r.annotator == name and r.finished}
        if first.keys() & second.keys():
            compared.append(compare_pair(first, second, project.base, iou))
    return compared


def _side_by_side(project: AnnotationProject, key: int) -> dict[str, Any]:
    study = project.store.study(key)
    made = project.consensus(study).get(study.image_id)
    truth = truth_of(made, project.base) if made else None
    return {
        "key": key,
        "image_id": study.image_id,
        "width": study.width,
        "height": study.height,
        "readings": [
            {
                "annotator": reading.annotator,
                "verdict": reading.verdict,
                "active_s": reading.active_s,
                "annotations": [annotation_json(item) for item in reading.annotations],
            }
            for reading in project.store.readings(study).get(study.image_id, [])
        ],
        "consensus": None
        if made is None
        else {
            "source": made.source,
            "verdict": made.verdict,
            "doubt": truth.reason if truth else "",
            "boxes": [
                {**box._asdict(), "kept": box.kept, "disputed": box.disputed} for box in made.boxes
            ],
        },
    }
