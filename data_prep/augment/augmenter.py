"""Augmentation: the only module that imports albumentations (2.0.8, MIT, frozen).

Geometry is a single warp from the cached image to the network's square: letterbox, scale, shift,
rotation and flip are multiplied into one matrix, so that a radiograph is resampled once. Then come
grey values: contrast, gamma, tone curves, sharpness, noise, erased patches.
"""

import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no online check at import

import albumentations as A
import cv2

from data_prep.dataset.reader import Boxes, Pixels

MIN_SIDE = 2  # pixels of the network's input; thinner boxes are dropped


class AugmentSettings(BaseModel):
    """Probabilities and limits of the augmentation of a training image.

    Attributes:
        horizontal_flip: Probability of mirroring. A mirrored image has the heart on the wrong side,
            but opacities look the same on both sides, and with a few thousand radiographs more
            data helps more than a fixed side. 0 keeps the side, for example to learn anatomy.
        scale: Largest relative change of size, either way.
        shift: Largest shift as a share of the square's side.
        rotation_deg: Largest rotation; a box becomes the bound of its rotated inscribed ellipse.
        brightness: Largest additive change as a share of the grey range.
        contrast: Largest relative change of contrast.
        gamma: Largest relative change of gamma.
        blur: Probability of a slight Gaussian blur.
        noise: Probability of Gaussian noise of at most `noise_std`.
        noise_std: Largest standard deviation of the noise as a share of the grey range.
        tone: Probability of a random tone curve, histogram equalisation or fewer grey levels (one
            of the three): a collection's processing must not identify its positive images.
        resample: Probability of reduced sharpness, by down- and upscaling or by JPEG (one of both).
        sharpen: Probability of sharpening.
        dropout: Probability that a few patches are erased.
        min_visible: A box is dropped when less than this share of it stays inside the square.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    horizontal_flip: float = Field(default=0.5, ge=0, le=1)
    scale: float = Field(default=0.2, ge=0, lt=1)
    shift: float = Field(default=0.08, ge=0, le=0.5)
    rotation_deg: float = Field(default=7.0, ge=0, le=45)
    brightness: float = Field(default=0.1, ge=0, le=1)
    contrast: float = Field(default=0.25, ge=0, lt=1)
    gamma: float = Field(default=0.25, ge=0, lt=1)
    blur: float = Field(default=0.1, ge=0, le=1)
    noise: float = Field(default=0.2, ge=0, le=1)
    noise_std: float = Field(default=0.03, ge=0, le=1)
    tone: float = Field(default=0.0, ge=0, le=1)
    resample: float = Field(default=0.0, ge=0, le=1)
    sharpen: float = Field(default=0.0, ge=0, le=1)
    dropout: float = Field(default=0.0, ge=0, le=1)
    min_visible: float = Field(default=0.35, ge=0, le=1)


class _WarpToSquare(A.DualTransform):  # type: ignore[misc]
    """Letterbox, scale, shift, rotation and flip as one warp into a square of `size` pixels."""

    _targets = (
        A.core.transforms_interface.Targets.IMAGE,
        A.core.transforms_interface.Targets.BBOXES,
    )

    class InitSchema(A.core.transforms_interface.BaseTransformInitSchema):  # type: ignore[misc]
        """The arguments, declared as albumentations requires."""

        size: int
        settings: AugmentSettings

    def __init__(self, size: int, settings: Any, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.size = size
        self.settings = AugmentSettings.model_validate(settings)  # albumentations passes a dict

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw one warp: the matrix from image pixels to square pixels (pixel-edge convention)."""
        del data
        s, draw = self.settings, self.py_random.uniform
        height, width = params["shape"][:2]
        angle = math.radians(draw(-s.rotation_deg, s.rotation_deg))
        # log-uniform scales: 1/1.2 is as frequent as 1.2
        zoom = (
            self.size
            / max(height, width)
            * math.exp(draw(math.log1p(-s.scale), -math.log1p(-s.scale)))
        )
        mirror = -1.0 if self.py_random.random() < s.horizontal_flip else 1.0
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
        centre_x = self.size * (0.5 + draw(-s.shift, s.shift))
        centre_y = self.size * (0.5 + draw(-s.shift, s.shift))
        linear = np.array([[mirror * cos, -sin], [mirror * sin, cos]])
        offset = np.array([centre_x, centre_y]) - linear @ np.array([width / 2, height / 2])
        return {"linear": linear, "offset": offset, "zoom": zoom}

    def apply(
        self,
        img: Pixels,
        linear: npt.NDArray[np.float64],
        offset: npt.NDArray[np.float64],
        zoom: float,
        **params: Any,
    ) -> Pixels:
        """Warp uint8 (h, w) to (size, size); black outside, as the deployed letterbox pads."""
        # a bilinear warp reads 2 x 2 pixels: halve the image first when it shrinks by more than two
        halvings = max(0, math.ceil(-math.log2(zoom)) - 1)
        step = 2**halvings
        source = img
        if halvings:
            height, width = img.shape[:2]
            shape = (max(1, round(width / step)), max(1, round(height / step)))
            source = cv2.resize(img, shape, interpolation=cv2.INTER_AREA)
            linear = linear * np.array([width / shape[0], height / shape[1]])
        # cv2 counts from pixel centres, boxes from pixel edges.
        shifted = offset + linear @ np.array([0.5, 0.5]) - 0.5
        warp = np.column_stack([linear, shifted])
        warped: Pixels = cv2.warpAffine(
            source, warp, (self.size, self.size), flags=cv2.INTER_LINEAR
        )
        return warped

    def apply_to_bboxes(
        self,
        bboxes: npt.NDArray[np.float32],
        linear: npt.NDArray[np.float64],
        offset: npt.NDArray[np.float64],
        shape: tuple[int, ...],
        **params: Any,
    ) -> npt.NDArray[np.float32]:
        """Move normalised boxes; a rotated box becomes the bound of its inscribed ellipse."""
        height, width = shape[:2]
        scale = np.array([width, height], dtype=np.float64)
        low, high = bboxes[:, :2] * scale, bboxes[:, 2:4] * scale
        centre = (low + high) / 2 @ linear.T + offset
        half = np.sqrt(((high - low) / 2) ** 2 @ (linear**2).T)
        moved = np.hstack([centre - half, centre + half]) / self.size
        return np.hstack([moved, bboxes[:, 4:]]).astype(np.float32)


