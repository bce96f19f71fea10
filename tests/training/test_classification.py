import math

import numpy as np
import pytest
import torch

from pneumonia.network.module import Network
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import TrainingError
from pneumonia.runtime.spec import NetworkSpec
from pneumonia.training.classification import ClassificationTask, LabelledImages
from pneumonia.training.config import OptimiserConfig, TrainConfig
from pneumonia.training.loop import fit


def quadrants(n: int, seed: int) -> LabelledImages:
    """Class k has the bright patch in quadrant k."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    images = rng.integers(0, 80, (n, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        y, x = divmod(int(label), 2)
        image[14 * y + 3 : 14 * y + 11, 14 * x + 3 : 14 * x + 11] += 150
    return LabelledImages(images, labels)


def lenet() -> NetworkSpec:
    return build("lenet5", width=0.4, channels=1, n_classes=4)


def test_loss_and_accuracy_by_hand():
    data = quadrants(5, 0)
    task = ClassificationTask(data, data, lenet())
    logits = torch.zeros(2, 4)
    logits[0, 1] = 2.0
    loss, parts = task.loss({task.output: logits}, torch.tensor([1, 3]))
    wanted = (math.log(math.exp(2) + 3) - 2 + math.log(4)) / 2
    assert parts["loss"] == loss.item() == pytest.approx(wanted, rel=1e-6)

    class Always(Network):
        def forward(self, x):
            return {task.output: torch.tensor([[0.0, 0.0, 9.0, 0.0]]).repeat(len(x), 1)}

    metrics = task.evaluate(Always(lenet()))
    assert metrics["accuracy"] == metrics["selection_metric"] == np.mean(data.labels == 2)


def test_lenet_learns_with_the_same_loop(tmp_path):
    torch.manual_seed(0)
    task = ClassificationTask(quadrants(320, 0), quadrants(100, 1), lenet())
    config = TrainConfig(
        epochs=2, batch_size=32, workers=0, device="cpu",
        optimiser=OptimiserConfig(learning_rate=2e-3), ema_decay=0.9,
    )  # fmt: skip
    result = fit(Network(lenet()), task, config, tmp_path)
    assert result.best_metric > 0.95


def test_every_image_once_per_epoch_in_another_order():
    data = quadrants(20, 0)
    task = ClassificationTask(data, data, lenet())
    first, second = ([s.item for s in task.plan(epoch, 0)] for epoch in (1, 2))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    batch = task.load(task.plan(1, 0)[:3])
    assert batch.targets.tolist() == data.labels[first[:3]].tolist()
    np.testing.assert_allclose(batch.images[0, 0].numpy() * 255, data.images[first[0]], atol=1e-3)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 28, 28), np.float32), [0, 1, 2], r"do not fit the network.*found float32"),
        (np.zeros((3, 32, 32), np.uint8), [0, 1, 2], r"expected uint8 \(1, 28, 28\)"),
        (np.zeros((3, 28, 28), np.uint8), [0, 1], "3 images, 2 labels"),
        (np.zeros((3, 28, 28), np.uint8), [0, 1, 4], r"expected 0 to 3; found 0 to 4"),
    ],
)
def test_wrong_arrays_are_refused(images, labels, message):
    good = quadrants(4, 0)
    with pytest.raises(TrainingError, match=message):
        ClassificationTask(good, LabelledImages(images, np.array(labels)), lenet())
