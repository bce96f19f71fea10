"""Small readings that several tests share."""

from data_prep.annotation.workspace.records import Annotation, Reading

OPACITY_LEFT = "Opacity/lung/lower lobe/left"
OPACITY_RIGHT = "Opacity/lung/lower lobe/right"
BOX = (100.0, 100.0, 200.0, 200.0)
FAR = (400.0, 300.0, 480.0, 420.0)


def box(box_xyxy=BOX, code="Opacity", number=1, **more):
    return Annotation(f"a{number}", tuple(map(float, box_xyxy)), code, **more)


def reading(name, *boxes, image="one", verdict=None):
    if verdict is None:
        verdict = "opacity" if boxes else "normal"
    numbered = tuple(b._replace(annotation_id=f"a{i}") for i, b in enumerate(boxes))
    return Reading(image, name, numbered, verdict)
