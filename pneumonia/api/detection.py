"""Reading radiographs and detecting in them: the names that `import pneumonia` offers."""

from pneumonia.runtime.errors import PneumoniaError
from pneumonia.runtime.image.radiograph import Radiograph, read_radiograph
from pneumonia.runtime.model.detector import Detection, Detector

__all__ = ["Detection", "Detector", "PneumoniaError", "Radiograph", "read_radiograph"]
