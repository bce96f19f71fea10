"""The outputs of a batch besides its tables: one writer per kind."""

from dataclasses import dataclass
from pathlib import Path

from pneumonia.runtime.storage.bundle import Bundle
from pneumonia.scoring.image.records import ScoringModel
from pneumonia.scoring.outputs.overlay import OverlayWriter
from pneumonia.scoring.outputs.protocol import FinishedBatch, OutputWriter, ScoredStudy

__all__ = ["FinishedBatch", "OutputSettings", "OutputWriter", "ScoredStudy", "open_writers"]


@dataclass(frozen=True)
class OutputSettings:
    """What a batch writes besides its tables.

    Attributes:
        dicom: Some of `sr`, `gsps`, `sc`.
        fhir: A FHIR document per image.
        report: report.html.
        pdf: Also print the report to report.pdf; needs Chromium.
    """

    dicom: tuple[str, ...] = ()
    fhir: bool = False
    report: bool = True
    pdf: bool = False


def open_writers(
    settings: OutputSettings, out: Path, model: ScoringModel, bundle: Bundle, pictures: str
) -> list[OutputWriter]:
    """The writers of a batch, in the order in which they run.

    Args:
        pictures: Which images have an overlay, and a picture in the report: `findings`, `all` or
            `none`.
    """
    writers: list[OutputWriter] = [OverlayWriter(out, model, pictures)]
    if settings.dicom:
        from pneumonia.scoring.outputs.dicom import DicomWriter

        writers.append(DicomWriter(out, model, settings.dicom))
    if settings.fhir:
        from pneumonia.scoring.outputs.fhir import FhirWriter

        writers.append(FhirWriter(out, model))
    if settings.report:
        from pneumonia.scoring.outputs.report import ReportWriter

        writers.append(ReportWriter(out, model, pictures, bundle))
    if settings.pdf:
        from pneumonia.scoring.outputs.pdf import PdfWriter

        writers.append(PdfWriter(out))
    return writers
