"""Evaluate predictions against labels, and compare two models on the same images.

python examples/evaluate_and_compare.py LABELS OUT PREDICTIONS OTHER_PREDICTIONS
"""

import sys
from pathlib import Path

import pneumonia


def main(labels: str, out: str, first: str, second: str, draws: str = "2000") -> None:
    """Write OUT/report.html and OUT/compare.html; print the AUROC and its difference."""
    options = pneumonia.EvaluateOptions(only_scored=True, draws=int(draws))
    evidence = pneumonia.evaluate(first, labels, out, options).evidence
    print(f"AUROC {evidence.estimates['image.auroc'].value:.3f}")
    models = [
        pneumonia.ComparedModel(name, Path(file)) for name, file in [("a", first), ("b", second)]
    ]
    settings = pneumonia.CompareOptions(only_scored=True, draws=int(draws), threshold=0.5)
    (comparison,) = pneumonia.compare(models, labels, out, settings).comparisons
    row = comparison.differences["image.auroc"]
    print(f"difference {row.delta.value:+.3f}, {row.verdict}")


if __name__ == "__main__":
    main(*sys.argv[1:])
