"""Images of a batch that claim to be the same instance."""

from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.image.records import UID_CONFLICT, ImageRecord, add_conflict_warnings


def record(name, content, instance="uid", status="scored"):
    file = FoundFile(name, name, image_id=name)
    return ImageRecord(
        file, name, status, sha256=name, instance_key=instance, content_key=content
    )  # fmt: skip


def conflicts(*records):
    return [UID_CONFLICT in found.warnings for found in add_conflict_warnings(records)]


def test_other_contents_under_one_uid_are_a_conflict():
    assert conflicts(record("a", "x"), record("b", "y")) == [True, True]


def test_the_same_image_in_files_that_differ_is_no_conflict():
    assert conflicts(record("a", "x"), record("b", "x")) == [False, False]


def test_other_instances_and_files_without_a_score_do_not_count():
    others = (record("b", "y", "other"), record("c", "z", status="failed"), record("d", "", ""))
    assert conflicts(record("a", "x"), *others) == [False] * 4
