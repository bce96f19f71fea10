"""The application as a process with a browser in front of it, for the tests of a module."""

import pytest

from tests.data_prep.annotation.web.desk import running
from tests.support.chromium import chromium
from tests.support.peers import peer


@pytest.fixture(scope="module")
def desk(annotation_sources, tmp_path_factory):
    """The running application and the page of a browser."""
    peer("chromium")
    folder = tmp_path_factory.mktemp("desk")
    with running(annotation_sources, folder / "work") as app, chromium(folder) as page:
        yield app, page