class Augmenter:
    """Turns a cached image into a training image of the network's size.

    Args:
        size: Side of the square output in pixels.
    """

    def __init__(self, size: int, settings: AugmentSettings) -> None:
        cv2.setNumThreads(0)  # the loader runs beside the training threads
        s = settings
        steps: list[Any] = [_WarpToSquare(size, s)]
        if s.brightness or s.contrast:
            limits = {"brightness_limit": s.brightness, "contrast_limit": s.contrast}
            steps.append(A.RandomBrightnessContrast(**limits, p=0.8))
        if s.gamma:
            limit = (100 * (1 - s.gamma), 100 / (1 - s.gamma))
            steps.append(A.RandomGamma(gamma_limit=limit, p=0.5))
        if s.tone:
            curves = [A.RandomToneCurve(scale=0.2), A.Equalize(), A.Posterize(num_bits=(5, 6))]
            steps.append(A.OneOf(curves, p=s.tone))
        if s.resample:
            ways = [
                A.Downscale(scale_range=(0.6, 0.95)),
                A.ImageCompression(quality_range=(40, 95)),
            ]
            steps.append(A.OneOf(ways, p=s.resample))
        if s.sharpen:
            steps.append(A.Sharpen(alpha=(0.1, 0.4), lightness=(0.9, 1.1), p=s.sharpen))
        if s.blur:
            steps.append(A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.3, 0.8), p=s.blur))
        if s.noise and s.noise_std:
            std_range = (0.2 * s.noise_std, s.noise_std)
            steps.append(A.GaussNoise(std_range=std_range, noise_scale_factor=1.0, p=s.noise))
        if s.dropout:
            patch = {"hole_height_range": (0.05, 0.15), "hole_width_range": (0.05, 0.15)}
            steps.append(A.CoarseDropout(num_holes_range=(1, 4), **patch, fill=0, p=s.dropout))
        self.size = size
        self._pipeline = A.Compose(
            steps,
            bbox_params=A.BboxParams(
                format="pascal_voc",
                min_visibility=s.min_visible,
                min_width=MIN_SIDE,
                min_height=MIN_SIDE,
            ),
            seed=0,
        )

    def __call__(self, pixels: Pixels, boxes: Boxes, seed: int) -> tuple[Pixels, Boxes]:
        """One augmented image; the same seed gives the same image and boxes.

        Args:
            pixels: uint8 (h, w).
            boxes: float32 (n, 4) xyxy in pixels of that array, inside it.

        Returns:
            uint8 (size, size), and float32 (m, 4) xyxy in its pixels, m <= n: clipped to the
            square, without boxes that left it or became thinner than MIN_SIDE.
        """
        self._pipeline.set_random_seed(seed)
        result = self._pipeline(image=pixels, bboxes=boxes)
        moved = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        return np.ascontiguousarray(result["image"]), moved
