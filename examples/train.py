"""Train a detector; `pneumonia data phantom --out DATA --count 300` makes a dataset for it.

python examples/train.py DATA RUN [EPOCHS] [CHANGES, such as batch_size=8 ...]
"""

import sys

import pneumonia


def main(data: str, run: str, epochs: str = "20", *changes: str) -> None:
    """Train the recipe `phantom` for some epochs."""
    options = pneumonia.RunOptions(changes=[f"epochs={epochs}", *changes])
    result = pneumonia.train(
        data, "phantom", run, options,
        progress=lambda done, total, note: print(f"{done}/{total} {note}", end="\r"),
    )  # fmt: skip
    print(f"best epoch {result.best_epoch} of {result.epochs}: {result.best_metric:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
