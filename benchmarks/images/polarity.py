"""How well an inverted radiograph is noticed: `runtime.image.polarity` on a dataset's radiographs.

python -m benchmarks.images.polarity --data runs/rsna --out benchmarks/results/polarity.json
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from data_prep.dataset.reader import open_dataset
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.image.polarity import LIMIT, polarity_score


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="dataset folder")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    scores: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for i, record in enumerate(dataset.records):
        pixels = np.asarray(dataset.pixels(i))
        pair = polarity_score(pixels), polarity_score(255 - pixels)
        scores[record.split, record.kind].append(pair)
    rows = []
    for (split, kind), pairs in sorted(scores.items()):
        as_given, negative = np.array(pairs).T < LIMIT
        rows.append(
            {
                "split": split,
                "kind": kind,
                "n": len(pairs),
                "marked_as_given": int(as_given.sum()),
                "negatives_marked": int(negative.sum()),
            }
        )
        print(rows[-1])
    write_json(str(options.out), {"benchmark": "polarity", "limit": LIMIT, "rows": rows})


if __name__ == "__main__":
    main()
