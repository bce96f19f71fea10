"""How well an inverted radiograph is noticed: `runtime.image.polarity` on a dataset's radiographs.

python -m benchmarks.images.polarity --data runs/rsna --out benchmarks/results/polarity.json
"""

from collections import defaultdict

import numpy as np

from benchmarks.reporting import dataset_and_out, write_results
from pneumonia.runtime.image.polarity import LIMIT, polarity_score


def main() -> None:
    """Measure and write."""
    dataset, out = dataset_and_out(__doc__)
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
    write_results(out, {"benchmark": "polarity", "limit": LIMIT, "rows": rows})


if __name__ == "__main__":
    main()
