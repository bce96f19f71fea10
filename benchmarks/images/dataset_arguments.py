"""Command-line arguments of benchmarks that read a dataset folder and write to one place."""

import argparse
from pathlib import Path

from data_prep.dataset.reader import Dataset, open_dataset


def dataset_and_out(description: str) -> tuple[Dataset, Path]:
    """Parse `--data FOLDER --out PATH`: the opened dataset and the path to write."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--data", required=True, help="dataset folder")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    return open_dataset(options.data), options.out
