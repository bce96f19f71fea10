"""Output folders of another kind are refused, with the kind that was found."""

import pytest

from pneumonia.runtime.errors import OutputError
from pneumonia.runtime.output_folders import refuse_other_kinds, require_own_or_empty


def test_a_new_an_empty_and_an_own_folder_may_be_written(tmp_path):
    require_own_or_empty(str(tmp_path / "new"))
    require_own_or_empty(str(tmp_path))
    (tmp_path / "mark").touch()
    (tmp_path / "more").touch()
    require_own_or_empty(str(tmp_path), "a thing", "mark")
    require_own_or_empty(str(tmp_path), "a thing", "mark", ("mark", "more", "most"))


@pytest.mark.parametrize("own", [(), ("a thing", "missing"), ("a thing", "mark", ("mark",))])
def test_other_contents_are_refused_without_their_names(tmp_path, own):
    (tmp_path / "mark").touch()
    (tmp_path / "doe-john.txt").touch()
    with pytest.raises(OutputError, match=r"holds other files; expected .*another folder") as error:
        require_own_or_empty(str(tmp_path), *own)
    assert "john" not in str(error.value)
    with pytest.raises(OutputError, match="holds other files"):
        require_own_or_empty(str(tmp_path / "mark"), *own)


def test_the_kind_of_the_folder_is_named(tmp_path):
    (tmp_path / "spec.json").touch()
    with pytest.raises(OutputError, match=r"or a dataset; found a model \(spec.json\)"):
        require_own_or_empty(str(tmp_path), "a dataset", "dataset.json")
    with pytest.raises(OutputError, match=r"or a report; found a model \(spec.json\)"):
        refuse_other_kinds(str(tmp_path), ["run.json", "spec.json"], "a report")
    refuse_other_kinds(str(tmp_path), ["run.json"], "a report")
    refuse_other_kinds(str(tmp_path / "spec.json"), ["run.json"], "a report")
