"""Two computers, played by Ray: the outputs of one machine, whatever becomes of a worker."""

import os
import signal
import threading
import time
import zipfile

import pytest

from pneumonia.cli import group, run
from pneumonia.runtime.results import KIND_OF
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.outputs import OutputSettings
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.batches import png, without_times

pytestmark = pytest.mark.slow
SETTINGS = ScoreSettings(outputs=OutputSettings(dicom=tuple(KIND_OF), fhir=True))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Where the workers of this cluster, and only they, keep an image."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def cluster(scratch):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("RAY_TMPDIR", "/tmp")  # names of sockets must be short
        patch.setenv("TMPDIR", str(scratch))
        yield from running_cluster()


def running_cluster():
    from ray.cluster_utils import Cluster

    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    found.add_node(num_cpus=1)
    found.wait_for_nodes()
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory, bright, dark):
    folder = tmp_path_factory.mktemp("cluster") / "in"
    folder.mkdir()
    for number in range(12):
        pixels = bright if number % 3 else dark
        uid = f"{SERIES}.{number}"
        save(folder / f"{number:02d}.dcm", chest_dataset(pixels, SOPInstanceUID=uid))
    png(folder / "picture.png", bright)
    save(folder / "side.dcm", chest_dataset(bright, ViewPosition="LL"))
    (folder / "cut.dcm").write_bytes((folder / "00.dcm").read_bytes()[:-99])
    (folder / "text.dcm").write_text("x")
    (folder / "notes.txt").write_text("x")
    whole = (folder / "01.dcm").read_bytes()
    with zipfile.ZipFile(folder / "some.zip", "w") as archive:
        archive.writestr("a.dcm", whole)
        archive.writestr("b.dcm", whole[:-99])
    return folder


@pytest.fixture(scope="module")
def expected(source, detector, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "out"
    score_batch(source, out, detector, SETTINGS)
    return out


def own_folder(expected, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".salt").write_bytes((expected / ".salt").read_bytes())
    return out


def test_the_same_outputs_as_one_machine(cluster, scratch, source, expected, detector, tmp_path):
    from pneumonia.scoring.batch.cluster import ray_scorer

    out = own_folder(expected, tmp_path)
    with ray_scorer(cluster.address) as scorer:
        score_batch(source, out, detector, SETTINGS, scorer=scorer)
        assert without_times(out) == without_times(expected)
        again = score_batch(source, out, detector, SETTINGS, scorer=scorer)
    assert again.document["totals"]["reused"] == 14
    assert without_times(out) == without_times(expected)
    assert not list(scratch.glob("pneumonia-worker-*"))  # nothing of an image stays


def test_killed_workers_lose_nothing(cluster, scratch, source, expected, detector, tmp_path):
    import ray

    from pneumonia.scoring.batch.cluster import ray_scorer

    out = own_folder(expected, tmp_path)
    killed = []

    def kill_two(done, total, note):
        if done >= 2 and len(killed) < 2:  # between two images no worker may be at work
            killed.extend(kill_scoring_workers(scratch))

    with ray_scorer(cluster.address) as scorer:
        assert ray.is_initialized()
        score_batch(source, out, detector, SETTINGS, kill_two, scorer)
    assert killed
    assert without_times(out) == without_times(expected)


def kill_scoring_workers(scratch):
    """SIGKILL every worker of this cluster that scores; their processes are named after it."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                name = stream.read()
            with open(f"/proc/{pid}/environ", "rb") as stream:
                is_ours = str(scratch).encode() in stream.read()
        except OSError:
            continue
        if is_ours and name.startswith(b"ray::_score_bytes"):
            os.kill(int(pid), signal.SIGKILL)
            found.append(pid)
    return found


def test_a_lost_computer_loses_nothing(cluster, source, expected, detector, tmp_path):
    from pneumonia.scoring.batch.cluster import ray_scorer

    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    out = own_folder(expected, tmp_path)
    lost = threading.Event()

    def lose(done, total, note):
        if done == 3 and not lost.is_set():
            cluster.remove_node(node, allow_graceful=False)
            lost.set()

    with ray_scorer(cluster.address) as scorer:
        score_batch(source, out, detector, SETTINGS, lose, scorer)
    assert lost.is_set()
    assert without_times(out) == without_times(expected)


def test_an_interrupt_keeps_what_is_done(cluster, source, expected, detector, tmp_path):
    from pneumonia.scoring.batch.cluster import ray_scorer

    out = own_folder(expected, tmp_path)

    def interrupt(done, total, note):
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with ray_scorer(cluster.address) as scorer:
        summary = score_batch(source, out, detector, SETTINGS, interrupt, scorer)
    assert summary.interrupted
    assert 0 < len([r for r in summary.records if r.status == "pending"]) < len(summary.records)
    score_batch(source, out, detector, SETTINGS)
    assert without_times(out) == without_times(expected)


def test_no_cluster_is_one_error(source, tmp_path, bundle_folder, capsys):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    code = run(group, ["score", str(source), str(tmp_path / "out"), "--bundle", str(bundle_folder),
                       "--ray", "127.0.0.1:1"])  # fmt: skip
    assert code == 10
    assert capsys.readouterr().err.startswith("error: Ray cluster cannot be reached")
