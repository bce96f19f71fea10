"""The jobs of `compression_tables`: networks, methods, schedules, and what was published."""

import math
from functools import partial
from typing import NamedTuple

from benchmarks.compression.lenet_fit import Cuts, NaturalCourse
from benchmarks.compression.methods import (
    Run,
    Schedule,
    darb,
    dense,
    irregular,
    kernels,
    per_layer,
    purified,
    quantized,
    structured,
    whitened_dense,
)
from benchmarks.compression.snapping import AGAIN, SHARES, snapped
from benchmarks.compression.surgery import (
    Shape,
    exchange_columns,
    remove_structures,
    remove_weights,
    surgery,
)
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.compression.sets.crossbar import linear_device
from pneumonia.compression.sets.levels import BINARY, TERNARY, Levels, k_bit
from pneumonia.network.zoo import build
from pneumonia.runtime.model.spec import NetworkSpec, tensor_shapes


class Job(NamedTuple):
    """One line of the table.

    Attributes:
        parent: Job whose network of the same seed it starts from; "" = random weights.
        run: Method.
        published: Figure of the literature for the same kind of constraint.
        schedule: Lengths.
        group_size: Filters that share the columns a layer is stored by; 0 = all of the layer,
            None = not stored by columns.
        seeds: Number of repetitions.
        chips: Simulated crossbars that are measured as well; 0 = none.
    """

    parent: str
    run: Run
    published: str = ""
    schedule: Schedule = Schedule()
    group_size: int | None = None
    seeds: int = 3
    chips: int = 0


class Goal(NamedTuple):
    """One line of the table of goals.

    Attributes:
        name: What is compressed how.
        jobs: Beginnings of the names of the LeNet-5 jobs that count.
        accuracy: Median test accuracy that must be reached.
        at_least: Rate that must be reached.
        published: Best published figure.
        why: What a miss is due to.
        of_bytes: The rate is of bytes with all indices, not of weights.
        of_chips: The accuracy is the 5th percentile of the chips.
    """

    name: str
    jobs: tuple[str, ...]
    accuracy: float
    at_least: float
    published: str
    why: str
    of_bytes: bool = False
    of_chips: bool = False


NETWORKS = {
    "lenet5": ("mnist", {"channels": 1, "size": 28, "n_classes": 10, "width": 1.0}),
    "vgg16": ("cifar10", {"channels": 3, "size": 32, "n_classes": 10, "width": 0.5}),
    "resnet18": ("cifar10", {"channels": 3, "size": 32, "n_classes": 10, "width": 0.5}),
}
LENET = ("conv_000", "conv_002", "linear_005", "linear_006")


def lenet_keeps(*numbers: int) -> dict[str, int]:
    return dict(zip(LENET, numbers, strict=True))


def lenet_bits(*numbers: int) -> dict[str, Levels]:
    return {n: k_bit(b, "coded") for n, b in zip(LENET, numbers, strict=True)}


