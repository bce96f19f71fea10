"""Two gloo processes give what one process gives with the whole batch."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from data_prep.dataset.reader import open_dataset
from pneumonia.network.module import Network
from pneumonia.runtime.storage.tensorfile import read_tensors
from pneumonia.training import distributed
from pneumonia.training.config import OptimiserConfig, TrainRecipe
from pneumonia.training.detector.task import DetectionTask
from pneumonia.training.journal import read_metrics
from pneumonia.training.loop import fit
from tests.support.tiny import tiny_network, tiny_spec

pytestmark = pytest.mark.slow  # two processes of torch
BATCH = 8


def gradients(dataset_path: str, samples_of: slice) -> dict[str, torch.Tensor]:
    """Gradients of one step with frozen batch norm, summed over the processes there are."""
    task = DetectionTask(open_dataset(dataset_path), tiny_spec(), TrainRecipe())
    network = tiny_network().eval()  # batch norm uses its running statistics
    batch = task.load(task.plan(1, 0)[samples_of])
    loss, _ = task.loss(network(batch.images), batch.targets)
    loss.backward()
    distributed.sum_gradients(network)
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def run(dataset_path: str, out: str, batch_norm: bool) -> None:
    spec = tiny_spec(batch_norm=batch_norm)
    config = TrainRecipe(
        epochs=2, batch_size=BATCH, workers=0, device="cpu", precision="fp32",
        optimiser=OptimiserConfig(name="sgd", learning_rate=0.01),
    )  # fmt: skip
    torch.manual_seed(distributed.rank())  # the first process's weights must win
    task = DetectionTask(open_dataset(dataset_path), spec, config)
    result = fit(Network(spec), task, config, Path(out), resume=(Path(out) / "last").exists())
    Path(f"{out}-rank{distributed.rank()}.json").write_text(json.dumps(result.best_metric))


def worker(rank: int, port: int, dataset_path: str, folder: str) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)
    with distributed.process_group():
        half = BATCH // 2
        found = gradients(dataset_path, slice(rank * half, (rank + 1) * half))
        torch.save(found, f"{folder}/gradients-{rank}.pt")
        run(dataset_path, f"{folder}/two", batch_norm=False)
        run(dataset_path, f"{folder}/norm", batch_norm=True)
    # gloo's threads may abort an interpreter that is ending (pytorch/pytorch#179291)
    os._exit(0)


@pytest.fixture(scope="module")
def two_processes(rectangles_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, (port, str(rectangles_path), str(folder)), nprocs=2)
    return folder


def test_gradients_equal_those_of_the_whole_batch(two_processes, rectangles_path):
    wanted = gradients(str(rectangles_path), slice(0, BATCH))
    for rank in (0, 1):
        found = torch.load(two_processes / f"gradients-{rank}.pt", weights_only=True)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            assert gradient.abs().max() > 0, name
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_whole_run_equals_one_process(two_processes, rectangles_path, tmp_path):
    run(str(rectangles_path), str(tmp_path / "one"), batch_norm=False)
    one = read_tensors(str(tmp_path / "one/last/state.safetensors"))
    two = read_tensors(str(two_processes / "two/last/state.safetensors"))
    for name in one:
        if not name.startswith("rng"):
            torch.testing.assert_close(
                torch.from_numpy(two[name]), torch.from_numpy(one[name]), rtol=1e-3, atol=1e-5
            )


def test_logged_losses_are_those_of_the_whole_batch(two_processes, rectangles_path, tmp_path):
    run(str(rectangles_path), str(tmp_path / "one"), batch_norm=False)
    one, two = (read_metrics(p / "metrics.csv") for p in (tmp_path / "one", two_processes / "two"))
    for key in ("loss", "loss_box", "loss_objectness", "loss_class", "gradient_norm"):
        assert [r[key] for r in two] == pytest.approx([r[key] for r in one], rel=1e-3), key


def test_both_processes_learn_the_best_metric(two_processes):
    for name in ("two", "norm"):
        first, second = (
            json.loads((two_processes / f"{name}-rank{rank}.json").read_text()) for rank in (0, 1)
        )
        assert first == second
        metrics = json.loads((two_processes / name / "best/metrics.json").read_text())["metrics"]
        assert metrics["selection_metric"] == first
