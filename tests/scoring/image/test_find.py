import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.image_names import image_ids, printable, stem
from pneumonia.scoring.image.find import FoundFile, assign_names, find_files


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_everything_once_in_a_fixed_order(tmp_path):
    make(tmp_path, "b.dcm", "a/z.png", "a/c/y.jpg", "B.dcm", "a.dcm")
    found = find_files(tmp_path)
    assert [f.relative for f in found] == ["B.dcm", "a/c/y.jpg", "a/z.png", "a.dcm", "b.dcm"]
    assert [f.image_id for f in found] == ["B", "y", "z", "a", "b"]
    assert not any(f.reason for f in found)


def test_a_single_file(tmp_path):
    make(tmp_path, "one.dcm")
    (found,) = find_files(tmp_path / "one.dcm")
    assert (found.relative, found.image_id, found.path) == (
        "one.dcm", "one", str(tmp_path / "one.dcm"),
    )  # fmt: skip


def test_missing_input(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        find_files(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.dcm", "a"),
        ("a.DCM", "a"),
        ("a.jpeg", "a"),
        ("1.2.840.113619.2", "1.2.840.113619.2"),
        ("IM000001", "IM000001"),
        (".png", ".png"),
        ("a.b.png", "a.b"),
    ],
)
def test_stems_keep_uids_whole(name, expected):
    assert stem(name) == expected


def test_equal_stems_get_names_of_their_own(tmp_path):
    make(tmp_path, "p1/img.dcm", "p2/img.dcm", "p2/img.png", "other.dcm")
    ids = {f.relative: f.image_id for f in find_files(tmp_path)}
    assert ids == {
        "other.dcm": "other",
        "p1/img.dcm": "p1/img",
        "p2/img.dcm": "p2/img.dcm",
        "p2/img.png": "p2/img.png",
    }


# a busy machine is no fault of the strategy
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "a.png", "a.dcm", "b#2"]), min_size=1, max_size=3).map(
            "/".join
        ),
        unique=True,
        max_size=12,
    )
)  # fmt: skip
def test_image_ids_are_always_unique(paths):
    ids = image_ids(paths)
    assert len(set(ids)) == len(paths)


def test_links_loops_fifos_and_sockets(tmp_path):
    make(tmp_path, "in/a.dcm", "outside/b.dcm")
    root = tmp_path / "in"
    (root / "link.dcm").symlink_to(tmp_path / "outside" / "b.dcm")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    (root / "broken").symlink_to(tmp_path / "nowhere")
    (root / "self").symlink_to(root / "self")
    os.mkfifo(root / "fifo")
    (root / "null").symlink_to("/dev/null")
    found = {f.relative: f.reason for f in find_files(root)}
    assert found == {
        "a.dcm": "",
        "broken": "broken_link",
        "fifo": "not_a_file",
        "folder/b.dcm": "",
        "link.dcm": "",
        "loop": "symlink_loop",
        "null": "not_a_file",
        "self": "broken_link",
    }


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every folder")
def test_unreadable_folder_is_reported(tmp_path):
    make(tmp_path, "closed/a.dcm")
    (tmp_path / "closed").chmod(0)
    try:
        assert [(f.relative, f.reason) for f in find_files(tmp_path)] == [("closed", "unreadable")]
    finally:
        (tmp_path / "closed").chmod(0o755)


@given(st.lists(st.sampled_from(["a.png", "a.png#2", "a.png#3", "a", "b/a.png"]), max_size=9))
def test_every_entry_has_a_path_and_a_name_of_its_own(relatives):
    found = assign_names([FoundFile("x.zip", relative) for relative in relatives])
    assert len({file.relative for file in found}) == len(relatives)
    assert len({file.image_id for file in found}) == len(relatives)
    first = {relative: relatives.index(relative) for relative in relatives}
    assert all(found[index].relative == relative for relative, index in first.items())


def test_a_repeated_name_stays_what_it_is():
    found = assign_names(
        [FoundFile("x.zip", "x.zip/notes.txt"), FoundFile("x.zip", "x.zip/notes.txt")]
    )
    assert [file.relative for file in found] == ["x.zip/notes.txt", "x.zip/notes.txt#2"]
    assert all(file.has_unscored_type for file in found)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_that_print_alike_are_two_files(tmp_path):
    for name in (b"\xff.png", b"\\xff.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as stream:
            stream.write(b"x")
    found = find_files(tmp_path)
    assert len({file.path for file in found}) == len({file.relative for file in found}) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_odd_names_become_printable_and_stay_openable(tmp_path):
    odd = [b"new\nline.dcm", b"\xff\xfe.png", "é.jpg".encode(), b"n" * 251 + b".dcm"]
    for name in odd:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as stream:
            stream.write(b"x")
    found = find_files(tmp_path)
    assert len(found) == 4
    assert {f.image_id for f in found} == {"new\\nline", "\\xff\\xfe", "é", "n" * 251}
    for file in found:
        assert file.relative.isprintable()
        with open(file.path, "rb") as stream:
            assert stream.read() == b"x"


def test_ten_thousand_names_are_quick():
    ids = image_ids([f"d{i % 100}/f{i // 2}.dcm" for i in range(10_000)])
    assert len(set(ids)) == 10_000


def test_printable_keeps_plain_text():
    assert printable("a b-ü.dcm") == "a b-ü.dcm"
