"""UIDs of result objects, which depend on their whole content except the time of creation.

The same image, model and result give the same UIDs, whenever they are made: an archive that has the
object already ignores or replaces it. Anything else is another object: a corrected patient, other
pixels, another model or operating point. The time of creation is the only content that the UIDs do
not depend on; an object that exists already keeps its own.
"""

import hashlib
from datetime import datetime, timedelta, timezone
from typing import Dict, List, NamedTuple, Optional, Tuple

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from pneumonia.runtime.image.attributes import first_text
from pneumonia.runtime.results.files import dataset_bytes
from pneumonia.runtime.results.objects import NO_DATE, NO_TIME, derived_uid, set_uid

# Date and time of creation in each kind of object, besides those that all have.
CREATION = {
    "SR": ("ContentDate", "ContentTime"),
    "PR": ("PresentationCreationDate", "PresentationCreationTime"),
    "OT": ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
}
ALL_KINDS = (
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("SeriesDate", "SeriesTime"),
)
Chain = List[Tuple[str, str, str, str]]  # study, series, class, instance; the oldest first


class ObjectCreation(NamedTuple):
    """When and from what an object is made."""

    # date and time, local unless it has a time zone; None for now
    moment: Optional[datetime] = None
    # of the image's pixels and identity: another image makes other objects
    content_digest: str = ""
    # objects that exist already for this image, by kind: the same content keeps its time of
    # creation, another report names the earlier one as its predecessor
    earlier: Optional[Dict[str, Dataset]] = None


NOW = ObjectCreation()


def identify(made: Dataset, kind: str, header: Dataset, creation: ObjectCreation) -> None:
    """Set SOP and Series Instance UID, date and time of creation, and the predecessors.

    A result is a series of its own: viewers show only the newest report of a series.

    Args:
        made: The object, complete except for these attributes; changed in place.
        kind: `SR`, `PR` or `SC`.
        header: Of the source, from `source_header`.
    """
    content = hashlib.sha256(dataset_bytes(made)).hexdigest()
    uid = derived_uid(content, creation.content_digest, kind)
    earlier = (creation.earlier or {}).get(kind)
    day, time = _creation_time(header, creation.moment)
    chain: Chain = []
    if earlier is not None and _refers_to_same_image(earlier, made):
        chain = _predecessors(earlier)
        before = _place(earlier)
        if _unused_uid(chain, uid) == before[3]:
            day = first_text(earlier, "InstanceCreationDate") or day
            time = first_text(earlier, "InstanceCreationTime") or time
        else:
            chain = chain + [before]
        uid = _unused_uid(chain, uid)
    made.SOPInstanceUID = uid
    made.SeriesInstanceUID = derived_uid(uid, "series")
    if kind == "SR" and chain:
        made.PredecessorDocumentsSequence = _hierarchy(chain)
    names = (CREATION[made.Modality],) + (() if day == NO_DATE else ALL_KINDS)
    for date_keyword, time_keyword in names:
        setattr(made, date_keyword, day)
        setattr(made, time_keyword, time)


def _unused_uid(chain: Chain, uid: str) -> str:
    """The UID, or another one if a predecessor has it because a correction was undone."""
    is_taken = uid in [instance for _, _, _, instance in chain]
    return derived_uid(uid, "again", chain[-1][3]) if is_taken else uid


def _creation_time(header: Dataset, moment: Optional[datetime]) -> Tuple[str, str]:
    """Date and time of creation in the time zone of the source's times.

    A de-identified object has none: the day of scoring is close to that of the study.
    """
    if first_text(header, "LongitudinalTemporalInformationModified") == "REMOVED":
        return NO_DATE, NO_TIME
    made = datetime.now(timezone.utc) if moment is None else moment
    offset = first_text(header, "TimezoneOffsetFromUTC")
    if made.tzinfo is not None:
        zone = None  # the local time zone
        if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
            minutes = int(offset[1:3]) * 60 + int(offset[3:])
            shift = timedelta(minutes=minutes if offset[0] == "+" else -minutes)
            zone = timezone(shift) if abs(shift) < timedelta(days=1) else None
        made = made.astimezone(zone)
    return made.strftime("%Y%m%d"), made.strftime("%H%M%S")


def _evidence_of(report: Dataset) -> Tuple[str, str]:
    """Study and instance that a report is about; empty if it is not a report."""
    try:
        study = report.CurrentRequestedProcedureEvidenceSequence[0]
        image = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        return str(study.StudyInstanceUID), str(image.ReferencedSOPInstanceUID)
    except (AttributeError, IndexError, TypeError):
        return "", ""


def _refers_to_same_image(earlier: Dataset, made: Dataset) -> bool:
    """Whether an earlier object is about the same instance of the same study."""
    if "CurrentRequestedProcedureEvidenceSequence" in made:
        return _evidence_of(earlier) == _evidence_of(made)
    return first_text(earlier, "StudyInstanceUID") == first_text(made, "StudyInstanceUID")


def _place(report: Dataset) -> Tuple[str, str, str, str]:
    study, series, kind, instance = (
        first_text(report, keyword)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
    )
    return study, series, kind, instance


def _predecessors(report: Dataset) -> Chain:
    """The predecessors that a report names."""
    return [
        (
            first_text(study, "StudyInstanceUID"),
            first_text(series, "SeriesInstanceUID"),
            first_text(item, "ReferencedSOPClassUID"),
            first_text(item, "ReferencedSOPInstanceUID"),
        )
        for study in report.get("PredecessorDocumentsSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedSOPSequence") or ()
    ]


def _hierarchy(chain: Chain) -> DicomSequence:
    """References by study and series (PS3.3 table C.17-3); each result is a series of its own."""
    studies: Dict[str, List[Dataset]] = {}
    for study_uid, series_uid, kind, instance in chain:
        item, series = Dataset(), Dataset()
        set_uid(item, "ReferencedSOPClassUID", kind)
        set_uid(item, "ReferencedSOPInstanceUID", instance)
        set_uid(series, "SeriesInstanceUID", series_uid)
        series.ReferencedSOPSequence = DicomSequence([item])
        studies.setdefault(study_uid, []).append(series)
    made = []
    for study_uid, found in studies.items():
        study = Dataset()
        set_uid(study, "StudyInstanceUID", study_uid)
        study.ReferencedSeriesSequence = DicomSequence(found)
        made.append(study)
    return DicomSequence(made)
