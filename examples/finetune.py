"""Train a pruned run or a bundle on, on images of your own; it stays as small as it is.

python examples/finetune.py PRUNED DATASET TUNED [RECIPE CHANGES, such as retrain.epochs=20 ...]
"""

import sys

import pneumonia


def main(run: str, data: str, out: str, *changes: str) -> None:
    """Fine-tune, and show the validation metrics on the images of DATASET."""
    options = pneumonia.RunOptions(changes=changes)
    result = pneumonia.finetune(run, out, data, options=options)
    for name, value in result.metrics_before.items():
        print(f"{name:20} {value:.4f} -> {result.metrics_after[name]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
