"""Find exact and near duplicates among the images of a dataset."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dataset.reader import DatasetImage, Pixels
from pneumonia.runtime.image.preprocess import resize

HASH_SIDE = 16  # a difference hash of 16 x 16 bits
THUMB_SIDE = 32
# Measured on 150 whole radiographs: recompression, halving, gamma 1.2, contrast and a 2-pixel crop
# change at most 14 bits and keep a correlation over 0.98; pairs of 9,800 stay below 0.96.
MAX_BITS = 20  # of 256 may differ in a candidate pair
MIN_CORRELATION = 0.97  # of the thumbnails' local detail, for a candidate pair to be a duplicate
_BLOCK = 1024


class ImageFeatures(NamedTuple):
    """Image features for near-duplicate detection."""

    # float32 (256,), difference hash: 1 where brightness rises to the right, else -1
    bits: npt.NDArray[np.float32]
    # float32 (1024,), thumbnail without its smooth part, mean 0, length 1
    detail: npt.NDArray[np.float32]


class DuplicatePair(NamedTuple):
    """Two images, by index, and the correlation of their detail."""

    first: int
    second: int
    correlation: float


def image_features(pixels: Pixels) -> ImageFeatures:
    """Difference hash and normalised thumbnail of an image uint8 (h, w)."""
    small = resize(pixels, HASH_SIDE, HASH_SIDE + 1).astype(np.float32)
    bits = np.where(small[:, 1:] > small[:, :-1], 1.0, -1.0).astype(np.float32).ravel()
    thumb = resize(pixels, THUMB_SIDE, THUMB_SIDE)
    coarse = resize(resize(thumb, 8, 8), THUMB_SIDE, THUMB_SIDE)
    # all chests share the smooth part: only the remaining detail distinguishes two patients
    detail = thumb.astype(np.float32).ravel() - coarse.astype(np.float32).ravel()
    detail -= detail.mean()
    length = float(np.linalg.norm(detail))
    return ImageFeatures(bits, detail / np.float32(length if length > 0 else 1.0))


def exact_duplicates(hashes: Sequence[str]) -> list[list[int]]:
    """Groups of two or more images with the same cached pixels, by index."""
    groups: dict[str, list[int]] = {}
    for i, digest in enumerate(hashes):
        groups.setdefault(digest, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def near_duplicates(
    records: Sequence[DatasetImage], features: Sequence[ImageFeatures], hashes: Sequence[str]
) -> list[DuplicatePair]:
    """Pairs of near duplicates that are not identical, by descending correlation.

    Two kinds of one image (whole and masked) are not a pair. Time grows with the square of the
    number of images: about a second for 10,000.
    """
    if not features:
        return []
    bits = np.stack([feature.bits for feature in features])
    pairs = []
    for at in range(0, len(bits), _BLOCK):
        # +-1 vectors: the product is 256 - 2 * (differing bits)
        products = bits[at : at + _BLOCK] @ bits[at:].T
        rows, columns = np.nonzero(products >= bits.shape[1] - 2 * MAX_BITS)
        for first, second in zip((rows + at).tolist(), (columns + at).tolist(), strict=True):
            if second <= first or records[first].image_id == records[second].image_id:
                continue
            if hashes[first] == hashes[second]:
                continue
            correlation = float(features[first].detail @ features[second].detail)
            if correlation >= MIN_CORRELATION:
                pairs.append(DuplicatePair(first, second, correlation))
    return sorted(pairs, key=lambda pair: -pair.correlation)
