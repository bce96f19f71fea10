from collections import Counter

import numpy as np
import pytest
import torch

from data_prep.augment.augmenter import AugmentSettings
from data_prep.dataset.reader import open_dataset
from pneumonia.network.image_head import add_image_head
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import TrainingError
from pneumonia.runtime.image.preprocess import network_input
from pneumonia.training.config import DataConfig, TrainRecipe, ValidationConfig
from pneumonia.training.detector.targets import FIRST_IMAGE_CLASS, IMAGE_CLASSES, UNBOXED
from pneumonia.training.detector.task import DetectionTask
from tests.support.tiny import tiny_spec, write_rectangles

STILL = AugmentSettings(
    horizontal_flip=0, scale=0, shift=0, rotation_deg=0, brightness=0, contrast=0, gamma=0,
    blur=0, noise=0,
)  # fmt: skip
FULL_TRAIN = {("train", "full"): (2, 2), ("val", "full"): (1, 1)}


def test_without_augmentation_training_sees_what_deployment_sees(rectangles):
    task = DetectionTask(rectangles, tiny_spec(), TrainRecipe(augment=STILL))
    samples = task.plan(1, 0)[:8]
    batch = task.load(samples)
    assert batch.images.dtype == torch.float32
    for number, sample in enumerate(samples):
        wanted, place = network_input(rectangles.pixels(sample.item), task.spec.input)
        np.testing.assert_allclose(batch.images[number].numpy(), wanted, atol=2 / 255)
        rows = batch.targets[batch.targets[:, 0] == number]
        boxes = rectangles.cache_boxes(sample.item)
        np.testing.assert_allclose(place.to_original(rows[:, 2:].numpy()), boxes, atol=0.02)
        assert (rows[:, 1] == 0).all()
        assert batch.image_ids[number] == rectangles.records[sample.item].image_id


def test_augmented_batch_is_a_pure_function_of_its_samples(rectangles):
    recipe = TrainRecipe()
    samples = DetectionTask(rectangles, tiny_spec(), recipe).plan(3, 1)[:6]
    first = DetectionTask(rectangles, tiny_spec(), recipe).load(samples)
    task = DetectionTask(rectangles, tiny_spec(), recipe)
    task.load(task.plan(1, 1)[:4])  # what was loaded before must not matter
    second = task.load(samples)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.targets, second.targets)
    moved = task.load([sample._replace(seed=sample.seed + 1) for sample in samples])
    assert not torch.equal(first.images, moved.images)


def test_kinds_of_the_recipe_choose_and_weigh_the_images(make_dataset):
    counts = {("train", "full"): (2, 2), ("train", "lungs"): (4, 4), ("val", "full"): (1, 1)}
    dataset = make_dataset({**counts, ("val", "lungs"): (1, 1)})
    recipe = TrainRecipe(data=DataConfig(kinds={"full": 3, "lungs": 1}))
    task = DetectionTask(dataset, tiny_spec(), recipe)
    shown = [dataset.records[sample.item].kind for sample in task.plan(1, 0)]
    assert (shown.count("full"), shown.count("lungs")) == (12, 8)
    only = DetectionTask(dataset, tiny_spec(), TrainRecipe(data=DataConfig(kinds={"full": 3})))
    assert {dataset.records[sample.item].kind for sample in only.plan(1, 0)} == {"full"}
    assert only.validation.kinds == ["full"]
    # alone, a kind's count does not lengthen the epoch
    assert len(only.plan(1, 0)) == 4


def test_classes_of_the_recipe_weigh_the_images(make_dataset):
    dataset = make_dataset({("train", "full"): (2, 2), ("val", "full"): (1, 1)})
    data = DataConfig(classes={"Lung Opacity": 3}, positive_fraction=None)
    task = DetectionTask(dataset, tiny_spec(), TrainRecipe(data=data))
    shown = Counter(dataset.records[sample.item].class_name for sample in task.plan(1, 0))
    assert shown == {"Lung Opacity": 6, "Normal": 2}


