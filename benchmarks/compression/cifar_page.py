"""The section of `compression_tables` on VGG-16 and ResNet-18: table and picture."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.compression.jobs import JOBS
from benchmarks.compression.summary import Summary
from evaluation.report.compression_plots import to_png
from evaluation.report.plots import COLOURS, GRID, MARKS, new_figure

PICTURE = Path(__file__).parents[1] / "results" / "compression_cifar.png"
NETWORKS = {"vgg16": "VGG-16", "resnet18": "ResNet-18"}
METHODS = ("structured", "irregular", "binary")
DENSE_GOAL = 0.88
ALLOWED_LOSS = 0.01
# Rate and change of the accuracy (percentage points) of structured pruning at full width, trained
# on all 50,000 images.
PUBLISHED = {"vgg16": ((29.8, 0.0),), "resnet18": ((20.9, -0.5), (59.8, -0.5))}

SECTION = """
## VGG-16 and ResNet-18 on CIFAR-10

Width 0.5, 25,000 CIFAR-10 images that went through lossy JPEG (5,000 more held out), one seed;
dense networks of {dense} epochs: they start from whitening filters and identities
(`benchmarks.compression.start_weights`), momentum, batches of 64, shift and flip, label smoothing,
a warm-up and half a cosine, averaged weights. Compressed ones learn from the dense one's logits of
ten distorted copies of each image. The goal of a dense network is 88 %, of a compressed one at
most 1 % below it. Published networks have full width and saw all 50,000 undamaged images: their
figures are **not** comparable with ours; the picture shows how much each lost against its own dense
network. 95 % intervals are of the 10,000 test images (Wilson).
{missing}
| network | method | rate | kB | test accuracy | 95 % | minus dense | goal | CPU, min | published |
|---|---|---|---|---|---|---|---|---|---|
{rows}

![VGG-16 and ResNet-18: loss against the rate](../benchmarks/results/compression_cifar.png)
"""


def cifar_section(jobs: Sequence[Summary]) -> str:
    """The section; empty when no network on CIFAR-10 was trained."""
    own = {zoo: [job for job in jobs if job.job.startswith(f"{zoo}/")] for zoo in NETWORKS}
    own = {zoo: found for zoo, found in own.items() if found}
    if not own:
        return ""
    rows = [_line(job, found[0]) for found in own.values() for job in found]
    run = {job.job for found in own.values() for job in found}
    left = [name for name in JOBS if name.split("/")[0] in NETWORKS and name not in run]
    missing = f"\nNot run yet: {', '.join(left)}.\n" if left else ""
    PICTURE.write_bytes(_picture(own))
    epochs = {zoo: found[0].row["schedule"]["retrain_epochs"] for zoo, found in own.items()}
    dense = " and ".join(f"{n} ({NETWORKS[zoo]})" for zoo, n in epochs.items())
    return SECTION.format(rows="\n".join(rows), missing=missing, dense=dense)


def _line(job: Summary, dense: Summary) -> str:
    zoo, method = job.job.split("/")
    row, change = job.row, job.accuracy - dense.accuracy
    low, high = row["ci95"]
    reached = job.accuracy >= DENSE_GOAL if job is dense else change >= -ALLOWED_LOSS
    return (
        f"| {NETWORKS[zoo]} | {method} | {job.rate:.1f} | {row['bytes_with_indices'] / 1000:,.0f} "
        f"| {job.accuracy:.2%} | {low:.2%} .. {high:.2%} | {change:+.2%} "
        f"| {'reached' if reached else 'missed'} | {row['cpu_seconds'] / 60:.1f} "
        f"| {JOBS[job.job].published} |"
    )


def _picture(own: dict[str, list[Summary]]) -> bytes:
    figure, axes = new_figure(7.2, 5.2)
    axes.axhspan(-100 * ALLOWED_LOSS, 0, color=GRID, alpha=0.5, label="at most 1 % below dense")
    for number, (zoo, found) in enumerate(own.items()):
        dense, colour = found[0], COLOURS[number]
        for method, mark in zip(METHODS, MARKS, strict=False):
            points = [
                (job.rate, 100 * (job.accuracy - dense.accuracy))
                for job in found
                if job.job.split("/")[1].startswith(method)
            ]
            if points:
                axes.plot(*zip(*points, strict=True), mark + "-", color=colour, markersize=6,
                          label=f"{NETWORKS[zoo]}, {method} (width 0.5)")  # fmt: skip
        axes.plot(*zip(*PUBLISHED[zoo], strict=True), "*", color=colour, markersize=11,
                  markerfacecolor="none",
                  label=f"{NETWORKS[zoo]}, published (full width)")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50], [f"{rate}x" for rate in (1, 2, 5, 10, 20, 50)])
    axes.minorticks_off()
    axes.set_xlabel("weights of the dense network / weights stored")
    axes.set_ylabel("test accuracy minus dense, percentage points")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return to_png(figure)
