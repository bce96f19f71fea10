import pytest

from tests.deploy_jetson.device.daemon.process import Process


@pytest.fixture(autouse=True, scope="module")
def _quick_children(forked_children):
    pass


@pytest.fixture
def start(tmp_path):
    """Starts daemons; none outlives the test."""
    made = []

    def begin(*arguments, **more):
        made.append(Process(tmp_path, *arguments, **more))
        return made[-1]

    yield begin
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
