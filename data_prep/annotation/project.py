"""One annotation project: studies, their reports and model predictions, and the readings."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.annotation.agreement.consensus import Consensus, consensus_of
from data_prep.annotation.candidates import TypeIndex
from data_prep.annotation.mention_links import proposed_links, revise
from data_prep.annotation.windowing import windowed_png
from data_prep.annotation.workspace.database import WorkspaceDatabase, open_database
from data_prep.annotation.workspace.people import AnnotatorRegistry
from data_prep.annotation.workspace.records import (
    ADJUDICATION,
    Box,
    MentionLink,
    Reading,
    Study,
)
from data_prep.annotation.workspace.settings import read_settings, write_settings
from data_prep.annotation.workspace.store import ReadingStore, share_out
from data_prep.annotation.workspace.studies import StudyFile, find_studies
from data_prep.reports.findings.concepts import ConceptBase
from data_prep.reports.findings.linking import LinkedConcept, MentionLinker, link_report
from data_prep.reports.reading.files import SourceReport, read_reports
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.model.predictions import read_predictions
from pneumonia.runtime.progress import Progress

MAX_SUGGESTIONS = 5  # boxes of highest score per study
_IMAGES_KEPT = 8  # encoded images in memory


class SuggestedBox(NamedTuple):
    """A suggested box that a reader may accept or reject."""

    origin: str  # `model:N`, or `reader:NAME:ID` for an adjudicator
    box_xyxy: Box  # pixels of the source
    score: float | None = None  # the model's score, None for a reader's box
    code: str = ""  # a reader's finding; empty for a model
    assertion: str = ""  # a reader's assertion; empty for a model


class ProjectSources(NamedTuple):
    """Input files and settings of a project."""

    studies: Path  # folder of radiographs
    work: Path  # folder of the workspace: database and exported datasets
    reports: Path | None = None  # csv, folder of .txt or .xml; None = none
    predictions: Path | None = None  # predictions.csv of a model; None = none
    min_score: float = 0.2  # lowest score of a suggested box
    blind: bool | None = None  # see ProjectSettings; None = as stored in the workspace
    shuffle: bool | None = None  # see ProjectSettings; None = as stored in the workspace


class AnnotationProject:
    """State of one annotation project, for the web application. Use `open_project`."""

    def __init__(
        self,
        sources: ProjectSources,
        database: WorkspaceDatabase,
        base: ConceptBase,
        linker: MentionLinker | None = None,
    ) -> None:
        self.sources = sources
        self.database = database
        self.store = ReadingStore(database)
        self.people = AnnotatorRegistry(database)
        self.settings = read_settings(database)
        self.base = base
        self.index = TypeIndex(base)
        self._linker = linker
        self.files: dict[str, StudyFile] = {}
        self.reports: dict[str, SourceReport] = {}
        self.suggestions: dict[str, tuple[SuggestedBox, ...]] = {}
        self.linked = lru_cache(maxsize=256)(self._link)
        self.proposed = lru_cache(maxsize=256)(self._propose)
        self.png = lru_cache(maxsize=_IMAGES_KEPT)(_png)

    def rescan(self) -> int:
        """Read files, reports and predictions anew; see `update`.

        Raises:
            ConfigError: The studies' folder is missing.
            DataError: No radiograph found; reports or predictions are malformed.
            OutputError: The workspace cannot be written.
        """
        return self.update(_read_sources(self.sources))

    def update(
        self, found: "_Found", workers: int | None = None, progress: Progress | None = None
    ) -> int:
        """Replace files, reports and suggestions; new studies are assigned to readers.

        Returns:
            Number of new studies.

        Raises:
            OutputError: The workspace cannot be written.
        """
        before = {study.key for study in self.store.studies() if not study.reason}
        fresh = self.store.register(found.files, workers, progress)
        self.files = {file.relative: file for file in found.files}
        self.reports = found.reports
        self.suggestions = {}
        for study in self.store.studies():
            sized = found.boxes.get(study.image_id)
            if sized is not None and sized[0] == (study.width, study.height):
                self.suggestions[study.image_id] = sized[1]
        self.linked.cache_clear()
        self.proposed.cache_clear()
        self.store.assign(self._pairs_for(fresh, before))
        return len(fresh)

    def _pairs_for(self, fresh: Sequence[int], before: set[int]) -> list[tuple[int, str]]:
        """(study key, reader) for new studies, by the same rule as for the other studies."""
        names = [p.name for p in self.people.annotators() if self.people.can_log_in(p.name)]
        if self.settings.readers:
            return share_out(fresh, names, min(self.settings.readers, len(names))) if names else []
        assigned = self.store.assignments()
        has_all = [name for name in names if before and {(k, name) for k in before} <= assigned]
        return [(key, name) for key in fresh for name in has_all]

    def change_settings(self, **changes: Any) -> None:
        """Change and store settings; see ProjectSettings."""
        settings = self.settings._replace(**changes)
        write_settings(self.database, settings)
        self.settings = settings

    def path(self, study: Study) -> Path:
        """The study's file.

        Raises:
            DataError: The folder had no such file at the last scan.
        """
        if study.relative not in self.files:
            raise DataError("There is no such study")
        return self.files[study.relative].path

    def _link(self, image_id: str) -> tuple[LinkedConcept, ...]:
        report = self.reports.get(image_id)
        if report is None or report.reason:
            return ()
        return tuple(link_report(report.text, self.base, self._linker))

    def _propose(self, image_id: str) -> tuple[MentionLink, ...]:
        report = self.reports.get(image_id)
        if report is None or report.reason:
            return ()
        return proposed_links(self.base, report.text, self.linked(image_id))

    def linking(self, study: Study, name: str) -> tuple[LinkedConcept, ...]:
        """Findings of the report after a reader's decisions; none while the reader is blinded."""
        if self.blinded(study, name):
            return ()
        return revise(self.linked(study.image_id), self.store.state(study, name).reading.mentions)

    def blinded(self, study: Study, name: str) -> bool:
        """Whether the report and suggestions of a study are hidden from a reader."""
        hidden = self.settings.blind and name != ADJUDICATION
        return hidden and not self.store.has_finished(study, name)

    def suggested(self, study: Study, name: str) -> tuple[SuggestedBox, ...]:
        """Suggested boxes: the model's for a reader, the readers' for an adjudicator."""
        if name != ADJUDICATION:
            return self.suggestions.get(study.image_id, ())
        readings = self.store.readings(study).get(study.image_id, [])
        return tuple(
            SuggestedBox(
                f"reader:{r.annotator}:{a.annotation_id}", a.box_xyxy, None, a.code, a.assertion
            )
            for r in readings
            if r.finished and r.annotator != ADJUDICATION
            for a in r.annotations
        )

    def consensus(self, only: Study | None = None) -> dict[str, Consensus]:
        """image_id -> consensus, for studies that at least one reader has finished.

        Args:
            only: Just this study; None = all.
        """
        found = {}
        for image_id, readings in self.store.readings(only).items():
            judge = next((r for r in readings if r.annotator == ADJUDICATION), None)
            made = consensus_of(readers_only(readings), self.base, judge)
            if made is not None:
                found[image_id] = made
        return found


