"""Mutated DICOM files through the decoding child; `make fuzz` sends a million of them.

Spans: pneumonia.runtime.child, pneumonia.runtime.image.
"""

import numpy as np
import pydicom
import pytest

from tests.runtime.child.mutations import CANARY, mutated, originals, write
from tests.runtime.dicoms import chest_dataset, save_compressed
from tests.support.fuzz_dicom import DicomFuzz, new_child

# files of `make fuzz` that were not answered as they should be, by seed and number
PINNED = {
    **dict.fromkeys([(1, 726), (1, 1143), (1, 3084), (1, 4442)], "pixel_data_truncated"),
    (5, 10): "read",  # a person name where a code belongs: the capture could not be written
}


@pytest.fixture(scope="module")
def child():
    with new_child() as one:
        yield one


@pytest.fixture
def fuzz(tmp_path):
    def make(seed):
        return DicomFuzz(seed, tmp_path, tmp_path / "finds")

    return make


@pytest.mark.parametrize("seed", [7])
def test_mutated_files_are_read_or_refused_and_say_nothing_of_their_text(child, fuzz, seed):
    files = fuzz(seed)
    wrong = {number: files.run(child, number) for number in range(60)}
    assert {number: text for number, text in wrong.items() if text} == {}
    assert files.counts["read"] >= 5
    assert len(files.counts) >= 8


@pytest.mark.parametrize("case", PINNED)
def test_finds(child, fuzz, case):
    seed, number = case
    files = fuzz(seed)
    assert files.run(child, number) == ""
    assert files.counts == {PINNED[case]: 1}


@pytest.mark.parametrize("number", [172894, 319029])
def test_a_codec_that_ends_its_process_costs_one_file(child, fuzz, number):
    """GDCM throws through its Python binding at some JPEG streams, which aborts the interpreter."""
    pytest.importorskip("gdcm")
    files = fuzz(7001)
    assert files.run(child, number) == ""
    assert files.counts == {"decoder_crash": 1}
    assert files.run(child, 0) == ""
    assert sum(files.counts.values()) == 2


def test_files_are_the_same_every_time_and_different_from_each_other():
    made = [mutated(3, number)[0] for number in range(50)]
    assert made == [mutated(3, number)[0] for number in range(50)]
    assert len(set(made)) == 50
    assert sum(CANARY.encode() in data for data in made) > 25


def test_unchanged_trees_are_the_files_they_were_made_of(tmp_path):
    """The mutations are of what is meant, not of a faulty writer."""
    path = tmp_path / "x.dcm"
    for meta, nodes, is_implicit, order in originals():
        data = bytes(128) + b"DICM" + write(meta, False) + write(nodes, is_implicit, order)
        path.write_bytes(data)
        assert pydicom.dcmread(path).pixel_array.shape[-2:] == (20, 24)


@pytest.mark.parametrize("end", [b"", b"\0\0", b"\xff\xd8", bytes(64)])
def test_jpeg_ls_that_is_cut_is_refused_without_waiting(child, tmp_path, end):
    """CharLS reads on behind the data for an end marker, sometimes for ever."""
    jpeg_ls = pytest.importorskip("jpeg_ls")
    grey = np.random.default_rng(3).integers(0, 255, (20, 24), dtype=np.uint8)
    frame = bytes(jpeg_ls.encode_array(grey))
    path = tmp_path / "cut.dcm"
    for cut in (28, 31, 40, 100, 377, 500, len(frame) - 10, len(frame) - 2):
        syntax = "1.2.840.10008.1.2.4.80"
        save_compressed(path, chest_dataset(grey), frame[:cut] + end, syntax)
        found = child.decode(str(path))
        assert (found.status, found.reason) == ("failed", "pixel_data_truncated"), cut
    save_compressed(path, chest_dataset(grey), frame + bytes(4), syntax)
    assert child.decode(str(path)).status == "read"
