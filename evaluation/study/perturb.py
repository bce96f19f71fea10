"""Deterministic perturbations of a radiograph, to measure robustness.

A perturbation has a name such as `noise_10` or `rotate_5`; the same name, image and image id always
give the same pixels. Rotation and letterboxing move the truth boxes (`move_boxes`).
"""

import io
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from evaluation.metrics.matching import Float64Array
from pneumonia.runtime.errors import ConfigError

Pixels = NDArray[np.uint8]

# kind -> (what its number means, allowed range, the levels of a standard sweep)
KINDS: dict[str, tuple[str, float, float, tuple[float, ...]]] = {
    "noise": ("standard deviation of Gaussian noise, grey levels", 0, 128, (5, 10, 20)),
    "contrast": ("contrast about the mean, percent", 1, 400, (50, 75, 150)),
    "gamma": ("exponent of the grey value / 255, percent", 10, 1000, (70, 140)),
    "rotate": ("rotation, degrees, positive = counter-clockwise", -180, 180, (-10, -5, 5, 10)),
    "resolution": ("resolution kept along each side, percent", 1, 100, (25, 50)),
    "jpeg": ("JPEG quality", 1, 95, (10, 30)),
    "letterbox": ("size kept on a black ground, percent", 10, 100, (80,)),
    "inverted": ("share of the grey values inverted, percent", 100, 100, (100,)),
}

TEXTS = {
    "noise": "noise, s.d. {} grey levels",
    "contrast": "contrast {} %",
    "gamma": "gamma {} %",
    "rotate": "rotation {}\N{DEGREE SIGN}",
    "resolution": "resolution {} %",
    "jpeg": "JPEG quality {}",
    "letterbox": "{} % of its size on black",
    "inverted": "inverted grey values",
}


def standard_sweep() -> tuple[str, ...]:
    """Names of the perturbations of the standard sweep."""
    return tuple(f"{kind}_{level:g}" for kind, (*_, levels) in KINDS.items() for level in levels)


def parse_name(name: str) -> tuple[str, float]:
    """Kind and level of a name such as `rotate_-5`.

    Raises:
        ConfigError: Unknown kind, or a level that is not a number in its range.
    """
    kind, _, text = name.partition("_")
    if kind not in KINDS:
        raise ConfigError(
            "Unknown perturbation",
            expected=", ".join(f"{known}_LEVEL" for known in KINDS),
            found=repr(name),
        )
    meaning, low, high, _ = KINDS[kind]
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not low <= level <= high:
        raise ConfigError(
            f"Level of {kind!r} is not valid",
            expected=f"{meaning}, {low:g}..{high:g}",
            found=repr(text),
        )
    return kind, level


def sort_perturbations(names: Iterable[str]) -> list[str]:
    """Names by kind as in `KINDS`, then by level.

    Raises:
        ConfigError: See `parse_name`.
    """
    kinds = list(KINDS)

    def place(name: str) -> tuple[int, float]:
        kind, level = parse_name(name)
        return kinds.index(kind), level

    return sorted(names, key=place)


def perturbation_text(name: str) -> str:
    """Text of a perturbation for reports: `noise, s.d. 10 grey levels`; other names unchanged."""
    if name.partition("_")[0] not in KINDS:
        return name
    kind, level = parse_name(name)
    return TEXTS[kind].format(f"{level:g}".replace("-", "\N{MINUS SIGN}"))


def perturb(pixels: Pixels, name: str, image_id: str = "") -> Pixels:
    """Apply a perturbation to an image.

    Args:
        pixels: (H, W) uint8.
        name: For example `noise_10`; see `KINDS`.
        image_id: Seeds the noise, so that every image has its own.

    Returns:
        (H, W) uint8, a new array.

    Raises:
        ConfigError: See `parse_name`.
    """
    kind, level = parse_name(name)
    return _FUNCTIONS[kind](np.ascontiguousarray(pixels, dtype=np.uint8), level, image_id)