def readers_only(readings: Sequence[Reading]) -> list[Reading]:
    """Readings without the adjudication."""
    return [reading for reading in readings if reading.annotator != ADJUDICATION]


def _png(path: Path, stamp: str, center: float, width: float) -> bytes:
    """PNG of the image under a window; `stamp` is part of the cache key of the file."""
    return windowed_png(path, center, width)


def open_project(
    sources: ProjectSources,
    base: ConceptBase,
    linker: MentionLinker | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> AnnotationProject:
    """Open or create a project; new or changed files are read once.

    Raises:
        ConfigError: The studies' folder is missing.
        DataError: No radiograph found; reports, predictions or the workspace are malformed.
        OutputError: The workspace cannot be written.
    """
    found = _read_sources(sources)  # may raise: before a workspace is created
    project = AnnotationProject(sources, open_database(sources.work), base, linker)
    given = {"blind": sources.blind, "shuffle": sources.shuffle}
    changes = {name: value for name, value in given.items() if value is not None}
    if changes:
        project.change_settings(**changes)
    project.update(found, workers, progress)
    return project


class _Found(NamedTuple):
    """Contents of the sources: files, image_id -> report, image_id -> (size, suggestions)."""

    files: list[StudyFile]
    reports: dict[str, SourceReport]
    boxes: Mapping[str, tuple[tuple[int, int], tuple[SuggestedBox, ...]]]


def _read_sources(sources: ProjectSources) -> _Found:
    return _Found(find_studies(sources.studies), _reports(sources.reports), _suggestions(sources))


def _reports(source: Path | None) -> dict[str, SourceReport]:
    """image_id -> report; a report is keyed by the images it lists, else by its own id."""
    found: dict[str, SourceReport] = {}
    for report in read_reports(source) if source is not None else ():
        for name in report.images or (report.report_id,):
            found.setdefault(name, report)
    return found


def _suggestions(
    sources: ProjectSources,
) -> Mapping[str, tuple[tuple[int, int], tuple[SuggestedBox, ...]]]:
    if sources.predictions is None:
        return {}
    found = {}
    for item in read_predictions(str(sources.predictions)):
        pairs = sorted(zip(item.scores.tolist(), item.boxes.tolist(), strict=True), reverse=True)
        made = tuple(
            SuggestedBox(f"model:{number}", _inside(box, item.width, item.height), score)
            for number, (score, box) in enumerate(pairs[:MAX_SUGGESTIONS])
            if score >= sources.min_score
        )
        found[item.image_id] = ((item.width, item.height), made)
    return found


def _inside(box: Sequence[float], width: int, height: int) -> Box:
    x1, y1, x2, y2 = box
    return max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
