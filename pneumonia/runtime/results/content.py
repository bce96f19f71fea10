"""Content items of a structured report (PS3.3 C.17.3)."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from pneumonia.runtime.results.objects import code_item, sequence

CONTAINS = "CONTAINS"
CONCEPT_MODIFIER = "HAS CONCEPT MOD"
CONTEXT = "HAS OBS CONTEXT"
SELECTED_FROM = "SELECTED FROM"
INFERRED_FROM = "INFERRED FROM"
ACQUISITION = "HAS ACQ CONTEXT"

Box = Tuple[float, float, float, float]  # xyxy


class ConceptCode(NamedTuple):
    """A coded concept."""

    value: str
    scheme: str
    meaning: str

    def item(self) -> Dataset:
        """The code as an item of a code sequence."""
        return code_item(*self)


def _item(
    kind: str, relation: str, name: Optional[ConceptCode], children: Sequence[Dataset]
) -> Dataset:
    item = Dataset()
    if relation:
        item.RelationshipType = relation
    item.ValueType = kind
    if name is not None:
        item.ConceptNameCodeSequence = sequence(name.item())
    if children:
        item.ContentSequence = sequence(*children)
    return item


def container(
    name: ConceptCode, children: Sequence[Dataset], relation: str = CONTAINS, template: str = ""
) -> Dataset:
    """A heading with content below it; `template` is its number in DCMR (PS3.16)."""
    item = _item("CONTAINER", relation, name, children)
    item.ContinuityOfContent = "SEPARATE"
    if template:
        identified = Dataset()
        identified.MappingResource = "DCMR"
        identified.TemplateIdentifier = template
        item.ContentTemplateSequence = sequence(identified)
    return item


def code(name: ConceptCode, value: ConceptCode, relation: str) -> Dataset:
    """A coded statement."""
    item = _item("CODE", relation, name, ())
    item.ConceptCodeSequence = sequence(value.item())
    return item


def text(name: ConceptCode, value: str, relation: str) -> Dataset:
    """A text statement; `value` in ASCII, so that the source's character set can hold it."""
    item = _item("TEXT", relation, name, ())
    item.TextValue = value.encode("ascii", "replace").decode("ascii")
    return item


def uid_reference(name: ConceptCode, uid: str) -> Dataset:
    """A UID as context of its parent."""
    item = _item("UIDREF", CONTEXT, name, ())
    item.UID = uid
    return item


def day(name: ConceptCode, value: str, relation: str) -> Dataset:
    """A date, `value` as YYYYMMDD."""
    item = _item("DATE", relation, name, ())
    item.Date = value
    return item


def time_of_day(name: ConceptCode, value: str, relation: str) -> Dataset:
    """A time, `value` as HHMMSS.FFFFFF or its beginning."""
    item = _item("TIME", relation, name, ())
    item.Time = value
    return item


def number(
    name: ConceptCode,
    value: float,
    unit: ConceptCode,
    relation: str = CONTAINS,
    children: Sequence[Dataset] = (),
) -> Dataset:
    """A measured number, at most 16 characters long (VR DS)."""
    item = _item("NUM", relation, name, children)
    measured = Dataset()
    measured.NumericValue = DSfloat("{:.4f}".format(value))
    measured.MeasurementUnitsCodeSequence = sequence(unit.item())
    item.MeasuredValueSequence = sequence(measured)
    return item


def image(
    reference: Dataset,
    relation: str,
    name: Optional[ConceptCode] = None,
    children: Sequence[Dataset] = (),
) -> Dataset:
    """A reference to an image."""
    item = _item("IMAGE", relation, name, children)
    item.ReferencedSOPSequence = sequence(reference)
    return item


def outline(name: ConceptCode, box_xyxy: Box, source: Dataset) -> Dataset:
    """A box as a closed polyline in pixels of an image; `source` is an `image` item."""
    item = _item("SCOORD", CONTAINS, name, [source])
    item.GraphicType = "POLYLINE"
    item["GraphicData"] = DataElement("GraphicData", "FL", corners(box_xyxy))
    return item


def corners(box_xyxy: Box) -> List[float]:
    """Column and row of the corners, clockwise and closed: 10 numbers."""
    x1, y1, x2, y2 = box_xyxy
    return [x1, y1, x2, y1, x2, y2, x1, y2, x1, y1]
