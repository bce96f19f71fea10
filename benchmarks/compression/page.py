"""The page, the JSON file and the picture of `compression_tables`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compression.cifar_page import cifar_section
from benchmarks.compression.jobs import GOALS, JOBS, LINE_KINDS, LINE_RATES, Goal
from benchmarks.compression.summary import Summary, summaries
from benchmarks.compression.training import HELD_OUT
from evaluation.report.compression_plots import ParetoPoint, plot_pareto, to_png
from evaluation.report.plots import COLOURS, MARKS, new_figure
from pneumonia.runtime.atomic import write_text

RESULTS = Path(__file__).parents[1] / "results" / "compression_tables.json"
EARLIER = RESULTS.with_name("compression_tables_earlier.json")
PICTURE = RESULTS.with_suffix(".png")
LINES_PICTURE = RESULTS.with_name("compression_lines.png")
PURIFICATION = RESULTS.with_name("purification.json")
LANGUAGE = RESULTS.with_name("language_model.json")
PAGE = Path(__file__).parents[2] / "docs" / "compression_results.md"

HEAD = """# Compression methods, measured the same way

Goals are the published figures of each method's family, or better. Every accuracy is the median of
the seeds on the test set; networks are chosen on {held_out:,} images held out of the training set.
**These are small public image sets, not radiographs.**

| goal | must | reached (median of the seeds) | published | verdict |
|---|---|---|---|---|
{goals}

## LeNet-5: every job

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
JSON file). narrow-131, -145 and -241 were cut before the last structures to leave had to be small
ones, and their present jobs end at slightly more weights.

## One constraint alone, five rates
{lines}
{cifar}{language}{purification}
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


LINES = """
LeNet-5, one seed: epochs of ADMM towards one constraint ({admm}) and inside the masks ({epochs}).
Pattern pruning has no line of its own: the published patterns are of 3 x 3 kernels and LeNet-5 has
5 x 5 ones, so that whole kernels (connectivity) stand for it.

| rate asked for | {kinds} |
|---|{dashes}
{rows}

![LeNet-5: test accuracy of each constraint alone](../benchmarks/results/compression_lines.png)
"""

LANGUAGE_SECTION = """
## LSTM language model

`python -m benchmarks.language.perplexity`: two LSTM layers of 128 units (their four matrices
are pruned: {weights:,} weights) on text of a probabilistic grammar with {vocabulary} words
(`benchmarks.language.grammar`). Perplexity on {test_tokens:,} tokens of other text; the grammar
itself has {perplexity_of_grammar:.2f}, the dense network {perplexity_of_dense:.2f} after {dense}
steps, from which the pruned ones train on: they are better than it at low rates. One seed; {admm}
steps of ADMM and {retrain} inside the masks. kB count values (float32) and indices of the
pruned matrices; ms is the CPU time to decode all four to dense with NumPy (a busy machine).

| method | {rates} |
|---|{dashes}
{rows}

![LSTM: perplexity against rate](../benchmarks/results/language_model.png)
"""


PURIFICATION_SECTION = """
## What unused-path removal and purification gain

`python -m benchmarks.compression.purification`, networks of seed 0: rate as pruned, without unused
paths (same outputs), and after purification within 0.2 % of the accuracy on held-out images,
without training. Jobs remove unused paths whenever they prune, so that none are left in their
networks; `projected` rows show the share: the dense network with columns of least energy set to
zero layer by layer. Purification adds nearly nothing afterwards, since the cuts have weighed every
filter and hidden unit together with its columns. Where it removes nothing, the last column has the
cheapest unit: what removing it alone costs, and the weights that go with it.

| network | as pruned | without unused paths | purified | units removed | held out | cheapest unit |
|---|---|---|---|---|---|---|
{rows}
"""


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


def kind_of(name: str) -> str:
    """Colour of a job in the picture."""
    for word, kind in (
        ("-quant", "pruned and quantized"), ("irregular", "irregular"), ("dense", "dense"),
        ("bit", "quantized"), ("nary", "quantized"), ("crossbar", "crossbar"),
        *((kind, kind) for kind in LINE_KINDS),
    ):  # fmt: skip
        if word in name:
            return kind
    return "structured"


def lines_of(jobs: list[Summary]) -> dict[str, list[Summary]]:
    """Jobs of one constraint alone -> its rates, ascending."""
    found: dict[str, list[Summary]] = {}
    for job in jobs:
        kind = job.job.split("/")[1].rpartition("-")[0]
        if kind in LINE_KINDS:
            found.setdefault(kind, []).append(job)
    return found


