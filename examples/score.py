"""Score all radiographs below a folder: worklist, report and overlays in another folder.

python examples/score.py STUDIES OUT [BUNDLE]
"""

import sys

import pneumonia


def main(studies: str, out: str, bundle: str = "default") -> None:
    """Print the counts, and the files that could not be scored."""
    detector = pneumonia.Detector.load(bundle)
    settings = pneumonia.ScoreSettings(outputs=pneumonia.OutputSettings(fhir=True))
    summary = pneumonia.score_batch(studies, out, detector, settings)
    print(summary.document["totals"]["statuses"])
    for record in summary.failures():
        print(f"  {record.file.relative}: {record.status}, {record.reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
