"""From a rendered chest to a film: exposure, scatter, noise, collimation, side marker."""

import cv2
import numpy as np
import numpy.typing as npt

from data_prep.phantom.canvas import Canvas, Layer

# Strokes of the two letters in a box of height 1.
_L = (np.array([(0.0, 0.0), (0.0, 1.0), (0.6, 1.0)]),)
_R = (
    np.array([(0.0, 1.0), (0.0, 0.0), (0.45, 0.0), (0.6, 0.25), (0.45, 0.5), (0.0, 0.5)]),
    np.array([(0.3, 0.5), (0.6, 1.0)]),
)


def sample_pose(rng: np.random.Generator, supine: bool) -> npt.NDArray[np.float64]:
    """Draw the pose of the chest: float64 (2, 3), unit anatomy -> unit frame.

    Supine films are rotated and off-centre more.
    """
    angle = np.deg2rad(rng.normal(0, 3.0 if supine else 1.3))
    scale = float(np.clip(rng.normal(0.97, 0.05), 0.84, 1.10))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([0.5, 0.48])
    shift = rng.normal(0, 0.025 if supine else 0.013, 2)
    return np.concatenate([turn, (centre + shift - turn @ centre)[:, None]], axis=1)


def expose(canvas: Canvas, density: Layer, supine: bool, rng: np.random.Generator) -> Layer:
    """Film of a density with blur, scatter and noise, float32 (size, size) in 0..1.

    Args:
        density: float32 (size, size), brightness in the display domain.
        supine: Mobile AP film: more scatter and noise, less sharp.
    """
    size = canvas.size
    image = np.clip(density, 0, 1.15)
    if supine or rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 0.9)) * size / 512)
    x = np.linspace(-1, 1, size, dtype=np.float32)
    shading = rng.normal(0, 0.025, 2).astype(np.float32)
    image = image + shading[0] * x[None, :] + shading[1] * x[:, None]
    image *= 1 - np.float32(rng.uniform(0, 0.10 if supine else 0.05))  # scatter veils the contrast
    image += np.float32(rng.uniform(0.0, 0.05 if supine else 0.02))
    gamma = float(np.exp(rng.normal(0, 0.16)))
    gain, offset = np.float32(rng.normal(1.0, 0.07)), np.float32(rng.normal(0.0, 0.03))
    image = np.clip(image, 0, 1.2) ** np.float32(gamma) * gain + offset
    # quantum noise: fewer photons behind dense tissue
    grain = rng.standard_normal((size, size), dtype=np.float32)
    level = np.float32(rng.uniform(0.006, 0.030 if supine else 0.016))
    image += level * (0.5 + np.clip(image, 0, 1)) * grain
    image = np.clip(image, 0, 1)
    _collimate(image, rng)
    if rng.random() < 0.75:
        _side_marker(image, rng)
    return np.asarray(image, dtype=np.float32)


def _collimate(image: Layer, rng: np.random.Generator) -> None:
    """Black margins where the beam was narrowed, on a quarter of the films."""
    if rng.random() > 0.25:
        return
    size = image.shape[0]
    left, right, top, bottom = (int(v * size) for v in rng.uniform(0, 0.05, 4))
    image[:top] = 0.01
    image[size - bottom :] = 0.01
    image[:, :left] = 0.01
    image[:, size - right :] = 0.01


def _side_marker(image: Layer, rng: np.random.Generator) -> None:
    """A lead letter near an upper corner: L at the image's right, R at its left."""
    right = rng.random() < 0.7
    corner = np.array([rng.uniform(0.86, 0.92) if right else rng.uniform(0.05, 0.10), 0.0])
    corner[1] = rng.uniform(0.06, 0.16)
    letter = _L if right else _R
    scale = rng.uniform(0.028, 0.042)
    plain = Canvas(image.shape[0], np.eye(2, 3))
    mark = plain.strokes([corner + scale * stroke for stroke in letter], [0.007] * len(letter))
    np.maximum(image, 0.97 * mark, out=image)