LENET_EXPONENTS = dict(zip(LENET, (0.35, 0.85, 1.15, 0.6), strict=True))
# Few weights are worth most in the second convolution; hidden units without a reader are wasted.
NARROW_EXPONENTS = dict(zip(LENET, (0.3, 0.65, 1.2, 0.65), strict=True))
NARROW = StructuredMethod(filter_share=0.9, group_size=0, round_to=1)
COLUMNS = NARROW.model_copy(update={"filter_share": 0.0})
FILTERS = NARROW.model_copy(update={"filter_share": 1.0})
DENSE = Schedule(retrain_epochs=15, teacher=0.0)
LONG = Schedule(retrain_epochs=80, straight_epochs=4, retrain_rate=3e-3, plain=0.5)
SURGERY = Schedule(cuts=Cuts(8, 8, 6, 8), natural=NaturalCourse(plain=0.5, rate=0.05))
# The better of two shapes on the held-out images: that of 149x smaller in all directions.
BALANCED = Shape(filters1=8, columns1=12, filters2=12, columns2=41, units=24, columns3=40)
JOBS: dict[str, Job] = {
    "lenet5/dense": Job("", dense, "99.2 %", DENSE),
    "lenet5/structured-20": Job(
        "lenet5/dense", structured(20, LENET_EXPONENTS), "", Schedule(2, 4), 0),
    "lenet5/narrow-60": Job(
        "lenet5/structured-20", structured(60, NARROW_EXPONENTS, NARROW), "88x at 99.2 %",
        Schedule(retrain_epochs=5, straight_epochs=6), 0),
    "lenet5/narrow-120": Job(
        "lenet5/narrow-60", structured(120, NARROW_EXPONENTS, NARROW), "88x at 99.2 %",
        Schedule(retrain_epochs=10, straight_epochs=10), 0),
    "lenet5/narrow-242": Job(
        "lenet5/narrow-120", structured(242, NARROW_EXPONENTS, NARROW), "232x at 99.0 %",
        Schedule(retrain_epochs=24, straight_epochs=12, retrain_rate=3e-3), 0),
    "lenet5/narrow-88": Job(
        "lenet5/narrow-60", structured(89, NARROW_EXPONENTS, NARROW), "88x at 99.2 %",
        LONG, 0),
    "lenet5/narrow-130": Job(
        "lenet5/narrow-88", structured(130, NARROW_EXPONENTS, NARROW), "88x at 99.2 %",
        LONG, 0),
    "lenet5/narrow-130-quant": Job(
        "lenet5/narrow-130", quantized(lenet_bits(4, 3, 3, 4)),
        "1,910x smaller at 99.0 % (prune + 3.4 bits)",
        Schedule(straight_epochs=80, plain=0.5), 0),
    "lenet5/narrow-180": Job(
        "lenet5/narrow-130", structured(180, NARROW_EXPONENTS, NARROW), "232x at 99.0 %",
        LONG, 0),
    "lenet5/narrow-110": Job(
        "lenet5/narrow-60", structured(110, NARROW_EXPONENTS, NARROW), "88x at 99.2 %",
        LONG._replace(retrain_epochs=12), 0),
    "lenet5/narrow-243": Job(
        "lenet5/narrow-180", structured(243, NARROW_EXPONENTS, NARROW), "232x at 99.0 %",
        LONG._replace(retrain_epochs=250), 0),
    "lenet5/narrow-145": Job(
        "lenet5/narrow-88", surgery(145, remove_structures), "88x at 99.2 %",
        SURGERY._replace(cuts=Cuts(3, 14, 6, 10)), 0),
    "lenet5/narrow-241": Job(
        "lenet5/narrow-145", surgery(241, remove_structures), "232x at 99.0 %",
        SURGERY._replace(cuts=Cuts(6, 16, 10, 12)), 0),
    "lenet5/narrow-132": Job(
        "lenet5/narrow-88", surgery(132, remove_structures), "88x at 99.2 %",
        SURGERY._replace(cuts=Cuts(2, 14, 10, 12)), 0),
    "lenet5/narrow-132-quant": Job(
        "lenet5/narrow-132",
        snapped(dict(zip(LENET, (16, 16, 8, 16), strict=True)), (*SHARES, *AGAIN)),
        "1,910x smaller at 99.0 % (prune + 3.4 bits)",
        SURGERY._replace(cuts=Cuts(8, 10, 6, 8)), 0),
    "lenet5/grouped-240": Job(
        "lenet5/narrow-132", surgery(240, partial(remove_structures, group_size=4)),
        "232x at 99.0 %", SURGERY._replace(cuts=Cuts(8, 6, 20, 12)), 4),
    "lenet5/narrow-240": Job(
        "lenet5/narrow-132",
        surgery(240, partial(remove_structures, least=BALANCED),
                partial(exchange_columns, least=BALANCED)),
        "232x at 99.0 %", SURGERY._replace(cuts=Cuts(8, 6, 30, 12, exchanges=3)), 0),
    "lenet5/narrow-131": Job(
        "lenet5/narrow-130", surgery(131, remove_structures), "88x at 99.2 %",
        SURGERY._replace(cuts=Cuts(1, 8, 8, 12)), 0),
    "lenet5/narrow-131-quant": Job(
        "lenet5/narrow-131", snapped(dict(zip(LENET, (16, 16, 8, 16), strict=True))),
        "1,910x smaller at 99.0 % (prune + 3.4 bits)",
        SURGERY._replace(cuts=Cuts(8, 10, 6, 8)), 0),
    "lenet5/crossbar-88": Job(
        "lenet5/narrow-88", quantized(linear_device(8)), "almost no loss",
        Schedule(straight_epochs=4, plain=0.5), 0, chips=100),
    "lenet5/narrow-110-quant": Job(
        "lenet5/narrow-110", quantized(lenet_bits(3, 3, 3, 3)),
        "1,910x smaller at 99.0 % (prune + 3.4 bits)",
        Schedule(straight_epochs=10, plain=0.5), 0),
    "lenet5/irregular-100": Job(
        "lenet5/structured-20", irregular(lenet_keeps(200, 1700, 2000, 400)), "85x at 99.2 %",
        Schedule(retrain_epochs=4, straight_epochs=6)),
    "lenet5/irregular-361": Job(
        "lenet5/irregular-100", surgery(361, remove_weights), "348x at 99.0 %",
        SURGERY._replace(cuts=Cuts(8, 16, 10, 12))),
    "lenet5/irregular-361-quant": Job(
        "lenet5/irregular-361", quantized(lenet_bits(5, 4, 4, 5)),
        "1,910x smaller at 99.0 % (prune + 3.4 bits)", Schedule(straight_epochs=12)),
    "lenet5/ternary": Job(
        "lenet5/dense", quantized(TERNARY), "99.2 %", Schedule(straight_epochs=6)),
    "lenet5/binary": Job(
        "lenet5/dense", quantized(BINARY), "99.2 % (all layers)", Schedule(straight_epochs=16)),
    "lenet5/narrow-120-purified": Job(
        "lenet5/narrow-120", purified(0.002), "88x -> 232x by purification", Schedule(), 0),
}  # fmt: skip
LINE_KINDS = ("columns", "filters", "kernels", "darb")  # one line per constraint alone
LINE_RATES = (2, 4, 8, 16, 32)
for rate in LINE_RATES:
    JOBS |= {
        f"lenet5/{kind}-{rate}": Job("lenet5/dense", run, "", Schedule(1, 2), group_size, seeds=1)
        for kind, run, group_size in zip(
            LINE_KINDS,
            (structured(rate, LENET_EXPONENTS, COLUMNS), structured(rate, LENET_EXPONENTS, FILTERS),
             per_layer(rate, LENET_EXPONENTS, kernels), per_layer(rate, LENET_EXPONENTS, darb)),
            (0, None, None, None), strict=True,
        )
    }  # fmt: skip

