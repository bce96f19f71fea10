"""Output of the demo: the table, pictures with both models' boxes, and the page."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pneumonia.runtime.errors import DISCLAIMER

if TYPE_CHECKING:
    from PIL import Image

    from evaluation.study.cases import EvaluationCases

POSITIVE_SHOWN, NEGATIVE_SHOWN = 5, 1
LATENCY_BLOCKS, LATENCY_ROUNDS = 12, 7
GAP_PX, STRIP_PX = 8, 30
PICTURE_NOTE = (
    f"The first {POSITIVE_SHOWN} test phantoms with an opacity and the first without, in the order "
    "of their names; neither model saw them in training."
)


class DemoModel(NamedTuple):
    """One of the two models."""

    name: str  # `dense` or `pruned`
    run: Path  # run folder
    bundle: Path  # model bundle
    scores: Path  # output folder of `pneumonia score`


class ResultRow(NamedTuple):
    """A line of the table, all text."""

    title: str
    dense: str
    pruned: str
    change: str


class DemoFolder(NamedTuple):
    """Paths in the output folder of the demo."""

    root: Path  # the folder given with --out

    @property
    def phantoms(self) -> Path:
        """Dataset folder."""
        return self.root / "phantoms"

    @property
    def studies(self) -> Path:
        """DICOM files of the test split."""
        return self.root / "studies"

    @property
    def labels(self) -> Path:
        """RSNA csv of the test split."""
        return self.root / "labels-test.csv"

    @property
    def report(self) -> Path:
        """Output folder of `pneumonia compare`."""
        return self.root / "report"

    @property
    def models(self) -> tuple[DemoModel, DemoModel]:
        """The dense and the pruned model."""
        dense, pruned = (
            DemoModel(
                name,
                self.root / name,
                self.root / f"{name}-bundle",
                self.root / f"{name}-scores",
            )
            for name in ("dense", "pruned")
        )
        return dense, pruned


def measure_latency(models: Sequence[DemoModel], with_kernels: bool) -> dict[str, float]:
    """Milliseconds of one image on one thread, all engines in turn.

    The smallest of the medians of LATENCY_BLOCKS blocks: work beside the demo slows some of them.

    Returns:
        `dense` and `pruned` in ONNX Runtime, and `kernels`: the pruned model's generated library.
    """
    from pneumonia.runtime.engines import open_engine
    from pneumonia.runtime.engines.comparison import interleaved_latency
    from pneumonia.runtime.storage.bundle import load_bundle

    bundles = {model.name: load_bundle(str(model.bundle)) for model in models}
    engines = {n: open_engine(bundle, "onnxruntime", 1) for n, bundle in bundles.items()}
    if with_kernels:
        engines["kernels"] = open_engine(bundles["pruned"], "kernels", 1)
    blocks = [interleaved_latency(engines, LATENCY_ROUNDS) for _ in range(LATENCY_BLOCKS)]
    return {name: min(block[name] for block in blocks) for name in engines}


def demo_result(
    document: Mapping[str, Any], latency_ms: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Cost and accuracy of both models: the content of result.json.

    Args:
        document: compare.json of the dense (reference) and the pruned model.

    Returns:
        `dense` and `pruned` (parameters, macs, file_bytes, rsna, ap50), `latency_ms`.
    """
    comparison = document["comparisons"][0]
    metrics = {"rsna": f"rsna.{document['point']}", "ap50": "coco.ap50"}
    found: dict[str, dict[str, float]] = {"latency_ms": dict(latency_ms)}
    for name, side in (("dense", "reference"), ("pruned", "value")):
        cost = document["cost"][name]
        found[name] = {
            **{key: cost[key] for key in ("parameters", "macs", "file_bytes")},
            **{k: comparison["metrics"][m][side]["value"] for k, m in metrics.items()},
        }
    return found


