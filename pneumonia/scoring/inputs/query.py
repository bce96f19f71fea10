"""The query to a server, and its answers as entries of a batch."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.image.dicom_header import BODY_PARTS, MODALITIES, OWN_SERIES, coded
from pneumonia.scoring.image.expected import (
    NOT_ASKED_FOR,
    STATUS_OF,
    ExpectedObject,
    open_keys,
)
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.image.selection import SelectionRules

MAX_AGE_SECONDS = 24 * 3600.0  # of the images that an interrupted run has fetched
_UID = re.compile(r"[0-9.]{1,64}")
_DATE = re.compile(r"\d{8}(-\d{8})?|\d{8}-|-\d{8}")
_ACCESSION = re.compile(r"[^\\*?\x00-\x1f]{1,16}")
# Modalities of series without images: reports, presentation states, key objects, documents, ...
NOT_IMAGES = frozenset(("SR", "PR", "KO", "DOC", "REG", "FID", "RWV", "RTPLAN", "RTSTRUCT", "AU"))
# Of a study: its UID, the matching keys, and what a corrected patient or study changes.
STUDY_ANSWER = (
    "StudyInstanceUID", "AccessionNumber", "StudyDate", "PatientID", "PatientName",
    "PatientBirthDate", "PatientSex",
)  # fmt: skip
SERIES_ANSWER = ("StudyInstanceUID", "SeriesInstanceUID")
OWN_MODALITIES = frozenset(("SR", "PR", "OT"))


@dataclass(frozen=True)
class Query:
    """Criteria that select studies: AND between criteria, OR between values of one.

    Attributes:
        studies: Study Instance UIDs.
        accessions: Accession numbers.
        date: Study date YYYYMMDD, a range YYYYMMDD-YYYYMMDD, or empty.

    Raises:
        ConfigError: A value is malformed, or there is no criterion, which would match all studies.
    """

    studies: tuple[str, ...] = ()
    accessions: tuple[str, ...] = ()
    date: str = ""

    def __post_init__(self) -> None:
        if not (self.studies or self.accessions or self.date):
            raise ConfigError(
                "No studies are named",
                fix="Pass --study UID, --accession NUMBER or --date YYYYMMDD[-YYYYMMDD]",
            )
        # the values are not quoted: they name patients
        if not all(is_uid(uid) for uid in self.studies):
            raise ConfigError("Study is not a UID", expected="digits and dots, at most 64")
        if not all(_ACCESSION.fullmatch(number) for number in self.accessions):
            raise ConfigError(
                "Accession number is not valid", expected="at most 16 characters, no wildcard"
            )
        if self.date and not _DATE.fullmatch(self.date):
            raise ConfigError("Date is not valid", expected="YYYYMMDD or YYYYMMDD-YYYYMMDD")

    def study_queries(self) -> list[dict[str, str]]:
        """The attributes of each query at study level."""
        found: list[dict[str, str]] = []
        for uid in self.studies or ("",):
            for number in self.accessions or ("",):
                asked = {"StudyInstanceUID": uid, "AccessionNumber": number, "StudyDate": self.date}
                found.append({keyword: value for keyword, value in asked.items() if value})
        return found


def is_uid(text: str) -> bool:
    """Whether a text has the form of a UID, hence is safe in a path or a URL."""
    return bool(_UID.fullmatch(text)) and ".." not in text


class FoundStudy(NamedTuple):
    """A study that fits the query."""

    # keys, revision: see `ExpectedObject`
    keys: tuple[tuple[tuple[str, str], ...], ...] = ()
    revision: str = ""


class FoundStudies:
    """The studies of a server's answers, each answer compared with its query.

    Servers ignore matching keys that they do not support, and answer with other studies.

    Attributes:
        studies: Study Instance UID -> `FoundStudy`, as the answers describe it.
        dropped: Study Instance UIDs of the answers that contradict their query.
        other_series: `study/series` of answers about another study than was asked for.
    """

    def __init__(self) -> None:
        self.studies: dict[str, FoundStudy] = {}
        self.dropped: set[str] = set()
        self.other_series: set[str] = set()
        self._confirmed: set[str] = set()

    def add(self, asked: Mapping[str, str], answers: Iterable[Mapping[str, str]]) -> None:
        """Add all answers to one query.

        Args:
            asked: Matching keys by keyword, from `Query.study_queries`.
            answers: Values of each answer by keyword, at least those of STUDY_ANSWER.
        """
        left: dict[str, dict[str, str]] = {}
        contradicted = set()
        for answer in answers:
            uid = answer.get("StudyInstanceUID", "").strip(" \0")
            if not is_uid(uid):
                continue
            keys = open_keys(asked, answer)
            if keys is None:
                contradicted.add(uid)
                continue
            left[uid] = {**left.get(uid, {}), **keys}
            self._describe(uid, answer)
        for uid, keys in left.items():
            # one UID for two studies, of which one fits: the header of each image decides
            unconfirmed = asked if uid in contradicted else keys
            self._allow(uid, tuple(sorted(unconfirmed.items())))
        self.dropped = (self.dropped | contradicted) - self.studies.keys()

    def _describe(self, uid: str, answer: Mapping[str, str]) -> None:
        study = self.studies.setdefault(uid, FoundStudy())
        line = json.dumps([answer.get(keyword, "") for keyword in STUDY_ANSWER])
        lines = sorted({*study.revision.splitlines(), line})
        self.studies[uid] = study._replace(revision="\n".join(lines))

    def _allow(self, uid: str, keys: tuple[tuple[str, str], ...]) -> None:
        """Add an alternative; a study that one answer confirms needs no other."""
        study = self.studies[uid]
        if not keys:
            self._confirmed.add(uid)
        alternatives = () if uid in self._confirmed else (*study.keys, keys)
        self.studies[uid] = study._replace(keys=alternatives)

    def is_series_of(self, study: str, answer: Mapping[str, str]) -> bool:
        """Whether an answer at series level is about a study; others are noted.

        Args:
            study: The study that was asked for.
            answer: StudyInstanceUID, if the answer has it, and SeriesInstanceUID.
        """
        stated, series = (answer.get(name, "").strip(" \0") for name in SERIES_ANSWER)
        if not is_uid(series):
            return False
        if stated in ("", study):
            return True
        if is_uid(stated):
            self.other_series.add(f"{stated}/{series}")
        return False

    def entries(
        self, images_of: Callable[[str], Iterable["RemoteImage"]], rules: SelectionRules
    ) -> list[FoundFile]:
        """The images of all studies, by their UIDs, then studies and series not asked for.

        Args:
            images_of: Study Instance UID -> its images; asks the server.
        """
        images: dict[str, RemoteImage] = {}
        for uid in sorted(self.studies):
            for image in images_of(uid):
                images.setdefault(image.relative, image)
        return [images[name].entry(rules) for name in sorted(images)] + self.refused(images)

    def refused(self, images: Iterable[str]) -> list[FoundFile]:
        """An entry for each study or series that was not asked for.

        Args:
            images: `study/series/instance.dcm` of those that were: a server may answer one
                query with studies that match another.
        """
        asked = {name.rsplit("/", 1)[0] for name in images}
        status = STATUS_OF[NOT_ASKED_FOR]
        names = sorted(self.dropped | (self.other_series - asked))
        return [FoundFile("", name, status, NOT_ASKED_FOR) for name in names]


class RemoteImage(NamedTuple):
    """One instance from a server's answer."""

    # study, series, instance: their UIDs
    study: str
    series: str
    instance: str
    # modality, body_part: values of its series' attributes; empty where the answer has none
    modality: Sequence[Any]
    body_part: Sequence[Any]
    description: str = ""  # description of its series; empty where the answer has none
    found: "FoundStudy" = FoundStudy()  # the answer about its study

    @property
    def relative(self) -> str:
        """Its path in the manifest; its name in predictions.csv is the SOP Instance UID."""
        return f"{self.study}/{self.series}/{self.instance}.dcm"

    def entry(self, rules: SelectionRules) -> FoundFile:
        """The entry; it is not fetched if its series cannot be a frontal radiograph."""
        if _is_own_series(self.modality, self.description):
            return FoundFile("", self.relative, "skipped", "own_result")
        if _has_only(self.modality, NOT_IMAGES):
            return FoundFile("", self.relative, "skipped", "not_an_image")
        codes = {
            "modality": coded(self.modality, MODALITIES),
            "view": None,
            "body_part": coded(self.body_part, BODY_PARTS),
        }
        if codes["modality"] is not None and codes["modality"] not in rules.modality:
            return FoundFile("", self.relative, "skipped", "not_frontal_chest", -1, codes)
        expected = ExpectedObject(
            (self.study, self.series, self.instance), self.found.keys, self.found.revision
        )
        return FoundFile("", self.relative, "", "", -1, codes, expected=expected)


