"""Results of one image for tests, and what their content items say."""

import numpy as np

from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import ResultFacts
from tests.runtime.dicoms import chest_dataset

FACTS = ResultFacts("tiny", "0.1.0", "ab" * 32, "balanced", 0.4)
PIXELS = np.linspace(0, 255, 120 * 80).reshape(120, 80).astype(np.uint8)
BOXES = np.array([[10, 20, 40, 70.5], [50, 30, 200, 80], [1, 1, 5, 5]], np.float32)
FOUND = Prediction("x", BOXES, np.array([0.41, 0.62, 0.1], np.float32), 80, 120)
EMPTY = Prediction("x", BOXES[:0], np.zeros(0, np.float32), 80, 120)


def source(**tags):
    return chest_dataset(PIXELS, **{"PatientName": "Doe^Jane", "PatientID": "P1", **tags})


def items(dataset, value_type):
    """Every content item of one type, depth first."""
    found = []
    for item in dataset.get("ContentSequence", ()):
        if item.ValueType == value_type:
            found.append(item)
        found += items(item, value_type)
    return found


def meaning(item):
    return item.ConceptNameCodeSequence[0].CodeMeaning


def numbers(report):
    return [
        (meaning(i), float(i.MeasuredValueSequence[0].NumericValue)) for i in items(report, "NUM")
    ]


def flags(report):
    return [
        item.ConceptCodeSequence[0].CodeMeaning
        for item in items(report, "CODE")
        if meaning(item) == "Has interpretation"
    ]


def findings(report):
    return [
        item.ConceptCodeSequence[0].CodeMeaning
        for item in items(report, "CODE")
        if meaning(item) == "Finding"
    ]