def result_rows(result: Mapping[str, Mapping[str, float]]) -> list[ResultRow]:
    """The table of a `demo_result`."""
    dense, pruned, latency_ms = result["dense"], result["pruned"], result["latency_ms"]
    rows = []
    for title, key, unit, digits in (
        ("parameters", "parameters", 1, 0),
        ("MACs per image, millions", "macs", 1e6, 1),
        ("weights file, kB", "file_bytes", 1e3, 0),
    ):
        before, after = (f"{side[key] / unit:,.{digits}f}" for side in (dense, pruned))
        rows.append(ResultRow(title, before, after, f"{dense[key] / pruned[key]:.1f}x less"))
    rows.append(_latency_row("latency, ms", latency_ms, "pruned"))
    title = "latency, ms, generated kernels"
    if "kernels" in latency_ms:
        rows.append(_latency_row(title, latency_ms, "kernels"))
    else:
        rows.append(ResultRow(title, f"{latency_ms['dense']:.2f}", "none", ""))
    for title, key in (("RSNA score, test phantoms", "rsna"), ("AP50, test phantoms", "ap50")):
        change = f"{pruned[key] - dense[key]:+.3f}"
        rows.append(ResultRow(title, f"{dense[key]:.3f}", f"{pruned[key]:.3f}", change))
    return rows


def _latency_row(title: str, latency_ms: Mapping[str, float], engine: str) -> ResultRow:
    dense, pruned = latency_ms["dense"], latency_ms[engine]
    return ResultRow(title, f"{dense:.2f}", f"{pruned:.2f}", f"{dense / pruned:.1f}x faster")


def write_page(
    folder: DemoFolder,
    document: Mapping[str, Any],
    result: Mapping[str, Mapping[str, float]],
    note: str,
    commands: Sequence[str],
) -> tuple[Path, Path]:
    """Write index.html and side-by-side.png into the demo's folder.

    Args:
        folder: Holds both models, scored and compared.
        document: compare.json.
        note: Reason why there are no generated kernels, else empty.
        commands: What to type for the same on RSNA data.

    Returns:
        The page and the picture.
    """
    from evaluation.report.page import render
    from pneumonia.runtime.atomic import write_bytes, write_text

    rows = result_rows(result)
    pairs = _picture_pairs(document, folder)
    picture = folder.root / "side-by-side.png"
    write_bytes(str(picture), _png(_sheet([image for image, _ in pairs])))
    latency = next(row for row in reversed(rows) if "latency" in row.title and row.change)
    cards = [
        _card("Parameters", rows[0]),
        _card("Latency, one thread", latency, " ms"),
        _card("RSNA score on test phantoms", rows[-2]),
        _card("AP50 on test phantoms", rows[-1]),
    ]
    context = {
        "title": "A detector trained, pruned and measured on phantoms",
        "subtitle": "YOLOv3 of 106 layers, an eighth of its width; ADMM pruning of filters and "
        "columns, learning from the dense network; synthetic chest films, no patient",
        "cards": cards,
        "header": ("dense", "pruned", "change"),
        "rows": rows,
        "notes": _notes(document, note),
        "picture_note": PICTURE_NOTE,
        "pairs": [
            {"data_uri": _data_uri(image), "width": image.width, "height": image.height,
             "caption": caption}
            for image, caption in pairs
        ],
        "figures": _curves(folder.models),
        "links": _links(folder),
        "commands": commands,
    }  # fmt: skip
    page = folder.root / "index.html"
    write_text(str(page), render("demo.html.j2", context))
    return page, picture


def _card(label: str, row: ResultRow, unit: str = "") -> dict[str, str]:
    detail = f"{row.dense} → {row.pruned}{unit}"
    return {"label": label, "value": row.change, "detail": detail}


def _notes(document: Mapping[str, Any], note: str) -> list[str]:
    images = document["comparisons"][0]["metrics"]["image.auroc"]["reference"]["n"]
    measured = (
        f"Accuracy on {images} test phantoms, with intervals in the report; phantoms are far "
        "easier than patients. Latency: one image on one thread of this machine, engines in turn, "
        "dense in ONNX Runtime, pruned in ONNX Runtime and as generated C."
    )
    return [measured, note] if note else [measured]


def _curves(models: Sequence[DemoModel]) -> list[Any]:
    from evaluation.report.page import ExtraFigure

    captions = {
        "loss.png": "Loss while training the dense model",
        "metrics.png": "Validation while training the dense model",
        "residuals.png": "ADMM residuals while pruning",
    }
    return [
        ExtraFigure((model.run / name).read_bytes(), caption)
        for name, caption in captions.items()
        for model in models
        if (model.run / name).is_file()
    ]