@pytest.mark.parametrize(
    ("counts", "kinds", "message"),
    [
        ({("train", "full"): (2, 2)}, {}, "No labelled val image"),
        ({("val", "full"): (2, 2)}, {}, "No labelled train image"),
        (FULL_TRAIN, {"lungs": 1}, r"No labelled train image.*kind lungs.*kind full"),
        ({**FULL_TRAIN, ("train", "full"): (0, 4)}, {}, r"No train image has a box.*4 images, all"),
        ({**FULL_TRAIN, ("val", "full"): (0, 3)}, {}, r"No val image has a box.*3 images, all neg"),
    ],
)
def test_missing_images_or_boxes_are_named(make_dataset, counts, kinds, message):
    recipe = TrainRecipe(data=DataConfig(kinds=kinds))
    with pytest.raises(TrainingError, match=message):
        DetectionTask(make_dataset(counts), tiny_spec(), recipe)


def test_selecting_kind_must_have_positives(make_dataset):
    recipe = TrainRecipe(validation=ValidationConfig(kinds=("lungs",)))
    with pytest.raises(TrainingError, match=r"validates on.*'lungs'.*validation.kinds"):
        DetectionTask(make_dataset(FULL_TRAIN), tiny_spec(), recipe)


def test_unlabelled_images_never_train_as_negatives(tmp_path):
    path = write_rectangles(
        tmp_path / "d", {**FULL_TRAIN, ("train", "nih"): (0, 5)}, labelled=False
    )
    dataset = open_dataset(path)
    task = DetectionTask(dataset, tiny_spec(), TrainRecipe())
    assert {dataset.records[s.item].kind for e in (1, 2, 3) for s in task.plan(e, 0)} == {"full"}


def test_network_must_be_a_one_class_detector(rectangles):
    for spec in (build("lenet5"), build("yolov3-tiny", size=64, n_classes=2)):
        with pytest.raises(TrainingError, match="not a one-class detector"):
            DetectionTask(rectangles, spec, TrainRecipe())


def weakly(dataset, index, answer):
    """The dataset with one image without labels whose report answers so."""
    records = list(dataset.records)
    records[index] = records[index]._replace(labelled=False, weak_opacity=answer)
    dataset.records = tuple(records)
    return dataset


@pytest.mark.parametrize("answer", ["yes", "no", "uncertain"])
def test_weak_positives_train_an_image_output_and_nothing_else(make_dataset, answer):
    counts = {("train", "full"): (3, 3), ("train", "nih"): (0, 1), ("val", "full"): (1, 1)}
    dataset = make_dataset({**counts, ("val", "nih"): (0, 1)})
    weak = next(i for i, r in enumerate(dataset.records) if (r.kind, r.split) == ("nih", "train"))
    unseen = next(i for i, r in enumerate(dataset.records) if (r.kind, r.split) == ("nih", "val"))
    dataset = weakly(weakly(dataset, weak, answer), unseen, answer)
    plain = DetectionTask(dataset, tiny_spec(), TrainRecipe())
    gated = DetectionTask(dataset, add_image_head(tiny_spec()), TrainRecipe(augment=STILL))

    def shown(task):
        return {sample.item for epoch in range(1, 6) for sample in task.plan(epoch, 0)}

    assert weak not in shown(plain)
    assert (weak in shown(gated)) == (answer == "yes")
    assert unseen not in shown(gated) | set(gated.validation.items)
    if answer == "yes":
        sample = next(s for e in range(1, 6) for s in gated.plan(e, 0) if s.item == weak)
        assert gated.load([sample]).targets.tolist() == [[0, UNBOXED, 0, 0, 0, 0]]


def test_class_output_is_taught_what_is_known(make_dataset):
    dataset = make_dataset({("train", "full"): (3, 3), ("val", "full"): (1, 1)})
    names = ["No Lung Opacity / Not Normal", "Normal", ""]
    records, wanted = list(dataset.records), {}
    for i in dataset.select("train", None):
        name = "Lung Opacity" if len(dataset.boxes(i)) else names.pop()
        records[i] = records[i]._replace(class_name=name)
        wanted[i] = name
    dataset.records = tuple(records)
    task = DetectionTask(dataset, add_image_head(tiny_spec(), 3), TrainRecipe(augment=STILL))
    samples = task.plan(1, 0)
    targets = task.load(samples).targets
    for number, sample in enumerate(samples):
        rows = targets[(targets[:, 0] == number) & (targets[:, 1] <= FIRST_IMAGE_CLASS)]
        found = [IMAGE_CLASSES[FIRST_IMAGE_CLASS - int(row[1])] for row in rows]
        assert found == ([wanted[sample.item]] if wanted[sample.item] else [])
    plain = DetectionTask(dataset, tiny_spec(), TrainRecipe(augment=STILL))
    assert (plain.load(samples).targets[:, 1] == 0).all()
