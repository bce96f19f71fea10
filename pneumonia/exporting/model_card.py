"""The bundle's model card: facts of the run and the files; unknown facts are stated as such."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pneumonia.exporting.onnx_file import TOLERANCE, OnnxReport
from pneumonia.exporting.onnx_nodes import GatheredInput
from pneumonia.exporting.run_facts import RunFacts
from pneumonia.network.accounting import NetworkTotals
from pneumonia.runtime.detection.heads import image_outputs
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.model.layers import Detect
from pneumonia.runtime.model.spec import NetworkSpec

MISSING = "not available"
POINTS_TITLE = "## Operating points"


def model_card(
    spec: NetworkSpec,
    model_hash: str,
    facts: RunFacts,
    totals: NetworkTotals,
    sizes: dict[str, int],
    onnx: OnnxReport,
    gathered: Sequence[GatheredInput],
) -> str:
    """Markdown of the model card.

    Args:
        spec: The network as bundled.
        totals: Cost of the network as bundled.
        sizes: File -> bytes.
        onnx: What the ONNX file proved.
        gathered: Convolutions that read only part of their channels.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        spec=spec,
        facts=facts,
        network=_network(spec, model_hash),
        points=points_section(facts.points, facts.chosen, facts.calibrated),
        cost=_cost(totals, sizes, facts.trained_weights),
        onnx=onnx,
        gathered=gathered,
        origin=_origin(facts),
        DISCLAIMER=DISCLAIMER,
        MISSING=MISSING,
        TOLERANCE=TOLERANCE,
    )


def _network(spec: NetworkSpec, model_hash: str) -> list[tuple[str, str]]:
    size = spec.input
    heads = [layer for layer in spec.detect_layers() if layer.name in spec.outputs]
    job = f"detector with {len(heads)} scales" if heads else "classifier"
    if heads and image_outputs(spec):
        job += ", scores gated by an image-level output"
    return [
        ("job", job),
        ("classes", ", ".join(spec.class_names)),
        ("input", f"{size.channels} x {size.height} x {size.width}, letterboxed grey"),
        ("values", f"(x / 255 - {size.mean:g}) / {size.std:g}"),
        ("layers", str(len(spec.layers))),
        *[(f"anchors at stride {head.stride}", _anchors(head)) for head in heads],
        ("model hash", f"`{model_hash}`"),
    ]


def _anchors(head: Detect) -> str:
    pairs = ", ".join(f"{w:.0f} x {h:.0f}" for w, h in head.anchors)
    return f"{pairs} ({head.box_coding} coding)"


def points_section(
    points: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, Any], calibrated: bool = True
) -> str:
    """The section of the thresholds, `POINTS_TITLE` first.

    Args:
        points: Name -> record with `threshold`.
        chosen: What else operating_points.json says: `selected_on`, `calibration`, `box_scale`.
        calibrated: Whether the thresholds were chosen on validation images.
    """
    rows = [f"| {name} | {at.get('threshold')} | {_notes(at)} |" for name, at in points.items()]
    header = ["| name | score threshold | notes |", "| --- | --- | --- |"]
    parts = [POINTS_TITLE, "\n".join([*header, *rows])]
    if not calibrated:
        parts.append("Thresholds were **not calibrated** for these weights.")
    parts.append(f"Chosen on: {_notes(chosen.get('selected_on'))}.")
    parts.append(f"Calibration of scores fitted there: {_notes(chosen.get('calibration'))}.")
    if "box_scale" in chosen:
        parts.append(
            f"Box scale for evaluation: {chosen['box_scale']}. Shown boxes are not resized."
        )
    return "\n\n".join([*parts, "Thresholds hold for this model hash only."])


def replace_points(card: str, section: str) -> str:
    """A model card with another section of the thresholds, at its end if it had none."""
    before, title, after = card.partition(f"\n{POINTS_TITLE}\n")
    if not title:
        return f"{card.rstrip()}\n\n{section}\n"
    _, heading, rest = after.partition("\n\n## ")
    return f"{before}\n{section}{heading}{rest}" if heading else f"{before}\n{section}\n"


def _notes(record: object) -> str:
    """The values of a JSON object in one line."""
    values = record if isinstance(record, Mapping) else {}
    notes = [f"{key}: {_note(value)}" for key, value in values.items() if key != "threshold"]
    return ", ".join(notes).replace("|", "/") or MISSING


def _note(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, list):
        return " + ".join(str(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cost(
    totals: NetworkTotals, sizes: dict[str, int], trained: int | None
) -> list[tuple[str, str]]:
    rows = [("parameters", f"{totals.parameters:,}")]
    if trained:
        rate = trained / max(totals.kept_weights, 1)
        rows.append(("weights before compression", f"{trained:,} ({rate:.1f}x those kept)"))
    return [
        *rows,
        ("weights", f"{totals.weights:,}"),
        ("kept weights", f"{totals.kept_weights:,} ({totals.rate:.2f}x fewer)"),
        ("multiply-accumulates", f"{totals.macs:,}"),
        ("kept multiply-accumulates", f"{totals.kept_macs:,} ({totals.mac_rate:.2f}x fewer)"),
        *[(f"`{name}`", f"{n_bytes:,} bytes") for name, n_bytes in sizes.items()],
        ("latency and energy", f"{MISSING}; measure on the device"),
    ]


def _origin(facts: RunFacts) -> list[tuple[str, str]]:
    def known(value: object) -> str:
        return MISSING if value is None else str(value)

    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return [
        ("kind of run", known(facts.kind)),
        ("checkpoint", facts.checkpoint),
        ("epoch", known(facts.epoch)),
        ("seed", known(facts.seed)),
        ("dataset fingerprint", known(facts.dataset_fingerprint)),
        ("versions", versions or MISSING),
        ("ages, sexes, views, scanners of the training data", MISSING),
    ]