# Shift and flip, label smoothing, warm-up and cosine, averaged weights.
CIFAR_DENSE = Schedule(retrain_rate=0.05, momentum=0.9, teacher=0.0, smoothing=0.1, batch_size=64)
CIFAR_PRUNED = Schedule(
    admm_epochs=3, retrain_epochs=12, retrain_rate=0.03, momentum=0.9, batch_size=64
)
CIFAR_IRREGULAR = CIFAR_PRUNED._replace(straight_epochs=4, retrain_epochs=6)
CIFAR_BINARY = Schedule(straight_epochs=8, batch_size=64)
FULL = "(full width, 50,000 images)"
for zoo, epochs, dense_figure, rates, figures, binary_figure in (
    ("vgg16", 36, "93.5 %", (8, 16, 30), ("", "", "29.8x at -0.0 %"), "93.5 % -> 93.5 %"),
    ("resnet18", 16, "93.5-95 %", (8, 16, 20), ("", "", "20.9x-59.8x at -0.5 %"),
     "93.5 % -> 93.2 %"),
):  # fmt: skip
    schedule = CIFAR_DENSE._replace(retrain_epochs=epochs)
    JOBS[f"{zoo}/dense"] = Job("", whitened_dense, f"{dense_figure} {FULL}", schedule, seeds=1)
    parent = f"{zoo}/dense"
    for rate, figure in zip(rates, figures, strict=True):
        name = f"{zoo}/structured-{rate}"
        JOBS[name] = Job(parent, structured(rate), figure, CIFAR_PRUNED, 0, seeds=1)
        parent = name
    parent = f"{zoo}/dense"
    for rate in (10, 30):
        name = f"{zoo}/irregular-{rate}"
        JOBS[name] = Job(parent, irregular(float(rate)), "", CIFAR_IRREGULAR, seeds=1)
        parent = name
    JOBS[f"{zoo}/binary"] = Job(
        f"{zoo}/dense", quantized(BINARY), binary_figure, CIFAR_BINARY, seeds=1
    )

SHORT = "straight-through training under strong distortion for minutes; causes not separated"
SHAPES = (
    "241x lacks 0.34 % (34 images, one seed), 99.0 % holds to 149x (62 % more weights); networks "
    "cut to 240x in several shapes have 98.3 to 98.7 % on the held-out images"
)
FEW_SEEDS = "too few seeds"
GOALS = (
    Goal("dense", ("dense",), 0.995, 1, "99.2 %", "0.05 % is 5 images"),
    Goal("structured (filters and columns)", ("structured", "narrow"), 0.99, 240,
         "231.8x at 99.0 %", SHAPES + "; purification finds 1 unit of 59 within 0.2 %"),
    Goal("structured, columns shared by four filters", ("grouped",), 0.99, 240,
         "231.8x at 99.0 % (by whole layers)",
         "one seed had 98.91 %; three times the epochs were not better on the held-out images"),
    Goal("irregular", ("irregular",), 0.99, 360, "348x at 99.0 %",
         "a first run with half of the epochs had 98.90 %; the median of the seeds decides"),
    Goal("binary, every layer", ("binary",), 0.992, 1, "99.2 %", SHORT),
    Goal("pruned and quantized, bytes",
         ("irregular-361-quant", "narrow-110-quant", "narrow-130-quant",
          "narrow-131-quant", "narrow-132-quant"), 0.99, 1000,
         "1,910x at 99.0 %", "levels chosen in parts, the other weights making up for it, and "
         "trained at the end cost 0.2 % at 131x (twice the epochs: 98.92 %, and worse on held-out "
         "images too); straight-through training lost 0.8 % with 3 bits",
         of_bytes=True),
    Goal("crossbar, 8-bit states, 5th percentile of 100 chips", ("crossbar",), 0.991, 88,
         "almost no loss", FEW_SEEDS, of_chips=True),
)  # fmt: skip


def network_of(name: str) -> NetworkSpec:
    zoo = name.split("/", maxsplit=1)[0]
    return build(zoo, **NETWORKS[zoo][1])


def dense_weights(name: str) -> int:
    shapes = tensor_shapes(network_of(name))
    return sum(math.prod(shape) for key, shape in shapes.items() if key.endswith(".weight"))
