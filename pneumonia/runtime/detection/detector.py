"""A detector: a model bundle with an engine; grey image in, boxes in its own pixels out."""

import os
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from pneumonia.runtime.detection.heads import DEFAULT_SETTINGS, DecodeSettings, detections
from pneumonia.runtime.engines import Engine, open_engine
from pneumonia.runtime.errors import ConfigError, InferenceError, SpecError
from pneumonia.runtime.image.preprocess import normalise
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.storage.bundle import Bundle, load_bundle

DEFAULT = "default"
DEFAULT_BUNDLE = Path(__file__).parents[2] / "models" / "default"


def bundle_path(bundle: Union[str, "os.PathLike[str]"] = DEFAULT) -> str:
    """The folder of a bundle; `default` is the model that ships.

    Raises:
        ConfigError: No model is shipped with this installation.
    """
    if str(bundle) != DEFAULT:
        return str(bundle)
    if not (DEFAULT_BUNDLE / "manifest.json").is_file():
        raise ConfigError(
            "No model is shipped with this version",
            fix="Name a bundle (--bundle); `pneumonia export RUN --out BUNDLE` writes one",
        )
    return str(DEFAULT_BUNDLE)


class Detection(NamedTuple):
    """The result of one image at an operating point.

    Attributes:
        boxes: Boxes at or above the threshold, float32 (n, 4), x1, y1, x2, y2 in pixels of the
            image, by descending score.
        scores: Their scores, float32 (n,), 0 to 1; not calibrated probabilities.
        flag: `positive`, `negative`, or `indeterminate` (no box in a damaged image).
        max_score: Highest score of any box, also below the threshold; 0 without a box.
        warnings: Codes of warnings about the image, such as `degraded`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    flag: str
    max_score: float
    warnings: Tuple[str, ...]


class Detector:
    """A model that is ready to run.

        detector = Detector.load("default")
        found = detector.detect("radiograph.dcm")   # a path, or uint8 pixels (H, W)
        found.flag, found.boxes, found.scores

    Research use only. Not a medical device.

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
            raise SpecError(
                "Network is not a detector", expected="a detect output", where=bundle.path
            )
        self.bundle = bundle
        self.engine = engine
        self.settings = settings

    @classmethod
    def load(
        cls,
        bundle: Union[str, "os.PathLike[str]"] = DEFAULT,
        engine: str = "auto",
        threads: Optional[int] = None,
        compile_missing: bool = True,
    ) -> "Detector":
        """Open a bundle with an engine.

        Args:
            bundle: Folder that `pneumonia export` wrote, or `default` for the model that ships.
            engine: `auto`, `tensorrt`, `kernels`, `onnxruntime` or `reference` (NumPy).
            threads: Threads of the engine, 1 to 64; None for as many as there are CPUs.
            compile_missing: Compile the generated kernels into the user's cache at first use.

        Raises:
            ArtefactError: The bundle is damaged.
            ConfigError: Unknown engine, threads out of range, or no model is shipped.
            DeviceError: The engine is not installed.
        """
        loaded = load_bundle(bundle_path(bundle))
        return cls(loaded, open_engine(loaded, engine, threads, compile_missing))

    def detect(
        self,
        image: Union[str, "os.PathLike[str]", np.ndarray],
        operating_point: Optional[str] = None,
    ) -> Detection:
        """Find lung opacities in one radiograph.

        Args:
            image: Path of a DICOM, PNG or JPEG file, or grey pixels, uint8 (H, W), dense tissue
                bright.
            operating_point: Name of one of the bundle's; None for its first.

        Raises:
            DicomError: The file cannot be read.
            ConfigError: Unknown operating point.
            DataError, InferenceError, DeviceError: See `predict_batch`.
        """
        # results and radiographs need pydicom, a detector of arrays does not
        from pneumonia.runtime.image.radiograph import read_radiograph
        from pneumonia.runtime.results.facts import result_of

        name = operating_point or next(iter(self.bundle.operating_points), "")
        threshold = self.bundle.threshold(name)
        warnings: Tuple[str, ...] = ()
        if isinstance(image, (str, os.PathLike)):
            radiograph = read_radiograph(str(image))
            pixels, warnings = radiograph.pixels, radiograph.warnings
        else:
            pixels = image
        result = result_of(self.predict(pixels, "image"), threshold, None, warnings)
        boxes = [finding.box_xyxy for finding in result.findings]
        return Detection(
            np.array(boxes, dtype=np.float32).reshape(-1, 4),
            np.array([finding.score for finding in result.findings], dtype=np.float32),
            result.flag,
            result.max_score,
            result.warnings,
        )

    def predict(self, pixels: np.ndarray, image_id: str) -> Prediction:
        """All boxes of one grey image, uint8 (H, W); see `predict_batch`."""
        return self.predict_batch([pixels], [image_id])[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str]
    ) -> List[Prediction]:
        """All boxes above the score floor of `settings`, whatever the operating point.

        Args:
            images: Grey images, uint8 (H, W), of any sizes.

        Returns:
            One Prediction per image, boxes in its own pixels, by descending score.

        Raises:
            DataError: Not a grey 8-bit image.
            InferenceError: The engine's output is not finite.
            DeviceError: The engine failed.
        """
        placed = [self.engine.letterbox(pixels) for pixels in images]
        if not placed:
            return []
        inputs = [normalise(canvas, self.bundle.spec.input) for canvas, _ in placed]
        outputs = self.engine.run(np.stack(inputs))
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise InferenceError(
                    "Network output is not finite",
                    expected="numbers",
                    found="NaN or infinity",
                    where="output {!r}, engine {!r}".format(name, self.engine.name),
                )
        found = detections(self.bundle.spec, outputs, [place for _, place in placed], self.settings)
        return [
            Prediction(image_id, boxes, scores, place.width, place.height)
            for image_id, (boxes, scores, _), (_, place) in zip(image_ids, found, placed)
        ]
