"""Robustness: metrics of one model at one frozen threshold on perturbed copies of the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evaluation.analysis.catalogue import (
    MatchedStudy,
    image_statistics,
    match_study,
    rsna_statistics,
    share,
)
from evaluation.analysis.paired import check_same_images
from evaluation.analysis.subgroups import DrawnSets
from evaluation.metrics.bootstrap import Estimate, Resampler
from evaluation.metrics.matching import order_truths
from evaluation.study.cases import EvaluationCases
from evaluation.study.image_files import find_image, read_pixels
from evaluation.study.perturb import move_boxes, perturb, sort_perturbations
from pneumonia.runtime.errors import DataError, OutputError, os_errors_as
from pneumonia.runtime.progress import Progress, report_progress


@dataclass(frozen=True)
class RobustnessRow:
    """One perturbation."""

    name: str  # for example `noise_10`; `none` is the study without perturbation
    # metric (`rsna`, `auroc`, `sensitivity`, `specificity`) -> estimate
    values: Mapping[str, Estimate]
    deltas: Mapping[str, Estimate]  # metric -> change against the unperturbed study, paired


def moved_cases(cases: EvaluationCases, name: str) -> EvaluationCases:
    """Cases of a perturbed study with the truth moved as the perturbation moved the image."""
    truths = []
    for rows, size, scale in zip(cases.truths, cases.sizes, cases.scales, strict=True):
        pixels = rows / np.tile(scale, 2)
        moved = move_boxes(pixels, name, float(size[0]), float(size[1])) * np.tile(scale, 2)
        truths.append(moved[order_truths(moved)])
    return replace(cases, truths=tuple(truths))


def robustness_table(
    study: MatchedStudy,
    point: str,
    perturbed: Mapping[str, EvaluationCases],
    resampler: Resampler,
    progress: Progress | None = None,
) -> list[RobustnessRow]:
    """Metrics on perturbed copies of a study's images, and their change.

    Args:
        study: The unperturbed images.
        point: Operating point whose threshold is used throughout.
        perturbed: Perturbation -> cases with the truth boxes not yet moved; see `moved_cases`.

    Raises:
        DataError: A perturbed study does not have the same images.
        ConfigError: A name is not a perturbation.
    """
    check_same_images([study.cases, *perturbed.values()])
    threshold = {point: study.thresholds[point]}
    studies = {"none": match_study(study.cases, threshold)}
    for name in sort_perturbations(perturbed):
        studies[name] = match_study(moved_cases(perturbed[name], name), threshold)
    sets = []
    for item in studies.values():
        called, positive = item.cases.image_score >= threshold[point], item.cases.positive
        sets.append(
            {
                "rsna": rsna_statistics(item)[0],
                "auroc": image_statistics(item.cases)[0],
                "sensitivity": share("sensitivity", called, positive),
                "specificity": share("specificity", ~called, ~positive),
            }
        )
    drawn = DrawnSets(sets, resampler, progress)
    return [
        RobustnessRow(
            name,
            values={metric: drawn.estimate(metric, index) for metric in sets[index]},
            deltas={
                metric: drawn.estimate_difference(metric, index, 0)[0] for metric in sets[index]
            },
        )
        for index, name in enumerate(studies)
    ]


def write_perturbed(
    ids: Sequence[str],
    source: str | Path,
    out: str | Path,
    names: Sequence[str],
    progress: Progress | None = None,
) -> int:
    """Write perturbed copies of images as `OUT/NAME/IMAGE_ID.png`; each folder can be scored.

    Returns:
        Number of images written per perturbation.

    Raises:
        DataError: An image of `ids` is not in the folder `source`.
        OutputError: The folder cannot be written.
    """
    from PIL import Image

    for number, image_id in enumerate(ids):
        file = find_image(source, image_id)
        if file is None:
            raise DataError("Image to perturb is not in the folder", where=str(source))
        pixels = read_pixels(file)
        for name in names:
            folder = Path(out) / name
            with os_errors_as(OutputError, "Cannot write image", folder):
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(perturb(pixels, name, image_id)).save(folder / f"{image_id}.png")
        report_progress(progress, number + 1, len(ids), "images perturbed")
    return len(ids)
