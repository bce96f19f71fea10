"""Recipes of training: every field with its meaning, nothing that is not listed is accepted.

`TrainConfig` is what the loop needs for any task; `TrainRecipe` adds what a detector needs.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from data_prep.augment.augmenter import AugmentSettings
from data_prep.augment.composite import CompositeSettings
from pneumonia.recipes import RecipePart

# Keys that may differ between a run and its resumption: they change how long or how fast the run
# goes on, not what was computed so far.
FREE_ON_RESUME = frozenset({"epochs", "early_stop", "workers", "device", "threads"})


class OptimiserConfig(RecipePart):
    """How gradients become steps. Batch norms and biases never decay.

    Attributes:
        name: `adamw` (forgiving) or `sgd` (Nesterov momentum).
        learning_rate: Peak value, after the warm-up.
        momentum: SGD's momentum, or AdamW's beta 1.
        weight_decay: On convolution and linear weights.
        clip_norm: Largest L2 norm of the whole gradient; 0 = no clipping.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    clip_norm: float = Field(default=10.0, ge=0)


class ScheduleConfig(RecipePart):
    """Learning rate: linear warm-up, then half a cosine down to a share of the peak.

    Attributes:
        warmup_epochs: May be a fraction of an epoch.
        final_fraction: Learning rate of the last step as a share of the peak; 1 = constant.
    """

    warmup_epochs: float = Field(default=1.0, ge=0)
    final_fraction: float = Field(default=0.02, ge=0, le=1)


class TrainConfig(RecipePart):
    """What `training.loop.fit` needs, whatever the task.

    Attributes:
        epochs: Whole length of the run, also after a resume.
        batch_size: Images of one optimiser step, over all processes.
        accumulate: A step is computed in so many parts (saves memory). The gradient is that of one
            batch but for batch norm, whose statistics are of a part.
        optimiser: See OptimiserConfig.
        schedule: See ScheduleConfig.
        ema_decay: Of the averaged weights that are validated and exported; grows towards this
            value as (1 + n) / (10 + n) over the first n steps. 0 = the raw weights.
        precision: `bf16` computes convolutions in bfloat16 (weights and loss stay float32); `auto`
            does so where the processor has instructions for it, elsewhere it would be slower.
        seed: Of weights, order and augmentation.
        early_stop: Epochs without a better validation before the run ends; 0 = never.
        validate_every: Epochs from one validation to the next; the last epoch always validates.
        workers: Processes that prepare batches; 0 = in the training process.
        device: `auto` takes a GPU if there is one.
        threads: Threads that compute a step on the CPU; none = one per physical core, or
            OMP_NUM_THREADS. Beside other work 1 may be twice as fast as 2. A run is bit for bit
            the same only with the same number.
    """

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 16
    accumulate: PositiveInt = 1
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)
    early_stop: int = Field(default=0, ge=0)
    validate_every: PositiveInt = 1
    workers: int = Field(default=1, ge=0, le=64)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=256)


class ModelConfig(RecipePart):
    """The network.

    Attributes:
        name: A detector of the zoo: `yolov3`, `yolov3-tiny`.
        width: Multiplies every channel count.
        channels: 1 = grey, 3 = grey repeated (for weights trained on colour).
        size: Side of the square input in pixels, a multiple of 32.
        anchors: `auto` = IoU k-means on the training boxes; `zoo` = the published ones.
        image_head: Adds an image-level output that gates the scores of all boxes. It also learns
            from images whose opacities have no boxes (`weak_opacity` of the dataset).
        class_head: Adds an output that learns the class of the whole image (`Normal`, `No Lung
            Opacity / Not Normal`, `Lung Opacity`) beside the boxes. It changes no score; exported
            bundles do not have it. Not beside `image_head`.
        start_from: Run, checkpoint, bundle or Darknet weights file whose weights are the start;
            none = random.
    """

    name: str = "yolov3"
    width: float = Field(default=0.25, gt=0, le=4)
    channels: Literal[1, 3] = 1
    size: int = Field(default=256, ge=32, le=2048, multiple_of=32)
    anchors: Literal["auto", "zoo"] = "auto"
    image_head: bool = False
    class_head: bool = False
    start_from: str | None = None


class DataConfig(RecipePart):
    """Which training images one epoch sees.

    Attributes:
        kinds: Kind of image -> how often each of its images counts in an epoch, relative to the
            other kinds that are there; empty = every kind of the dataset alike.
        classes: Class of an image (`Normal`, `No Lung Opacity / Not Normal`, `Lung Opacity`) -> how
            often each of its images counts, times its kind's count; a class not named counts once.
        positive_fraction: Share of images with a box; none = as the images come.
        images_per_epoch: Length of an epoch; none = each image of the scarcer class (times its
            kind's count) once.
        composite: Masked radiographs pasted into whole ones (data_prep.augment.composite).
    """

    kinds: dict[str, PositiveInt] = Field(default={})
    classes: dict[str, PositiveInt] = Field(default={})
    positive_fraction: float | None = Field(default=0.5, gt=0, le=1)
    images_per_epoch: PositiveInt | None = None
    composite: CompositeSettings = CompositeSettings()


class LossConfig(RecipePart):
    """Weights of the loss's parts and the assignment of boxes to anchors.

    Attributes:
        box: Weight of 1 - CIoU.
        objectness: Weight of the objectness cross-entropy.
        classification: Weight of the class cross-entropy.
        image: Weight of the image-level cross-entropy (`model.image_head`, `model.class_head`).
        anchor_ratio: A box may use an anchor whose sides differ by less than this factor.
        iou_aware: 1 = objectness learns the IoU of its box, 0 = learns 1 where there is a box.
    """

    box: float = Field(default=1.0, ge=0)
    objectness: float = Field(default=5.0, gt=0)
    classification: float = Field(default=0.1, ge=0)
    image: float = Field(default=0.5, ge=0)
    anchor_ratio: float = Field(default=4.0, gt=1)
    iou_aware: float = Field(default=1.0, ge=0, le=1)


class ValidationConfig(RecipePart):
    """How the best epoch is chosen.

    Attributes:
        select: `rsna` = challenge score at its best threshold, `ap50` = average precision.
        kinds: Kinds of image that choose the epoch; empty = all trained kinds.
        threshold_kinds: Kinds that choose the operating points and the calibration; empty = whole
            radiographs (`full`) where at least 20 positive and 20 negative ones are labelled, else
            the kinds that choose the epoch.
        batch_size: Images per forward pass.
    """

    select: Literal["rsna", "ap50"] = "rsna"
    kinds: tuple[str, ...] = ()
    threshold_kinds: tuple[str, ...] = ()
    batch_size: PositiveInt = 16


class TrainRecipe(TrainConfig):
    """A whole training run of a detector.

    Attributes:
        model: See ModelConfig.
        data: See DataConfig.
        augment: See data_prep.augment.augmenter.AugmentSettings.
        loss: See LossConfig.
        validation: See ValidationConfig.
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentSettings = AugmentSettings()
    loss: LossConfig = LossConfig()
    validation: ValidationConfig = ValidationConfig()
