"""A bundle and an engine as one thing: grey image in, boxes in its own pixels out."""

from typing import List, Sequence

import numpy as np

from pneumonia.runtime.bundle import Bundle
from pneumonia.runtime.decode import DEFAULT_SETTINGS, DecodeSettings, detections
from pneumonia.runtime.engines import Engine
from pneumonia.runtime.errors import InferenceError, SpecError
from pneumonia.runtime.predictions import Prediction
from pneumonia.runtime.preprocess import network_input


class Detector:
    """Detects with one model.

    Args:
        bundle: The model.
        engine: From `open_engine`.
        settings: Which boxes are kept.

    Raises:
        SpecError: The network has no detection head.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, settings: DecodeSettings = DEFAULT_SETTINGS
    ) -> None:
        if not any(layer.name in bundle.spec.outputs for layer in bundle.spec.detect_layers()):
            raise SpecError("Network is no detector", expected="a detect output", where=bundle.path)
        self.bundle = bundle
        self.engine = engine
        self.settings = settings

    def detect(self, pixels: np.ndarray, image_id: str) -> Prediction:
        """Detect in one grey image, uint8 (H, W); see `detect_batch`."""
        return self.detect_batch([pixels], [image_id])[0]

    def detect_batch(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str]
    ) -> List[Prediction]:
        """Detect in several images at once.

        Args:
            images: Grey images, uint8 (H, W), of any sizes.
            image_ids: One per image.

        Returns:
            One Prediction per image, boxes in its own pixels, by descending score.

        Raises:
            InferenceError: The engine's output is not finite.
            DeviceError: The engine failed.
        """
        if not images:
            return []
        inputs = [network_input(pixels, self.bundle.spec.input) for pixels in images]
        outputs = self.engine.run(np.stack([values for values, _ in inputs]))
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise InferenceError(
                    "Network output is not finite",
                    expected="numbers",
                    found="NaN or infinity",
                    where="output {!r}, engine {!r}".format(name, self.engine.name),
                )
        found = detections(self.bundle.spec, outputs, [place for _, place in inputs], self.settings)
        return [
            Prediction(image_id, boxes, scores, place.width, place.height)
            for image_id, (boxes, scores, _), (_, place) in zip(image_ids, found, inputs)
        ]
