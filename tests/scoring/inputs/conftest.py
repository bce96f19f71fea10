"""A PACS with three studies: two frontal radiographs, a lateral one beside a report, a CT."""

import pytest

from pneumonia.scoring.inputs.query import Query
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.patients import patient
from tests.support.peers import free_port, running_orthanc

MOVE_TITLE = "MOVER"


@pytest.fixture(scope="session")
def studies(tmp_path_factory, bright, dark):
    """The files in the PACS by name."""
    folder = tmp_path_factory.mktemp("studies")
    ct = patient(4, Modality="CT", StudyInstanceUID=f"{SERIES}.2")
    side = patient(5, ViewPosition="LL", StudyInstanceUID=f"{SERIES}.2")
    return {
        "one": save(folder / "one", chest_dataset(bright, **patient(1))),
        "two": save(folder / "two", chest_dataset(dark, **patient(2, StudyDate="20210304"))),
        "side": save(folder / "side", chest_dataset(bright, **side)),
        "ct": save(folder / "ct", chest_dataset(bright, **ct)),
        "three": save(folder / "three", chest_dataset(bright, **patient(3, StudyDate="20220101"))),
    }


@pytest.fixture(scope="session")
def move_port():
    return free_port()


@pytest.fixture(scope="session")
def pacs(tmp_path_factory, studies, move_port):
    """Orthanc that holds them and answers everything."""
    options = {
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"mover": [MOVE_TITLE, "127.0.0.1", move_port]},
    }
    with running_orthanc(tmp_path_factory.mktemp("pacs"), **options) as server:
        done = server.store(*studies.values())
        assert done.returncode == 0, done.stderr
        yield server


@pytest.fixture
def both_studies():
    return Query(studies=(f"{SERIES}.1", f"{SERIES}.2"))