def lines_section(jobs: list[Summary]) -> str:
    """Table and picture of the constraints alone; empty when no such job was run."""
    lines = lines_of(jobs)
    if not lines:
        return "\nNot run.\n"
    rows = []
    for rate in LINE_RATES:
        cells = []
        for own in lines.values():
            at = [job for job in own if job.job.endswith(f"-{rate}")]
            cells.append(f"{at[0].accuracy:.2%} at {at[0].rate:.1f}x" if at else "")
        rows.append(f"| {rate}x | " + " | ".join(cells) + " |")
    LINES_PICTURE.write_bytes(plot_lines(
        {kind: [(job.rate, 100 * job.accuracy) for job in own] for kind, own in lines.items()},
        "weights of the dense network / weights stored", "LeNet-5 on MNIST, test accuracy, %",
    ))  # fmt: skip
    schedule = next(iter(lines.values()))[0].row["schedule"]
    return LINES.format(
        kinds=" | ".join(lines), dashes="---|" * len(lines), rows="\n".join(rows),
        admm=schedule["admm_epochs"], epochs=schedule["retrain_epochs"],
    )  # fmt: skip


def language_section() -> str:
    """The language model's table and picture; empty when it was not run."""
    if not LANGUAGE.is_file():
        return ""
    found = json.loads(LANGUAGE.read_text())
    methods: dict[str, list[dict[str, Any]]] = {}
    for point in found["points"]:
        methods.setdefault(point["method"], []).append(point)
    rates = sorted({round(point["rate"]) for point in found["points"]})
    rows = []
    for method, points in methods.items():
        at = {
            round(p["rate"]): "{perplexity:.2f} ({0:.0f} kB, {decode_ms:.1f} ms)".format(
                p["bytes"] / 1000, **p
            )
            for p in points
        }
        cells = [at.get(rate, "") for rate in rates]
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    LANGUAGE.with_suffix(".png").write_bytes(plot_lines(
        {m: [(p["rate"], p["perplexity"]) for p in points] for m, points in methods.items()}
        | {"grammar itself": [(r, found["perplexity_of_grammar"]) for r in (rates[0], rates[-1])]},
        "weights of the LSTM / weights kept", "perplexity on other text of the grammar",
    ))  # fmt: skip
    return LANGUAGE_SECTION.format(
        **found, **found["steps"], rates=" | ".join(f"{r}x" for r in rates),
        dashes="---|" * len(rates), rows="\n".join(rows),
    )  # fmt: skip


def purification_section() -> str:
    """The table of unused paths and purification; empty when it was not measured."""
    if not PURIFICATION.is_file():
        return ""
    rows = []
    for row in json.loads(PURIFICATION.read_text()):
        line = [row["network"], f"{row['rate_as_pruned']:.1f}x",
                f"{row['rate_without_unused_paths']:.1f}x"]  # fmt: skip
        if "rate_purified" in row:
            line += [f"{row['rate_purified']:.1f}x", f"{row['units_removed']} of {row['units']}",
                     f"{row['held_out']:.2%} -> {row['held_out_purified']:.2%}"]  # fmt: skip
        if "cheapest_unit_costs" in row:
            line.append(
                f"{row['cheapest_unit_costs']:.2%} for {row['cheapest_unit_weights']} weights"
            )
        rows.append("| " + " | ".join(line + [""] * (7 - len(line))) + " |")
    return PURIFICATION_SECTION.format(rows="\n".join(rows))


def plot_lines(
    series: Mapping[str, Sequence[tuple[float, float]]], rate: str, metric: str
) -> bytes:
    """One line of (rate, metric) per name, as PNG; rates on a logarithmic axis."""
    figure, axes = new_figure(6.4, 4.2)
    for number, (name, points) in enumerate(series.items()):
        axes.plot(*zip(*points, strict=True), MARKS[number] + "-", color=COLOURS[number],
                  markersize=5, label=name)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlabel(rate)
    axes.set_ylabel(metric)
    axes.legend(frameon=False, fontsize=9)
    return to_png(figure)


def write_picture(jobs: list[Summary]) -> None:
    """LeNet-5: test accuracy against how much smaller the stored weights are."""
    points = [
        ParetoPoint(
            job.job.split("/")[1], kind_of(job.job), job.reduction,
            *(100 * share for share in (job.accuracy, job.lowest, job.highest)),
        )
        for job in jobs
        if kind_of(job.job) not in LINE_KINDS
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
    write_text(str(RESULTS), json.dumps(rows, indent=1) + "\n")
    everything = summaries(rows)
    jobs = [job for job in everything if job.job.startswith("lenet5/")]
    write_picture(jobs)
    write_text(
        str(PAGE),
        HEAD.format(
            held_out=HELD_OUT,
            goals="\n".join(goal_line(goal, jobs) for goal in GOALS),
            rows="\n".join(job_line(job) for job in jobs),
            lines=lines_section(jobs),
            cifar=cifar_section(everything),
            language=language_section(),
            purification=purification_section(),
            earlier="\n".join(earlier_line(row) for row in json.loads(EARLIER.read_text())),
        ),
    )
