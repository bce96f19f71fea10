"""Find lung opacities in radiographs with the shipped model.

python examples/detect.py radiograph.dcm ...
"""

import sys

import pneumonia


def main(*paths: str) -> None:
    """Print the flag, scores and boxes of each file."""
    detector = pneumonia.Detector.load("default")
    for path in paths:
        found = detector.detect(path)
        print(path, found.flag, f"highest score {found.max_score:.3f}")
        for score, (x1, y1, x2, y2) in zip(found.scores, found.boxes, strict=True):
            print(f"  {score:.3f}: {x1:.0f}, {y1:.0f} to {x2:.0f}, {y2:.0f} px")


if __name__ == "__main__":
    main(*sys.argv[1:])
