"""Prune a trained run with ADMM and compact it.

python examples/prune.py RUN PRUNED [RATE] [RECIPE CHANGES, such as admm.epochs=2 ...]
"""

import sys

import pneumonia


def main(run: str, out: str, rate: str = "4", *changes: str) -> None:
    """Prune filters and columns (recipe `combined`) to 1/RATE of the weights."""
    options = pneumonia.RunOptions(changes=changes)
    result = pneumonia.prune(run, "combined", out, rate=float(rate), options=options)
    before, after = result.before.totals, result.after.totals
    print(f"weights {before.kept_weights:,} -> {after.kept_weights:,} ({result.rate:.1f}x)")
    print(f"MACs    {before.kept_macs:,} -> {after.kept_macs:,}")


if __name__ == "__main__":
    main(*sys.argv[1:])
