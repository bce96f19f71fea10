"""Make a dataset folder for training: of phantoms, of RSNA's files, or of your own boxes.

python examples/make_dataset.py OUT phantoms [COUNT]
python examples/make_dataset.py OUT rsna SOURCE
python examples/make_dataset.py OUT own IMAGES LABELS
"""

import sys

import pneumonia


def main(out: str, kind: str, *sources: str) -> None:
    """Make it; False means that the folder was up to date."""
    if kind == "phantoms":
        is_new = pneumonia.make_phantoms(out, count=int(*sources or (300,)), size=256)
    elif kind == "rsna":
        is_new = pneumonia.import_rsna(*sources, out, pneumonia.ImportOptions(seed=1))
    else:
        is_new = pneumonia.import_own_images(*sources, out, pneumonia.OwnImageOptions(seed=1))
    print(f"{out}: {'made' if is_new else 'up to date'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
