"""Whether a frontal chest radiograph is shown inverted: dense tissue dark instead of bright.

A file without a window or with the wrong Photometric Interpretation, or a copy made by a viewer set
to "invert", looks like any other image to the reader of the file, and the detector calls a normal
chest positive. A linear classifier on an 8 x 8 copy detects it; inversion negates its score.

Fitted by logistic regression (no intercept, each image and its negative) on 9,418 training
radiographs, whole and masked to the lungs. At LIMIT it marks none of 2,159 validation radiographs
and 99.5 % of their negatives (`benchmarks/images/polarity.py`); of 15,345 training radiographs it
marks 9, of which the three clearest are stored inverted indeed.
"""

import numpy as np

from pneumonia.runtime.image.preprocess import resize

SIDE = 8
LIMIT = -2.0  # scores of correct radiographs are about 11, of their negatives -11
COARSE = 128  # sampled pixels along the shorter side
MIN_PIXELS = 64  # a smaller image is not a radiograph
# Hundredths; positive where the mediastinum and the soft tissue of the flanks are bright.
WEIGHTS = np.array([
    [-52, -61, -30, 5, 16, -40, -63, -60],
    [-17, -21, 10, 29, 42, 12, -33, -26],
    [-33, 10, 1, 28, 8, -14, 13, -19],
    [0, 47, 23, 17, -2, 6, 37, 6],
    [-11, 19, 22, 10, -2, 19, 17, -9],
    [-31, -5, 20, 9, 13, 10, -4, -29],
    [-44, -9, 25, 42, 44, 10, -13, -47],
    [-36, -8, 27, 63, 66, 43, 6, -55],
]) / 100.0  # fmt: skip


def polarity_score(pixels: np.ndarray) -> float:
    """Score of a grey image, uint8 (H, W): positive = dense tissue bright, 0 = blank."""
    step = max(1, min(pixels.shape) // COARSE)  # every pixel of a large image costs milliseconds
    small = resize(np.ascontiguousarray(pixels[::step, ::step]), SIDE, SIDE).astype(np.float64)
    spread = small.std()
    if spread == 0:
        return 0.0
    return float((WEIGHTS * ((small - small.mean()) / spread)).sum())


def looks_inverted(pixels: np.ndarray) -> bool:
    """Whether a frontal chest radiograph, uint8 (H, W), is most likely shown inverted."""
    return min(pixels.shape) >= MIN_PIXELS and polarity_score(pixels) < LIMIT