def move_boxes(boxes: ArrayLike, name: str, width: float, height: float) -> Float64Array:
    """Truth boxes in the perturbed image.

    Rotation: the bounding box of each rotated box, clipped to the image; boxes outside are dropped.
    Letterboxing: boxes scaled about the centre of the image.

    Args:
        boxes: (n, 4) xyxy in pixels of the image.
        width: Width of the image, pixels.
        height: Height of the image, pixels.

    Returns:
        (m, 4) xyxy, m <= n.
    """
    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    kind, level = parse_name(name)
    centre = np.array([width / 2, height / 2])
    if kind == "letterbox":
        return np.asarray((rows - np.tile(centre, 2)) * level / 100 + np.tile(centre, 2))
    if kind != "rotate" or not len(rows):
        return rows.copy()
    angle = np.deg2rad(level)
    corners = np.stack([rows[:, [0, 1]], rows[:, [2, 1]], rows[:, [2, 3]], rows[:, [0, 3]]], axis=1)
    # y points down: this matrix rotates counter-clockwise on the screen
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = (corners - centre) @ turn.T + centre
    low = np.clip(turned.min(axis=1), 0, (width, height))
    high = np.clip(turned.max(axis=1), 0, (width, height))
    moved = np.concatenate([low, high], axis=1)
    return np.asarray(moved[(high > low).all(axis=1)])


def _noise(pixels: Pixels, level: float, image_id: str) -> Pixels:
    rng = np.random.default_rng([zlib.crc32(image_id.encode("utf-8")), round(level * 1000)])
    return _to_uint8(pixels + rng.normal(0.0, level, pixels.shape))


def _contrast(pixels: Pixels, level: float, image_id: str) -> Pixels:
    mean = float(pixels.mean())
    return _to_uint8(mean + (pixels.astype(np.float64) - mean) * level / 100)


def _gamma(pixels: Pixels, level: float, image_id: str) -> Pixels:
    return _to_uint8(255 * (pixels / 255.0) ** (level / 100))


def _rotate(pixels: Pixels, level: float, image_id: str) -> Pixels:
    turned = Image.fromarray(pixels).rotate(level, resample=Image.Resampling.BICUBIC)
    return np.asarray(turned, dtype=np.uint8).copy()


def _resolution(pixels: Pixels, level: float, image_id: str) -> Pixels:
    height, width = pixels.shape
    small = (max(1, round(width * level / 100)), max(1, round(height * level / 100)))
    image = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
    back = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(back, dtype=np.uint8).copy()


def _jpeg(pixels: Pixels, level: float, image_id: str) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=round(level))
    buffer.seek(0)
    with Image.open(buffer) as image:
        return np.asarray(image, dtype=np.uint8).copy()


def _letterbox(pixels: Pixels, level: float, image_id: str) -> Pixels:
    height, width = pixels.shape
    # PIL takes the inverse map: output pixel -> input pixel
    reverse = 100 / level
    offsets = [side / 2 * (1 - reverse) for side in (width, height)]
    shrunk = Image.fromarray(pixels).transform(
        (width, height),
        Image.Transform.AFFINE,
        (reverse, 0, offsets[0], 0, reverse, offsets[1]),
        resample=Image.Resampling.BICUBIC,
        fillcolor=0,
    )
    return np.asarray(shrunk, dtype=np.uint8).copy()


def _inverted(pixels: Pixels, level: float, image_id: str) -> Pixels:
    return 255 - pixels


def _to_uint8(values: Float64Array) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_FUNCTIONS: dict[str, Callable[[Pixels, float, str], Pixels]] = {
    "noise": _noise,
    "contrast": _contrast,
    "gamma": _gamma,
    "rotate": _rotate,
    "resolution": _resolution,
    "jpeg": _jpeg,
    "letterbox": _letterbox,
    "inverted": _inverted,
}