def _has_only(values: Sequence[Any], codes: Container[str]) -> bool:
    """Whether there is at least one value and all values are among the codes."""
    return bool(values) and all(str(value).strip().upper() in codes for value in values)


def _is_own_series(modality: Sequence[Any], description: str) -> bool:
    """Whether a series holds results that this software sent to the server earlier."""
    return _has_only(modality, OWN_MODALITIES) and description.startswith(OWN_SERIES)


def fetched_path(folder: Path, entry: FoundFile) -> Path:
    """Path of a fetched image.

    Two studies may hold the same SOP Instance UID; a study that the server describes in another
    way than before is fetched again.
    """
    revision = entry.expected.revision if entry.expected else ""
    name = "\n".join((entry.relative, revision))
    return folder / f"{hashlib.sha256(name.encode('utf-8')).hexdigest()[:32]}.dcm"


def was_fetched(folder: Path, entry: FoundFile) -> bool:
    """Whether an interrupted run fetched an image within MAX_AGE_SECONDS; deletes an older file."""
    path = fetched_path(folder, entry)
    if not path.is_file():
        return False
    is_recent = time.time() - path.stat().st_mtime < MAX_AGE_SECONDS
    if not is_recent:
        path.unlink()
    return is_recent


def fetched_entry(entry: FoundFile, folder: Path, detail: str = "") -> FoundFile:
    """The entry with its file, or as `failed` when that is missing.

    Args:
        entry: From `RemoteImage.entry`.
        folder: Folder of the fetched files.
        detail: What the server answered when the file was requested.
    """
    path = fetched_path(folder, entry)
    if not path.is_file():
        return replace(entry, status="failed", reason="not_retrieved", detail=detail)
    return replace(entry, path=str(path))
