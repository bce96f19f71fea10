"""Draw soft, antialiased shapes in unit coordinates (x to the right, y down, frame 0..1)."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]  # (n, 2) x, y in the unit frame
Layer = npt.NDArray[np.float32]  # (size, size)

_SHIFT = 4  # cv2 takes coordinates in 1/16 pixel


def smooth_curve(points: Any, closed: bool, rounds: int = 3) -> Points:
    """Chaikin's corner cutting: a smooth curve near the control points (n, 2)."""
    curve = np.asarray(points, dtype=np.float64)
    for _ in range(rounds):
        after = np.roll(curve, -1, axis=0) if closed else curve[1:]
        before = curve if closed else curve[:-1]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1)
        cut = cut.reshape(-1, 2)
        curve = cut if closed else np.concatenate([curve[:1], cut, curve[-1:]])
    return curve


class Canvas:
    """A square frame and the patient's pose in it.

    Args:
        size: Side in pixels.
        pose: float64 (2, 3), maps unit coordinates of the anatomy to those of the frame.
    """

    def __init__(self, size: int, pose: npt.NDArray[np.float64]) -> None:
        self.size = size
        self.pose = pose

    def to_pixels(self, points: Any) -> Points:
        """Anatomy coordinates (n, 2) -> pixel coordinates (n, 2)."""
        placed = np.asarray(points, dtype=np.float64) @ self.pose[:, :2].T + self.pose[:, 2]
        return np.asarray(placed * self.size)

    def fill(self, points: Any, soften: float = 0.0) -> Layer:
        """Filled closed curve, 0..1; `soften` is the edge's width in the unit frame."""
        layer = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(layer, [self._fixed(smooth_curve(points, True))], 255, cv2.LINE_AA, _SHIFT)
        return self._soft(layer, soften)

    def strokes(self, curves: Any, widths: Any, soften: float = 0.0) -> Layer:
        """Open polylines, 0..1; `curves` is a list of (n, 2), `widths` one number each (unit)."""
        layer = np.zeros((self.size, self.size), np.uint8)
        alike: dict[float, list[npt.NDArray[np.int32]]] = {}
        lengths = [len(curve) for curve in curves]
        # One call for all points: a vessel tree has hundreds of curves of five points each.
        placed = np.split(self._fixed(np.concatenate(curves)), np.cumsum(lengths)[:-1])
        for points, width in zip(placed, widths, strict=True):
            alike.setdefault(round(float(width), 5), []).append(points)
        for width in sorted(alike):  # the widest last, on top
            # below one pixel a line gets fainter, not thinner
            level = int(255 * min(1.0, max(0.15, width * self.size)))
            thickness = max(1, round(width * self.size))
            cv2.polylines(layer, alike[width], False, level, thickness, cv2.LINE_AA, _SHIFT)
        return self._soft(layer, soften)

    def noise(self, rng: np.random.Generator, cells: int) -> Layer:
        """Smooth noise of about `cells` bumps per side, mean 0, standard deviation about 1."""
        grid = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
        big = cv2.resize(grid, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        return np.asarray(big * np.float32(1.3))

    def _fixed(self, points: Any) -> npt.NDArray[np.int32]:
        return np.round(self.to_pixels(points) * (1 << _SHIFT)).astype(np.int32)

    def _soft(self, layer: npt.NDArray[np.uint8], soften: float) -> Layer:
        side = int(soften * self.size / 2) * 2 + 1
        if side > 1:
            # two box blurs: a triangle, at a cost that does not grow with its width
            layer = cv2.blur(cv2.blur(layer, (side, side)), (side, side))
        return np.asarray(layer.astype(np.float32) * np.float32(1 / 255))