def _links(folder: DemoFolder) -> list[dict[str, str]]:
    text = "Dense against pruned: intervals, curves, subgroups, changed cases"
    wanted = [(folder.report / "compare.html", text)]
    for model in folder.models:
        wanted.append((model.scores / "report.html", f"Reading list of the {model.name} model"))
        wanted.append((model.bundle / "model_card.md", f"Model card of the {model.name} model"))
    found = [(path, text) for path, text in wanted if path.is_file()]
    return [{"href": str(path.relative_to(folder.root)), "text": text} for path, text in found]


def _picture_pairs(
    document: Mapping[str, Any], folder: DemoFolder
) -> "list[tuple[Image.Image, str]]":
    """Pictures with the dense model's boxes left and the pruned one's right, and captions."""
    from pneumonia.api.evaluation_inputs import StudyOptions
    from pneumonia.runtime.label_table import LABEL_FRAME

    cases = {
        model.name: StudyOptions(frame=LABEL_FRAME).read_cases(
            model.scores / "predictions.csv", folder.labels
        )
        for model in folder.models
    }
    point = document["point"]
    thresholds = {n: document["thresholds"][n]["points"][point] for n in cases}
    first = cases["dense"]
    order = sorted(range(len(first)), key=lambda i: first.ids[i])
    positive = [i for i in order if len(first.truths[i])][:POSITIVE_SHOWN]
    negative = [i for i in order if not len(first.truths[i])][:NEGATIVE_SHOWN]
    return [
        (
            _pair([(name, cases[name], i, thresholds[name]) for name in cases], folder.studies),
            f"{first.ids[i]}: " + ("with an opacity" if i in positive else "without an opacity"),
        )
        for i in positive + negative
    ]


def _pair(
    sides: "Sequence[tuple[str, EvaluationCases, int, float]]", studies: Path
) -> "Image.Image":
    """Tiles side by side, each below its model's name."""
    from PIL import Image, ImageDraw, ImageFont

    tiles = [_tile(cases, index, threshold, studies) for _, cases, index, threshold in sides]
    width = sum(tile.width for tile in tiles) + GAP_PX * (len(tiles) - 1)
    canvas = Image.new("RGB", (width, STRIP_PX + max(tile.height for tile in tiles)), "white")
    pen = ImageDraw.Draw(canvas)
    x = 0
    for (name, *_), tile in zip(sides, tiles, strict=True):
        pen.text((x + 2, 2), name, fill=(31, 41, 51), font=ImageFont.load_default(size=20))
        canvas.paste(tile, (x, STRIP_PX))
        x += tile.width + GAP_PX
    return canvas


def _tile(cases: "EvaluationCases", index: int, threshold: float, studies: Path) -> "Image.Image":
    """A phantom with its truth and a model's boxes at or above the threshold."""
    import numpy as np
    from PIL import Image

    from evaluation.report.overlays import draw_tile
    from evaluation.study.image_files import find_image, read_pixels

    path = find_image(studies, cases.ids[index])
    assert path is not None  # the demo scored these files
    scale = np.tile(cases.scales[index], 2)
    shown = cases.scores[index] >= threshold
    width, height = (int(value) for value in cases.sizes[index])
    jpeg = draw_tile(
        read_pixels(path),
        (width, height),
        cases.truths[index] / scale,
        cases.boxes[index][shown] / scale,
        cases.scores[index][shown],
    )
    return Image.open(io.BytesIO(jpeg))


def _sheet(pairs: "Sequence[Image.Image]") -> "Image.Image":
    """All pairs on one picture, two in a row, with the disclaimer below."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = pairs[0].width, max(pair.height for pair in pairs)
    n_rows = -(-len(pairs) // 2)
    size = (2 * width + 3 * GAP_PX, n_rows * (height + 2 * GAP_PX) + STRIP_PX)
    canvas = Image.new("RGB", size, "white")
    for number, pair in enumerate(pairs):
        row, column = divmod(number, 2)
        canvas.paste(pair, (column * (width + 3 * GAP_PX), row * (height + 2 * GAP_PX)))
    pen = ImageDraw.Draw(canvas)
    text = "blue: opacity as painted; orange: box of the model. Synthetic films. " + DISCLAIMER
    where = (GAP_PX, size[1] - STRIP_PX + 2)
    pen.text(where, text, fill=(82, 96, 109), font=ImageFont.load_default(size=18))
    return canvas


def _png(image: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _data_uri(image: "Image.Image") -> str:
    from pneumonia.runtime.image.raster import picture_uri

    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return picture_uri(buffer.getvalue())
