import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pneumonia.runtime.errors import DataError
from pneumonia.runtime.model.predictions import Prediction, read_predictions, write_predictions

number = st.floats(0, 4096, width=32)


@st.composite
def prediction(draw, image_id):
    n = draw(st.integers(0, 4))
    boxes = np.sort(draw(hnp.arrays(np.float32, (n, 2, 2), elements=number)), axis=1)
    scores = draw(hnp.arrays(np.float32, n, elements=st.floats(0, 1, width=32)))
    return Prediction(image_id, boxes.reshape(n, 4), scores, draw(st.integers(1, 9999)), 77)


ids = st.lists(
    st.text(st.characters(exclude_categories=("Cs",), min_codepoint=32), min_size=1),
    unique=True,
    max_size=5,
)


@given(st.data(), ids)
def test_reading_back_gives_the_same_bits(tmp_path_factory, data, names):
    path = tmp_path_factory.mktemp("p") / "predictions.csv"
    written = [data.draw(prediction(name)) for name in names]
    write_predictions(path, written)
    back = read_predictions(path)
    assert [item.image_id for item in back] == names
    for ours, theirs in zip(written, back, strict=True):
        assert ours.boxes.tobytes() == theirs.boxes.tobytes()
        assert ours.scores.tobytes() == theirs.scores.tobytes()
        assert (ours.width, ours.height) == (theirs.width, theirs.height)
        assert theirs.boxes.shape == (len(ours.scores), 4)


def test_the_file_by_hand(tmp_path):
    path = tmp_path / "predictions.csv"
    boxes = np.array([[1, 2.5, 3, 4]], np.float32)
    write_predictions(
        path,
        [
            Prediction("a", boxes, np.array([0.1], np.float32), 10, 20),
            Prediction("b,c", np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 5, 6),
        ],
    )
    assert path.read_text() == (
        'image_id,score,x1,y1,x2,y2,width,height\na,0.1,1,2.5,3,4,10,20\n"b,c",,,,,,5,6\n'
    )


def none(image_id="a"):
    return Prediction(image_id, np.zeros((0, 4)), np.zeros(0), 5, 5)


@pytest.mark.parametrize(
    "bad",
    [
        [none(), none()],
        [none("")],
        [none("a\nb")],
        [Prediction("a", np.array([[0, 0, np.inf, 1]]), np.array([0.5]), 5, 5)],
        [Prediction("a", np.array([[0, 0, 1, 1]]), np.array([np.nan]), 5, 5)],
    ],
)
def test_invalid_predictions_are_not_written(tmp_path, bad):
    with pytest.raises(DataError):
        write_predictions(tmp_path / "p.csv", bad)
    assert list(tmp_path.iterdir()) == []


HEAD = "image_id,score,x1,y1,x2,y2,width,height\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "Not a predictions file"),
        ("image_id,score\n", "Not a predictions file"),
        (HEAD + "a,0.5,1,1,2,2,10\n", "line 2"),
        (HEAD + ",0.5,1,1,2,2,10,10\n", "line 2"),
        (HEAD + "a,0.5,1,1,2,x,10,10\n", "not a number"),
        (HEAD + "a,0.5,1,1,2,,10,10\n", "not a number"),
        (HEAD + "a,nan,1,1,2,2,10,10\n", "finite"),
        (HEAD + "a,0.5,3,1,2,2,10,10\n", "x1 <= x2"),
        (HEAD + "a,,,,,,0,10\n", "size"),
        (HEAD + "a,,,,,,9,9\na,0.5,1,1,2,2,9,9\n", "contradict"),
        (HEAD + "a,,,,,,9,9\na,,,,,,9,9\n", "contradict"),
        (HEAD + "a,0.5,1,1,2,2,9,9\na,0.5,1,1,2,2,9,8\n", "contradict"),
    ],
)
def test_malformed_files_are_refused_with_the_place(tmp_path, text, word):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=word):
        read_predictions(path)


def test_rows_of_an_image_need_not_be_neighbours(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("\ufeff" + HEAD + "a,0.5,1,1,2,2,9,9\nb,,,,,,9,9\na,0.25,0,0,2,2,9,9\n")
    back = read_predictions(path)
    assert [(item.image_id, item.scores.tolist()) for item in back] == [
        ("a", [0.5, 0.25]),
        ("b", []),
    ]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "''@a", "'plain", "a=b"])
def test_no_name_is_a_formula_and_all_read_back(tmp_path, name):
    path = tmp_path / "predictions.csv"
    empty = Prediction(name, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 4, 4)
    write_predictions(path, [empty])
    cell = path.read_text().splitlines()[1].split(",")[0]
    assert cell[0] not in "=+-@"
    assert [item.image_id for item in read_predictions(path)] == [name]
