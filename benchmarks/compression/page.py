"""The page, the JSON file and the picture of `compression_tables`."""

import json
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.compression.jobs import GOALS, JOBS, Goal
from benchmarks.compression.training import HELD_OUT
from evaluation.hardware.plots import ParetoPoint, plot_pareto

RESULTS = Path(__file__).parents[1] / "results" / "compression_tables.json"
EARLIER = RESULTS.with_name("compression_tables_earlier.json")
PICTURE = RESULTS.with_suffix(".png")
PAGE = Path(__file__).parents[2] / "docs" / "compression_results.md"

HEAD = """# Compression methods, measured the same way

Goals are the published figures of each method's family, or better. Every accuracy is the median of
the seeds on the test set; networks are chosen on {held_out:,} images held out of the training set.
**These are small public image sets, not radiographs.** Not measured yet: lines of five rates for
pattern, DARB, column and filter pruning alone, CIFAR-10 with the new schedules, a language model.

| goal | must | reached (median of the seeds) | published | verdict |
|---|---|---|---|---|
{goals}

## LeNet-5 and small image networks: every job

Written by `python -m benchmarks.compression.tables`; every row is one job of that script, measured
on the test set (10,000 images).

* rate = weights of the dense network / weights stored, all layers counted, dead paths removed
* bits = mean of the stored weights that are not zero
* kB = weights with all indices and scales, as the file holds them (without its header, biases and
  batch norm); smaller = the dense float32 weights over that
* CPU = this job alone for one seed, on one core; it starts from the job named "from"
* seeds = how many; the accuracy is their median, the range their lowest and highest

| job | from | rate | bits | kB | smaller | test accuracy | range | seeds | CPU, min | published |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}

![LeNet-5: test accuracy against how much smaller](../benchmarks/results/compression_tables.png)

LeNet-5 is the 20-50-500-10 network of the pruning literature (430,500 weights) on MNIST, trained
with images distorted by random affine maps and elastic fields. All other jobs learn from the mean
logits of the dense networks of all seeds (`teacher` in the JSON file is their share of the loss),
on ten distorted copies of every image; `plain` in the JSON file is the share of undistorted ones.
Training is in bfloat16 where the processor computes it (`bfloat16` in the JSON file), and of jobs
with `plain` other than 0.1 in float32 by `benchmarks.compression.lenet_step`, which skips pruned
weights, so the minutes of different machines and jobs do not compare. Networks of up to 5,000
weights are cut by `benchmarks.compression.surgery`: the Fisher matrix of all weights says what
each weight, column or filter of any layer costs once the others have made up for it, the cheapest
leave in parts, and steps by natural gradient train between and after (`cuts` and `natural` in the
JSON file).

## Recorded earlier, with shorter schedules

One seed each, by an earlier version of the jobs (ADMM and masked retraining, no distortion, no
averaging; schedules in `compression_tables_earlier.json`); this script does not run them again.
vgg16 and resnet18 are narrow (width 0.25) and saw 25,000 CIFAR-10 images that went through lossy
JPEG: their rows compare the methods with each other, and are **not** comparable with the published
full-width figures beside them.

| job | rate | bits | kB | smaller | test accuracy | 95 % | published |
|---|---|---|---|---|---|---|---|
{earlier}
"""


class Summary(NamedTuple):
    """One job over its seeds; `row` is the median seed's.

    `of_chips` is the 5th percentile of simulated chips; 0 where none were simulated.
    """

    job: str
    row: dict[str, Any]
    accuracy: float
    lowest: float
    highest: float
    rate: float
    reduction: float
    seeds: int
    of_chips: float


def recorded_rows(work: Path) -> list[dict[str, Any]]:
    """Rows of all jobs: from --work where it has the job, else as they were recorded."""
    recorded = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    rows = {(row["job"], row.get("seed", 0)): row for row in recorded}
    for name, job in JOBS.items():
        for seed in range(job.seeds):
            result = work / name / f"seed{seed}" / "result.json"
            if result.is_file():
                rows[name, seed] = json.loads(result.read_text())
    order = list(JOBS)
    known = [key for key in rows if key[0] in JOBS and "seed" in rows[key]]
    return [rows[key] for key in sorted(known, key=lambda key: (order.index(key[0]), key[1]))]


