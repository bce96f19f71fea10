"""The bundle's model card: facts of the run and the files; unknown facts are stated as such."""

from collections.abc import Mapping, Sequence
from typing import Any

from pneumonia.exporting.onnx_file import TOLERANCE, OnnxReport
from pneumonia.exporting.onnx_nodes import GatheredInput
from pneumonia.exporting.run_facts import RunFacts
from pneumonia.network.accounting import NetworkTotals
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.model.heads import image_outputs
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
    sections = [
        f"# {spec.name}\n\n**{DISCLAIMER}**",
        *([facts.about.strip()] if facts.about.strip() else []),
        _network(spec, model_hash),
        _evidence(facts),
        points_section(facts.points, facts.chosen, facts.calibrated),
        _cost(totals, sizes, facts.trained_weights),
        *_compression(facts),
        _onnx(onnx, gathered),
        _origin(facts),
        _limits(),
    ]
    return "\n\n".join(sections) + "\n"


LAST_STEP = (
    "Rates of the last compression run alone; weights before compression, above, count all of them."
)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _network(spec: NetworkSpec, model_hash: str) -> str:
    size = spec.input
    heads = [layer for layer in spec.detect_layers() if layer.name in spec.outputs]
    job = f"detector with {len(heads)} scales" if heads else "classifier"
    if heads and image_outputs(spec):
        job += ", scores gated by an image-level output"
    rows = [
        ("job", job),
        ("classes", ", ".join(spec.class_names)),
        ("input", f"{size.channels} x {size.height} x {size.width}, letterboxed grey"),
        ("values", f"(x / 255 - {size.mean:g}) / {size.std:g}"),
        ("layers", str(len(spec.layers))),
        *[(f"anchors at stride {head.stride}", _anchors(head)) for head in heads],
        ("model hash", f"`{model_hash}`"),
    ]
    return "## The network\n\n" + _table(("what", "value"), rows)


def _anchors(head: Detect) -> str:
    pairs = ", ".join(f"{w:.0f} x {h:.0f}" for w, h in head.anchors)
    return f"{pairs} ({head.box_coding} coding)"


def _evidence(facts: RunFacts) -> str:
    title = "## Validation of these weights\n\n"
    if not facts.metrics:
        return title + f"Validation metrics: {MISSING}."
    rows = [(name, f"{value:.4f}") for name, value in sorted(facts.metrics.items())]
    return (
        title
        + _table(("metric", "value"), rows)
        + "\n\nMeasured on the validation split that also chose the weights and thresholds, hence"
        + f" optimistic. Confidence intervals: {MISSING}. Test results: {MISSING}."
    )


def points_section(
    points: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, Any], calibrated: bool = True
) -> str:
    """The section of the thresholds, `POINTS_TITLE` first.

    Args:
        points: Name -> record with `threshold`.
        chosen: What else operating_points.json says: `selected_on`, `calibration`, `box_scale`.
        calibrated: Whether the thresholds were chosen on validation images.
    """
    rows = [(name, f"{point.get('threshold')}", _notes(point)) for name, point in points.items()]
    parts = [POINTS_TITLE, _table(("name", "score threshold", "notes"), rows)]
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


def _cost(totals: NetworkTotals, sizes: dict[str, int], trained: int | None) -> str:
    rows = [("parameters", f"{totals.parameters:,}")]
    if trained:
        rate = trained / max(totals.kept_weights, 1)
        rows.append(("weights before compression", f"{trained:,} ({rate:.1f}x those kept)"))
    rows += [
        ("weights", f"{totals.weights:,}"),
        ("kept weights", f"{totals.kept_weights:,} ({totals.rate:.2f}x fewer)"),
        ("multiply-accumulates", f"{totals.macs:,}"),
        ("kept multiply-accumulates", f"{totals.kept_macs:,} ({totals.mac_rate:.2f}x fewer)"),
        *[(f"`{name}`", f"{n_bytes:,} bytes") for name, n_bytes in sizes.items()],
        ("latency and energy", f"{MISSING}; measure on the device"),
    ]
    return "## Cost for one image\n\n" + _table(("what", "value"), rows)


def _compression(facts: RunFacts) -> list[str]:
    if facts.kind != "prune" and not facts.compression:
        return []
    rows = [(key.replace("_", " "), value) for key, value in facts.compression.items()]
    body = _table(("what", "value"), rows) if rows else f"Details: {MISSING}."
    if rows and facts.trained_weights:
        body = LAST_STEP + "\n\n" + body
    return ["## Compression\n\n" + body]


def _onnx(onnx: OnnxReport, gathered: Sequence[GatheredInput]) -> str:
    ops = ", ".join(f"{name} {count}" for name, count in onnx.ops.items())
    text = (
        f"## ONNX\n\nOpset {onnx.opset}, IR {onnx.ir_version}; {ops}. Largest difference between"
        f" onnxruntime and torch: {onnx.relative_error:.1e} of the output's largest magnitude"
        f" (allowed {TOLERANCE:g})."
    )
    if gathered:
        rows = [(g.layer, str(g.n_alive), str(g.n_channels)) for g in gathered]
        header = ("convolution", "channels read", "of")
        text += "\n\nConvolutions that read only the channels they keep:\n\n" + _table(header, rows)
    return text


def _origin(facts: RunFacts) -> str:
    def known(value: object) -> str:
        return MISSING if value is None else str(value)

    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    rows = [
        ("kind of run", known(facts.kind)),
        ("checkpoint", facts.checkpoint),
        ("epoch", known(facts.epoch)),
        ("seed", known(facts.seed)),
        ("dataset fingerprint", known(facts.dataset_fingerprint)),
        ("versions", versions or MISSING),
        ("ages, sexes, views, scanners of the training data", MISSING),
    ]
    return "## Origin\n\n" + _table(("what", "value"), rows)


def _limits() -> str:
    return (
        "## Limits\n\nNot validated clinically, prospectively, or on other hospitals' images."
        " Frontal chest radiographs only. Boxes mark opacities, not a diagnosis. A missing box does"
        " not rule pneumonia out. Performance by age, sex, view and scanner: "
        + MISSING
        + "; `pneumonia evaluate` measures it."
    )
