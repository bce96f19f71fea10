"""Whether the processing of a collection gives positives away, and what augmentation changes.

    python -m benchmarks.images.source_shortcuts --data runs/rsna --out runs/source_shortcuts.json

The radiographs come from several collections that resized, sharpened and equalised them otherwise,
and most positives are of one collection. A classifier that sees no anatomy should then be useless:
here logistic regression on the share of power in eleven radial bands of the spectrum and on the
evenness of the grey histogram. It is trained on training radiographs of one view and tested on
validation radiographs of the same view, without and with the augmentation of the recipe. AUROC 0.5
means that nothing is given away; sicker patients differ in texture, too, so that 0.5 is not to be
expected within one view either.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.reporting import dataset_and_out, environment, write_results
from data_prep.augment.augmenter import Augmenter, AugmentSettings
from data_prep.dataset.reader import Dataset
from pneumonia.recipes import load_recipe
from pneumonia.training.config import TrainRecipe

SIZE = 256
BANDS = 11
PER_GROUP = 500  # images of a class, view and split
GEOMETRY_ONLY = {"brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "blur": 0.0, "noise": 0.0}


def features(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Log share of power in radial bands, and the histogram's entropy and number of used levels."""
    values = pixels.astype(np.float64) - pixels.mean()
    window = np.hanning(SIZE)
    power = np.abs(np.fft.rfft2(values * window[:, None] * window)) ** 2
    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)
    band = np.minimum((np.hypot(fy, fx) / 0.5 * BANDS).astype(int), BANDS - 1)
    shares = np.bincount(band.ravel(), power.ravel(), BANDS) / max(power.sum(), 1e-9)
    histogram = np.bincount(pixels.ravel(), minlength=256) / pixels.size
    used = histogram[histogram > 0]
    entropy = -(used * np.log(used)).sum()
    return np.array([*np.log(shares + 1e-12), entropy, len(used)])


def sample(dataset: Dataset, split: str, view: str, seed: int) -> list[int]:
    """Whole radiographs of a view, as many positives as negatives at most."""
    draw = np.random.default_rng(seed)
    items = [i for i in dataset.select(split, ["full"]) if dataset.records[i].view == view]
    chosen: list[int] = []
    for positive in (True, False):
        group = [i for i in items if bool(len(dataset.boxes(i))) == positive]
        chosen += draw.permutation(group)[:PER_GROUP].tolist()
    return chosen


def table(
    dataset: Dataset, items: list[int], augment: Augmenter | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Features (n, k) and labels (n,) of images, augmented or only resized."""
    rows = []
    for i in items:
        pixels = np.asarray(dataset.pixels(i))
        if augment is None:
            pixels = cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        else:
            pixels, _ = augment(pixels, dataset.cache_boxes(i), i)
        rows.append(features(pixels))
    return np.array(rows), np.array([len(dataset.boxes(i)) > 0 for i in items])


def judge(dataset: Dataset, view: str, augment: Augmenter | None) -> dict[str, Any]:
    """AUROC of the classifier on validation radiographs of a view."""
    train = table(dataset, sample(dataset, "train", view, 0), augment)
    val = table(dataset, sample(dataset, "val", view, 1), augment)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    scores = model.fit(*train).predict_proba(val[0])[:, 1]
    draw = np.random.default_rng(2)
    places = (draw.integers(0, len(scores), len(scores)) for _ in range(1000))
    drawn = [roc_auc_score(val[1][at], scores[at]) for at in places if len(set(val[1][at])) == 2]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "view": view,
        "n_train": len(train[1]),
        "n_val": len(val[1]),
        "auroc": [round(float(v), 3) for v in (roc_auc_score(val[1], scores), low, high)],
    }


def main() -> None:
    """Measure and write."""
    dataset, out = dataset_and_out(__doc__)
    recipe = load_recipe("rsna", "train", TrainRecipe)
    full = recipe.augment
    before = full.model_copy(update={"tone": 0.0, "resample": 0.0, "sharpen": 0.0, "dropout": 0.0})
    ways: dict[str, AugmentSettings | None] = {
        "as they come": None,
        "geometry": full.model_copy(update=GEOMETRY_ONLY | {"tone": 0.0, "resample": 0.0,
                                                            "sharpen": 0.0, "dropout": 0.0}),
        "geometry, grey values, blur, noise": before,
        "the recipe: tone curves, sharpness and resampling, too": full,
    }  # fmt: skip
    rows = []
    for name, settings in ways.items():
        augment = None if settings is None else Augmenter(SIZE, settings)
        for view in ("AP", "PA"):
            rows.append({"augmentation": name, **judge(dataset, view, augment)})
            print(rows[-1])
    facts = {"benchmark": "source_shortcuts", **environment("numpy", "scikit-learn")}
    write_results(out, {**facts, "rows": rows})


if __name__ == "__main__":
    main()