def summaries(rows: list[dict[str, Any]]) -> list[Summary]:
    """The seeds of each job brought together."""
    found = []
    for name in dict.fromkeys(row["job"] for row in rows):
        own = sorted((r for r in rows if r["job"] == name), key=lambda row: row["test_accuracy"])
        scores = [row["test_accuracy"] for row in own]
        found.append(Summary(
            name, own[(len(own) - 1) // 2], median(scores), scores[0], scores[-1],
            median(row["rate"] for row in own), median(row["data_reduction"] for row in own),
            len(own), median(row.get("chips", {}).get("percentile_5", 0.0) for row in own),
        ))  # fmt: skip
    return found


def kind_of(name: str) -> str:
    """Colour of a job in the picture."""
    for word, kind in (
        ("-quant", "pruned and quantized"), ("irregular", "irregular"), ("dense", "dense"),
        ("bit", "quantized"), ("nary", "quantized"), ("kernels", "kernels alone"),
        ("darb", "DARB alone"),
        ("crossbar", "crossbar"), ("columns", "columns alone"), ("filters", "filters alone"),
    ):  # fmt: skip
        if word in name:
            return kind
    return "structured"


def write_picture(jobs: list[Summary]) -> None:
    """LeNet-5: test accuracy against how much smaller the stored weights are."""
    points = [
        ParetoPoint(
            job.job.split("/")[1], kind_of(job.job), job.reduction,
            *(100 * share for share in (job.accuracy, job.lowest, job.highest)),
        )
        for job in jobs if job.job.startswith("lenet5/")
    ]  # fmt: skip
    PICTURE.write_bytes(
        plot_pareto(points, "LeNet-5 on MNIST, test accuracy, %", "times smaller, indices included")
    )


def goal_line(goal: Goal, jobs: list[Summary]) -> str:
    """One line of the table of goals: the best that the family's jobs reached."""

    def size(job: Summary) -> float:
        return job.reduction if goal.of_bytes else job.rate

    def accuracy(job: Summary) -> float:
        return job.of_chips if goal.of_chips else job.accuracy

    own = [job for job in jobs if job.job.split("/")[1].startswith(goal.jobs)]
    accurate = [job for job in own if accuracy(job) >= goal.accuracy]
    small = [job for job in own if size(job) >= goal.at_least]
    good = [job for job in accurate if job in small]
    whole = any(job.seeds == JOBS[job.job].seeds for job in good)
    reached_by = "**reached**" if whole else "reached, but not by all seeds yet"
    verdict = reached_by if good else f"not reached: {goal.why}"
    shown = []
    if good:
        shown = [max(good, key=lambda job: (size(job), job.seeds))]
    else:
        if accurate:
            shown.append(max(accurate, key=size))
        if small:
            shown.append(max(small, key=accuracy))
        if not shown and own:
            shown.append(max(own, key=accuracy))
    reached = "; ".join(
        f"{size(job):,.0f}x at {accuracy(job):.2%} ({job.job.split('/')[1]}, {job.seeds} "
        f"{'seed' if job.seeds == 1 else 'seeds'})"
        for job in shown
    )
    rate = f"{goal.at_least:,.0f}x " if goal.at_least > 1 else ""
    must = f"{rate}at {goal.accuracy:.1%}"
    return f"| {goal.name} | {must} | {reached or 'not run'} | {goal.published} | {verdict} |"


def job_line(job: Summary) -> str:
    row = job.row
    return (
        f"| {job.job} | {JOBS[job.job].parent.split('/')[-1]} | {job.rate:.1f} "
        f"| {row['mean_bits']:.1f} | {row['bytes_with_indices'] / 1000:.2f} "
        f"| {job.reduction:,.0f}x | {job.accuracy:.2%} "
        f"| {job.lowest:.2%} .. {job.highest:.2%} | {job.seeds} "
        f"| {row['cpu_seconds'] / 60:.1f} | {JOBS[job.job].published} |"
    )


def earlier_line(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return (
        f"| {row['job']} | {row['rate']:.1f} | {row['mean_bits']:.1f} "
        f"| {row['bytes_with_indices'] / 1000:.2f} | {row['data_reduction']:,.0f}x "
        f"| {row['test_accuracy']:.2%} | {low:.2%} .. {high:.2%} | {row['published']} |"
    )


def write_tables(work: Path) -> None:
    """The JSON results, the page and the picture: every finished job."""
    rows = recorded_rows(work)
    if not rows:
        return
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    jobs = summaries(rows)
    write_picture(jobs)
    PAGE.write_text(
        HEAD.format(
            held_out=HELD_OUT,
            goals="\n".join(goal_line(goal, jobs) for goal in GOALS),
            rows="\n".join(job_line(job) for job in jobs),
            earlier="\n".join(earlier_line(row) for row in json.loads(EARLIER.read_text())),
        )
    )
