"""Reading radiographs and detecting in them: the names that `import pneumonia` offers."""

from pneumonia.runtime.detector import Detection, Detector
from pneumonia.runtime.errors import PneumoniaError
from pneumonia.runtime.radiograph import Radiograph, read_radiograph

__all__ = ["Detection", "Detector", "PneumoniaError", "Radiograph", "read_radiograph"]
