"""A chest without findings: body, lungs, heart, vessels, spine, ribs, clavicles, scapulae."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.phantom.canvas import Canvas, Layer, Points, smooth_curve

# Control points of an adult's PA film in the unit frame; image left is the patient's right.
_RIGHT_LUNG = np.array(
    [
        (0.395, 0.110), (0.330, 0.105), (0.255, 0.155), (0.190, 0.270), (0.145, 0.430),
        (0.112, 0.600), (0.098, 0.740), (0.100, 0.835), (0.112, 0.840), (0.160, 0.775),
        (0.240, 0.720), (0.330, 0.705), (0.410, 0.745), (0.452, 0.790), (0.462, 0.640),
        (0.458, 0.450), (0.462, 0.300), (0.448, 0.180),
    ]
)  # fmt: skip
_HEART = np.array(
    [
        (0.455, 0.400), (0.545, 0.385), (0.605, 0.455), (0.665, 0.560), (0.715, 0.680),
        (0.715, 0.780), (0.620, 0.835), (0.450, 0.830), (0.385, 0.770), (0.375, 0.640),
        (0.405, 0.510),
    ]
)  # fmt: skip
_MEDIASTINUM = np.array(
    [
        (0.450, -0.05), (0.550, -0.05), (0.548, 0.150), (0.560, 0.235), (0.597, 0.275),
        (0.603, 0.325), (0.575, 0.365), (0.590, 0.430), (0.565, 0.600), (0.560, 0.900),
        (0.440, 0.900), (0.435, 0.450), (0.420, 0.330), (0.432, 0.200),
    ]
)  # fmt: skip
_BODY = np.array(
    [
        (0.415, -0.10), (0.585, -0.10), (0.600, 0.020), (0.690, 0.060), (0.860, 0.090),
        (1.020, 0.180), (1.150, 0.400), (1.150, 1.200), (-0.150, 1.200), (-0.150, 0.400),
        (-0.020, 0.180), (0.140, 0.090), (0.310, 0.060), (0.400, 0.020),
    ]
)  # fmt: skip
_CLAVICLE = np.array(
    [(0.462, 0.170), (0.400, 0.150), (0.330, 0.135), (0.250, 0.105), (0.150, 0.075), (0.07, 0.07)]
)
_SCAPULA = np.array(
    [(0.060, 0.130), (0.165, 0.170), (0.190, 0.260), (0.150, 0.420), (0.115, 0.440), (0.060, 0.300)]
)
_BREAST = np.array(
    [(0.090, 0.560), (0.230, 0.520), (0.370, 0.580), (0.390, 0.700), (0.300, 0.800), (0.110, 0.800)]
)
_HILA = ((0.425, 0.430), (0.575, 0.415))  # right, left
_HILUM = np.array(  # about the hilum's centre, x away from the midline
    [(0.012, -0.055), (0.052, -0.010), (0.030, 0.070), (-0.020, 0.050), (-0.020, -0.040)]
)
_POSTERIOR_RIBS = 9


class PhantomPatient(NamedTuple):
    """Parameters shared by all films of one phantom patient, lengths in the unit frame."""

    patient_id: str  # identifier
    sex: str  # `F` or `M`
    age: int  # years
    width: float  # horizontal scale of the chest about the midline
    depth: float  # vertical scale of the lungs about their apex (build, inspiration)
    heart: float  # scale of the heart's half-widths; about 1
    bone: float  # brightness of bones, falls with age
    jitter: npt.NDArray[np.float64]  # float64 (18, 2), displacement of the lung outline
    rib_tilt: float  # how steeply the posterior ribs run downwards
    vessel_seed: int  # seed of the pulmonary vessels


class Chest(NamedTuple):
    """A rendered chest."""

    density: Layer  # float32 (size, size), brightness in the display domain, about 0..1
    lungs: Layer  # float32 (size, size), 0..1, aerated lung not hidden by the heart
    sides: tuple[Layer, Layer]  # the right and the left lung's share of `lungs`


def sample_patient(rng: np.random.Generator, patient_id: str) -> PhantomPatient:
    """Draw a patient; ages 5 to 92, mostly adults."""
    sex = str(rng.choice(["F", "M"], p=[0.44, 0.56]))
    age = int(np.clip(rng.normal(50, 18), 5, 92))
    return PhantomPatient(
        patient_id=patient_id,
        sex=sex,
        age=age,
        width=float(rng.normal(1.0 if sex == "M" else 0.96, 0.045)),
        depth=float(rng.normal(1.0, 0.05)),
        heart=float(rng.normal(0.96, 0.07)),
        bone=float(np.clip(1.15 - 0.005 * age + rng.normal(0, 0.12), 0.55, 1.35)),
        jitter=rng.normal(0.0, 0.007, _RIGHT_LUNG.shape),
        rib_tilt=float(rng.normal(0.075, 0.02)),
        vessel_seed=int(rng.integers(2**31)),
    )


def render_chest(
    canvas: Canvas,
    patient: PhantomPatient,
    supine: bool,
    heart_scale: float,
    rng: np.random.Generator,
) -> Chest:
    """Draw a patient's chest.

    Args:
        supine: AP film: higher diaphragm, wider heart, scapulae over the lungs.
        heart_scale: Extra scale of the heart, 1 = the patient's own.
        rng: Generator for the variation between films of one patient (inspiration, soft tissue).
    """
    depth = patient.depth * (0.93 if supine else 1.0) * rng.normal(1.0, 0.015)
    right = _lung_outline(patient, depth, mirrored=False)
    left = _lung_outline(patient, depth, mirrored=True)
    heart = _heart_outline(patient, depth, heart_scale * (1.12 if supine else 1.0))
    body = canvas.fill(_wide(_BODY, patient), soften=0.02)
    mediastinum = canvas.fill(_wide(_MEDIASTINUM, patient), soften=0.014)
    heart_layer = canvas.fill(heart, soften=0.016)
    air = [canvas.fill(outline, soften=0.013) for outline in (right, left)]

    # brightness of the chest wall: thicker low down and at the flanks
    y = np.linspace(0, 1, canvas.size, dtype=np.float32)[:, None]
    wall = 0.56 + 0.20 * y + 0.025 * canvas.noise(rng, 4)
    density = 0.03 + body * (wall - 0.03)
    depth_of_air = (0.50 - 0.06 * y + 0.015 * canvas.noise(rng, 3)) * np.float32(
        rng.normal(1.0, 0.05)
    )
    density -= (air[0] + air[1]) * depth_of_air
    solid = np.maximum(mediastinum * 0.85, heart_layer * 0.92)
    density += solid * np.clip(0.70 - density, 0, None)

    open_lung = [side * (1 - heart_layer) * (1 - mediastinum) for side in air]
    lungs = open_lung[0] + open_lung[1]
    density += _vessels(canvas, patient, lungs)
    # through dense tissue the beam is hard and bones show less
    density += _bones(canvas, patient, supine, body, depth) * (1.15 - 0.8 * np.clip(density, 0, 1))
    if patient.sex == "F" and patient.age > 15:
        density += _breasts(canvas, patient, rng)
    return Chest(density.astype(np.float32), lungs, (open_lung[0], open_lung[1]))


def _wide(points: Points, patient: PhantomPatient) -> Points:
    return (points - [0.5, 0.0]) * [patient.width, 1.0] + [0.5, 0.0]


def _lung_outline(patient: PhantomPatient, depth: float, mirrored: bool) -> Points:
    outline = _RIGHT_LUNG + patient.jitter
    outline[:, 1] = 0.11 + (outline[:, 1] - 0.11) * depth
    if mirrored:
        outline[:, 0] = 1.0 - outline[:, 0]
        outline[7:14, 1] += 0.018  # the left dome lies lower
    return _wide(outline, patient)


def _heart_outline(patient: PhantomPatient, depth: float, scale: float) -> Points:
    outline = _HEART.copy()
    outline[:, 1] = 0.11 + (outline[:, 1] - 0.11) * depth
    centre = np.array([0.515, 0.62])
    grow = patient.heart * scale
    outline = (outline - centre) * [grow, 1 + 0.4 * (grow - 1)] + centre
    return _wide(outline, patient)


def _vessels(canvas: Canvas, patient: PhantomPatient, lungs: Layer) -> Layer:
    """Branching lines from both hila, thinning towards the periphery."""
    rng = np.random.default_rng(patient.vessel_seed)
    curves: list[Points] = []
    widths: list[float] = []
    for (x, y), side in zip(_HILA, (-1, 1), strict=True):
        for angle in np.linspace(-1.25, 1.35, 11) + rng.normal(0, 0.09, 11):
            _branch(rng, (x, y), angle, side, 0.0085, curves, widths)
    trees = canvas.strokes(curves, widths, soften=0.004)
    hila = np.zeros_like(trees)
    for (x, y), side in zip(_HILA, (-1, 1), strict=True):
        hila += canvas.fill(_HILUM * [side, 1] + [x, y], soften=0.03)
    return np.asarray(0.085 * trees * lungs + 0.13 * hila)


def _branch(
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    side: int,
    width: float,
    curves: list[Points],
    widths: list[float],
) -> None:
    """Append one vessel and, while it is wide enough, its branches."""
    draws = rng.normal(0, 1, 7)
    length = 0.024 + 0.003 * draws[6]
    path = [start]
    for turn in draws[:4]:
        angle += 0.13 * turn
        x, y = path[-1]
        path.append((x + side * math.cos(angle) * length, y + math.sin(angle) * length))
    curves.append(np.array(path))
    widths.append(width)
    if width > 0.0030:
        for turn in (0.28 + 0.1 * draws[4], -0.28 + 0.1 * draws[5]):
            _branch(rng, path[-1], angle + turn, side, width * 0.68, curves, widths)


def _bones(
    canvas: Canvas, patient: PhantomPatient, supine: bool, body: Layer, depth: float
) -> Layer:
    """Ribs, clavicles, scapulae and spine, as added brightness."""
    ribs: list[Points] = []
    thin: list[Points] = []
    for number in range(_POSTERIOR_RIBS):
        ribs.extend(_rib_pair(patient, number, depth))
        thin.extend(_anterior_pair(patient, number, depth))
    bone = np.float32(patient.bone)
    shade = canvas.strokes(ribs, [0.026] * len(ribs), soften=0.007)
    core = canvas.strokes(ribs, [0.012] * len(ribs), soften=0.008)
    total = bone * (0.085 * shade - 0.030 * core)  # a rib's cortex is brighter than its middle
    total += bone * 0.042 * canvas.strokes(thin, [0.026] * len(thin), soften=0.010)
    drop = -0.02 if supine else 0.0
    clavicles = [
        _wide(_mirror(smooth_curve(_CLAVICLE + np.array([0, drop]), False), flip), patient)
        for flip in (False, True)
    ]
    total += bone * 0.13 * canvas.strokes(clavicles, [0.027, 0.027], soften=0.007)
    outward = 0.0 if supine else -0.045
    for flip in (False, True):
        outline = _wide(_mirror(_SCAPULA + np.array([outward, 0]), flip), patient)
        total += bone * 0.07 * canvas.fill(outline, soften=0.008)
    return np.asarray((total + _spine(canvas, patient)) * body)


def _mirror(points: Points, flip: bool) -> Points:
    return points * [-1, 1] + [1, 0] if flip else points


def _rib_pair(patient: PhantomPatient, number: int, depth: float) -> list[Points]:
    """Posterior ribs: out of the spine, a little up, then down along the chest wall."""
    y = 0.11 + (0.005 + 0.078 * number) * depth
    reach = 0.455 - 0.255 * np.sin(np.pi * min(0.5, 0.13 + 0.075 * number))
    tilt = patient.rib_tilt * (0.6 + 0.14 * number)
    points = np.array(
        [
            (0.475, y + 0.010), (0.430, y - 0.012), (0.5 - (0.5 - reach) * 0.55, y + 0.1 * tilt),
            (reach + 0.045, y + 0.75 * tilt), (reach - 0.075, y + 1.9 * tilt),
            (reach - 0.105, y + 2.9 * tilt),
        ]
    )  # fmt: skip
    curve = smooth_curve(points, closed=False)
    return [_wide(_mirror(curve, flip), patient) for flip in (False, True)]


def _anterior_pair(patient: PhantomPatient, number: int, depth: float) -> list[Points]:
    """Anterior ribs: from the chest wall down and inwards, fainter, ending before the sternum."""
    if number > 6:
        return []
    y = 0.19 + 0.088 * number * depth
    reach = 0.24 - 0.14 * np.sin(np.pi * min(0.5, 0.2 + 0.08 * number))
    points = np.array(
        [(reach, y), (reach + 0.05, y + 0.045), (reach + 0.15, y + 0.085), (0.395, y + 0.085)]
    )
    curve = smooth_curve(points, closed=False)
    return [_wide(_mirror(curve, flip), patient) for flip in (False, True)]


def _spine(canvas: Canvas, patient: PhantomPatient) -> Layer:
    """Column of vertebral bodies with darker discs, and the trachea's air above."""
    column = canvas.fill(
        [(0.462, -0.1), (0.538, -0.1), (0.542, 0.5), (0.545, 1.1), (0.455, 1.1), (0.458, 0.5)],
        soften=0.012,
    )
    discs = [np.array([(0.462, y), (0.538, y)]) for y in np.arange(0.03, 1.0, 0.062)]
    gaps = canvas.strokes(discs, [0.009] * len(discs), soften=0.006)
    trachea = canvas.fill(
        [(0.487, -0.1), (0.519, -0.1), (0.520, 0.15), (0.518, 0.30), (0.484, 0.30), (0.486, 0.15)],
        soften=0.010,
    )
    bone = np.float32(patient.bone)
    return np.asarray(bone * (0.085 * column - 0.035 * gaps) - 0.13 * trachea)


def _breasts(canvas: Canvas, patient: PhantomPatient, rng: np.random.Generator) -> Layer:
    shift = [0.0, rng.normal(0.0, 0.03)]
    strength = np.float32(rng.uniform(0.02, 0.07))
    both = [
        canvas.fill(_wide(_mirror(_BREAST + shift, flip), patient), soften=0.035)
        for flip in (False, True)
    ]
    return np.asarray(strength * (both[0] + both[1]))
