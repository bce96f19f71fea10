"""Activations as whole numbers: a second format of what a step writes."""

from dataclasses import dataclass

import numpy as np

from deploy_jetson.kernels.plan.c_values import CPointer, CValue, blocked
from deploy_jetson.kernels.plan.tensors import Buffer

HIGHEST = 255  # of a uint8 activation
REAL = "real"  # the format of float vectors


@dataclass(eq=False)
class Rounding:
    """Words of neighbouring channels, rounded to a scale."""

    words: Buffer  # their buffer; `lanes` are the words of a pixel
    group: int  # channels in one word
    together: int  # vectors of channels in a block of words: 1 or `group`
    # scale, zero_point: a value is scale * (uint8 number - zero_point)
    scale: float
    zero_point: int
    zero: int  # the number stored for 0

    @property
    def format(self) -> str:
        """Suffix of the arithmetic in engine.h that reads them."""
        return f"i8x{self.group}"

    def record(self) -> CPointer:
        """The address of a C `rounding`."""
        fields: dict[str, CValue] = {
            "words": blocked(self.words),
            "pixel": self.words.lanes,
            "together": self.together,
            "inverse": float(np.float32(1) / np.float32(self.scale)),
            "highest": float(HIGHEST - self.zero_point),
            "lowest": -self.zero_point,
            "zero": self.zero,
        }
        return CPointer("rounding", fields)
