"""The detector's ladder from the radiographs: dense, then a scheme step by step, then fine-tuning.

    python -m benchmarks.detector.training --data DATASET --out runs/ladder --scheme combined

Runs the commands a user would type, one after another, each printed before it starts. Called again
it leaves out what is done and resumes what was interrupted. Each --again is a further cycle of the
learning rate from the weights before it; each --finetune trains a run of OUT on. Writes OUT/dense
(the earlier cycles are OUT/dense-1 and so on), OUT/SCHEME-Rx for each rate, RUN-on of each RUN that
was fine-tuned, and OUT/minutes-SCHEME.json, the time of each command by the clock and by the
processor.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reporting import argument_parser, processor_s, write_results
from pneumonia.network.accounting import account
from pneumonia.network.files import load_model

RATES = (4, 9, 16, 25, 36)
SCHEMES = {
    "combined": (),
    "filter": ("constraint.filter_share=1", "constraint.group_size=0"),
    "column": ("constraint.filter_share=0",),
}


def is_done(run: Path) -> bool:
    """Whether the run folder holds a finished run."""
    record = run / "run.json"
    return record.is_file() and json.loads(record.read_text())["status"] == "done"


def perform(minutes: Path, out: Path, arguments: Sequence[str]) -> None:
    """Run one `pneumonia` command unless it is done; add its minutes to the file."""
    if is_done(out):
        return
    begun = (out / "last").is_dir() or (out / "stages").is_dir()
    command = [*arguments, "--out", str(out), *(["--resume"] if begun else [])]
    sys.stdout.write("pneumonia " + " ".join(command) + "\n")
    sys.stdout.flush()
    clock, use = time.perf_counter(), processor_s()
    subprocess.run([sys.executable, "-m", "pneumonia", *command], check=True)
    spent = {"clock": time.perf_counter() - clock, "processor": processor_s() - use}
    rows = json.loads(minutes.read_text()) if minutes.is_file() else {}
    earlier = rows.get(out.name, {}) if begun else {}
    rows[out.name] = {key: round(earlier.get(key, 0) + s / 60, 2) for key, s in spent.items()}
    write_results(minutes, rows)


def kept_weights(run: Path) -> int:
    """Weights that the network of a run stores."""
    return account(*load_model(run / "best")).totals.kept_weights


def prune_step(
    minutes: Path, run: Path, out: Path, rate: float, dense: int, keys: Sequence[str]
) -> None:
    """Prune a run on to a rate over the dense network's number of weights."""
    # Over what came out, not what was asked for: whole filters overshoot, and that adds up.
    step = f"{rate * kept_weights(run) / dense:.4g}"
    prune = ["prune", str(run), "--recipe", "rsna-step", "--rate", step, *settings(keys)]
    perform(minutes, out, prune)


def settings(values: Sequence[str]) -> list[str]:
    """`--set` options."""
    return [part for value in values for part in ("--set", value)]


def main() -> None:
    """Train, then prune."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", required=True, help="dataset folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scheme", choices=sorted(SCHEMES), default="combined")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--train", nargs="*", default=(), help="keys of the recipe `rsna`")
    parser.add_argument(
        "--again", nargs="*", action="append", default=[], help="keys of a further training"
    )
    parser.add_argument("--prune", nargs="*", default=(), help="keys of the recipe `rsna-step`")
    parser.add_argument("--last", nargs="*", default=(), help="such keys for the last rates alone")
    parser.add_argument("--last-from", type=float, help="smallest of the last rates: the highest")
    parser.add_argument(
        "--finetune", nargs="+", action="append", default=[], metavar=("RUN", "KEY"),
        help="after the ladder: a run of OUT, and keys of the recipe `finetune`",
    )  # fmt: skip
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    minutes, run = options.out / "minutes-dense.json", options.out / "dense"
    train = ["train", "--data", options.data, "--recipe", "rsna", *settings(options.train)]
    further: list[str] = []
    for number, keys in enumerate(options.again, start=1):
        earlier = options.out / f"dense-{number}"
        perform(minutes, earlier, [*train, *further])
        further = settings([f"model.start_from={earlier / 'best'}", *keys])
    perform(minutes, run, [*train, *further])
    dense = kept_weights(run)
    for rate in options.rates:
        keys = [*SCHEMES[options.scheme], *options.prune]
        if rate >= (options.last_from or options.rates[-1]):
            keys += options.last
        out = options.out / f"{options.scheme}-{rate:g}x"
        prune_step(options.out / f"minutes-{options.scheme}.json", run, out, rate, dense, keys)
        run = out
    minutes = options.out / "minutes-finetune.json"
    for name, *keys in options.finetune:
        finetune = ["finetune", str(options.out / name), *settings(keys)]
        perform(minutes, options.out / f"{name}-on", finetune)


if __name__ == "__main__":
    main()
