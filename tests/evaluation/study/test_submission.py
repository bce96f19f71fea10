from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.study.submission import (
    is_submission,
    read_submission,
    submission_text,
    write_submission,
)
from pneumonia.runtime.errors import DataError

NUMBER = st.floats(0, 1024, width=32)


def test_the_official_form() -> None:
    text = submission_text(
        {"a": ([[10, 20, 40, 60], [0, 0, 5.5, 6]], [0.5, 0.25]), "b": ([], [])}, threshold=0.25
    )
    assert text == "patientId,PredictionString\na,0.5 10 20 30 40 0.25 0 0 5.5 6\nb,\n"


def test_boxes_below_the_threshold_are_not_submitted() -> None:
    text = submission_text({"a": ([[0, 0, 1, 1], [1, 1, 2, 2]], [0.5, 0.4])}, threshold=0.45)
    assert text.splitlines()[1] == "a,0.5 0 0 1 1"


@given(
    st.dictionaries(
        st.text("abcdef0123-", min_size=1, max_size=9),
        st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER, st.floats(0, 1, width=32)), max_size=4),
        max_size=5,
    )
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, content: dict) -> None:
    path = tmp_path_factory.mktemp("submission") / "submission.csv"
    predictions = {}
    for image_id, rows in content.items():
        values = np.array(rows, dtype=np.float32).reshape(-1, 5)
        low = np.minimum(values[:, :2], values[:, 2:4])
        high = np.maximum(values[:, :2], values[:, 2:4])
        predictions[image_id] = np.concatenate([low, high], axis=1), values[:, 4]
    write_submission(path, predictions)
    assert is_submission(path)
    read = {item.image_id: item for item in read_submission(path)}
    assert list(read) == list(predictions)
    for image_id, (boxes, scores) in predictions.items():
        np.testing.assert_array_equal(read[image_id].scores, scores)
        # width and height are rounded once to float32
        np.testing.assert_allclose(read[image_id].boxes, boxes, atol=2e-4)
        assert (read[image_id].width, read[image_id].height) == (1024, 1024)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("id,PredictionString\na,\n", "Not a submission"),
        ("patientId,PredictionString\nsecret,0.5 1 2 3\n", "4 values"),
        ("patientId,PredictionString\nsecret,0.5 1 2 3 x\n", "not a number"),
        ("patientId,PredictionString\nsecret,0.5 1 2 3 nan\n", "malformed"),
        ("patientId,PredictionString\nsecret,0.5 1 2 -3 4\n", "negative width"),
        ("patientId,PredictionString\nsecret,\nsecret,\n", "each image once"),
        ("patientId,PredictionString\n,\n", "each image once"),
    ],
)
def test_faults(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_submission(path)
    assert part in str(caught.value)
    assert "secret" not in str(caught.value)
