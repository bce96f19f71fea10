"""One small batch with every output, shared by the tests of the outputs."""

import pytest

from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.outputs import OutputSettings
from tests.scoring.patients import fill

EVERYTHING = OutputSettings(dicom=("sr", "gsps", "sc"), fhir=True)


@pytest.fixture(scope="session")
def scored(tmp_path_factory, detector, bright, dark):
    """(input, output, summary) of a batch with every output."""
    root = tmp_path_factory.mktemp("outputs")
    fill(root / "in", bright, dark)
    summary = score_batch(root / "in", root / "out", detector, ScoreSettings(outputs=EVERYTHING))
    return root / "in", root / "out", summary


@pytest.fixture(scope="session")
def key_of(scored):
    """Image name -> key."""
    return {record.file.image_id: record.key for record in scored[2].records}
