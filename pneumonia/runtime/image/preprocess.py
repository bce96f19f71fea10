"""From a grey image to the network's input: one resampling, one letterbox, for host and device."""

from typing import TYPE_CHECKING, NamedTuple, Tuple

import numpy as np
from PIL import Image

from pneumonia.runtime.errors import DataError
from pneumonia.runtime.model.boxes import as_boxes

if TYPE_CHECKING:  # the child that opens files needs no network description
    from pneumonia.runtime.model.spec import InputSpec

TRIANGLE = getattr(Image, "Resampling", Image).BILINEAR  # old Pillow has no enum


def check_pixels(pixels: np.ndarray) -> np.ndarray:
    """The image if it is 2-D uint8 and not empty; raises DataError otherwise."""
    if not isinstance(pixels, np.ndarray):
        raise DataError(
            "Not a grey 8-bit image",
            expected="an array, uint8 (height, width)",
            found=type(pixels).__name__,
        )
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.size == 0:
        raise DataError(
            "Not a grey 8-bit image",
            expected="uint8 (height, width)",
            found="{} {}".format(pixels.dtype, pixels.shape),
        )
    return pixels


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample a grey image; every path of the project uses this one.

    Triangle filter whose support grows with the reduction, hence antialiased (Pillow BILINEAR).

    Args:
        pixels: uint8 (H, W).

    Returns:
        uint8 (height, width).
    """
    check_pixels(pixels)
    if pixels.shape == (height, width):
        return pixels.copy()
    # Across, then down, each rounded to bytes. In one call the order depends on Pillow's version;
    # the generated C (deploy_jetson/kernels/c/detect.c) does the same.
    across = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, len(pixels)), TRIANGLE)
    return np.array(across.resize((width, height), TRIANGLE))


class Letterbox(NamedTuple):
    """Position and scale of an image on the network's canvas."""

    scale: float  # canvas pixels per image pixel, before rounding to whole pixels
    left: int  # canvas column of the image's left edge
    top: int  # canvas row of the image's top edge
    width: int  # width of the original image
    height: int  # height of the original image

    def content_size(self) -> Tuple[int, int]:
        """(height, width) of the resized image on the canvas, at least 1 x 1."""
        return (
            max(1, int(self.height * self.scale + 0.5)),
            max(1, int(self.width * self.scale + 0.5)),
        )

    def _axis_scales(self) -> np.ndarray:
        # Sizes are whole pixels, so the true scales of the two axes differ a little from `scale`.
        height, width = self.content_size()
        pair = [width / self.width, height / self.height]
        return np.array(pair + pair)

    def _offset(self) -> np.ndarray:
        return np.array([self.left, self.top, self.left, self.top], dtype=np.float64)

    def to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes xyxy (n, 4) from canvas pixels to original pixels; not clipped."""
        moved = (as_boxes(boxes) - self._offset()) / self._axis_scales()
        return np.asarray(moved, dtype=np.float32)


def letterbox_place(rows: int, columns: int, height: int, width: int) -> Letterbox:
    """The letterbox of an image of rows x columns centred on a canvas of height x width."""
    place = Letterbox(min(height / rows, width / columns), 0, 0, columns, rows)
    new_height, new_width = place.content_size()
    return place._replace(left=(width - new_width) // 2, top=(height - new_height) // 2)


def letterbox(
    pixels: np.ndarray, height: int, width: int, pad_value: int
) -> Tuple[np.ndarray, Letterbox]:
    """Scale an image to fit a canvas, keeping its aspect, and centre it.

    Args:
        pixels: uint8 (H, W).
        pad_value: Grey value around the image, 0..255.

    Returns:
        The canvas, uint8 (height, width), and the letterbox of the image on it.
    """
    check_pixels(pixels)
    place = letterbox_place(pixels.shape[0], pixels.shape[1], height, width)
    new_height, new_width = place.content_size()
    canvas = np.full((height, width), pad_value, dtype=np.uint8)
    canvas[place.top : place.top + new_height, place.left : place.left + new_width] = resize(
        pixels, new_height, new_width
    )
    return canvas, place


def normalise(canvas: np.ndarray, input_spec: "InputSpec") -> np.ndarray:
    """Canvas uint8 (H, W) -> network values float32 (C, H, W): (x / 255 - mean) / std."""
    # A table of the 256 possible values: exact and faster than arithmetic per pixel.
    table = (np.arange(256) / 255.0 - input_spec.mean) / input_spec.std
    values = table.astype(np.float32)[canvas][None]
    return values if input_spec.channels == 1 else np.repeat(values, input_spec.channels, axis=0)


def network_input(pixels: np.ndarray, input_spec: "InputSpec") -> Tuple[np.ndarray, Letterbox]:
    """Letterbox and normalise one image.

    Args:
        pixels: uint8 (H, W).

    Returns:
        float32 (C, height, width) and the transform back to the image.
    """
    canvas, place = letterbox(pixels, input_spec.height, input_spec.width, input_spec.pad_value)
    return normalise(canvas, input_spec), place
