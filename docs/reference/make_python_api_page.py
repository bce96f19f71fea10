"""Writes docs/reference/python-api.md from the public names of `pneumonia`; a test compares.

python docs/reference/make_python_api_page.py
"""

import inspect
import re
from pathlib import Path
from typing import Any

import pneumonia

PAGE = Path(__file__).with_name("python-api.md")
HEAD = """# Python API

Written by `docs/reference/make_python_api_page.py` from the docstrings; edit those and run it.

`import pneumonia` imports nothing else; each name below is loaded at its first use. The commands
`data`, `train`, `prune`, `finetune`, `quantize`, `export`, `kernels`, `score`, `evaluate` and
`compare` call these.
[examples/](../../examples/) has a short file for each. Other modules may change between releases;
these names follow SemVer. Errors are `pneumonia.PneumoniaError`s.
Research use only. Not a medical device.
"""
SECTIONS = {
    "Detect": ("Detector", "Detection", "read_radiograph", "Radiograph", "PneumoniaError"),
    "Datasets": (
        "make_phantoms", "import_rsna", "ImportOptions", "import_own_images", "OwnImageOptions",
        "DatasetOptions",
    ),
    "Score folders": ("score_batch", "ScoreSettings", "OutputSettings", "ScoreSummary"),
    "Train, prune, fine-tune, quantize, export, compile": (
        "train", "prune", "finetune", "quantize", "quantize_int8", "export", "compile_kernels",
        "RunOptions", "ExportOptions", "Int8Options", "FitResult", "CompressionResult",
        "Int8Result", "ExportResult", "KernelsResult",
    ),
    "Recipes as objects (keys: [recipes.md](recipes.md))": (
        "TrainRecipe", "PruneRecipe", "QuantizeRecipe", "FineTuneRecipe",
    ),
    "Measure": (
        "evaluate", "EvaluateOptions", "EvaluateResult", "compare", "ComparedModel",
        "CompareOptions", "CompareReport",
    ),
    "Prune your own torch network": (
        "from_torch", "ImportedNetwork", "NetworkPruning", "StructuredMethod", "DepthMethod",
        "to_torch", "write_onnx", "write_kernels", "KernelFile",
    ),
    "Masks and levels in any `torch.nn.Module`": (
        "ModuleCompression", "match_parameters", "Admm", "AdmmResidual",
    ),
    "Constraints": (
        "Constraint", "Projection", "PerLayer", "Irregular", "GlobalIrregular", "Filters",
        "Channels", "Columns", "Combined", "Patterns", "PatternConnectivity", "Blocks", "BlockMax",
        "DensityAdaptiveBlocks", "Quantized", "TERNARY", "BINARY", "ProgressiveSnap", "plan_bits",
        "conductance_step", "conductances",
    ),
}  # fmt: skip


def _short(text: str) -> str:
    """A parameter or signature without module names, quoted types and values of long defaults."""
    text = re.sub(r"ForwardRef\('([^']*)'\)", r"\1", text)
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    text = re.sub(r"Annotated\[([^,\[\]]+), [^\[\]]*\]", r"\1", text)
    text = re.sub(r"<(?:class|function) '?(?:\w+\.)*(\w+)[^>]*>", r"\1", text)
    text = re.sub(r"= (\w+)\((?:[^()]|\([^()]*\))+\)", r"= \1()", text)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", text)


def signature_text(name: str, target: Any) -> str:
    """`name(...)`, one parameter a line where it is long."""
    signature = inspect.signature(target)
    parameters = [_short(str(p)) for p in signature.parameters.values() if p.name != "self"]
    returns = signature.return_annotation
    end = ")"
    if returns not in (inspect.Signature.empty, None):
        end += _short(f" -> {inspect.formatannotation(returns)}")
    line = f"{name}({', '.join(parameters)}{end}"
    if len(line) <= 96:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), end])


def docstring_text(target: Any) -> str:
    """A docstring as Markdown: the items of Args, Attributes and Raises become lists."""
    found, section = [], ""
    for line in inspect.cleandoc(target.__doc__ or "").splitlines():
        heading = re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", line)
        item = re.match(r"    (?! )([\w, *`]+): (.*)", line)
        if heading:
            section = heading.group(1)
            found += [f"**{section}**", ""]
        elif item and section in ("Args", "Attributes", "Raises"):
            found.append(f"- `{item.group(1)}`: {item.group(2)}")
        elif section and line.startswith("    "):
            listed = section in ("Args", "Attributes", "Raises")
            found.append("  " + line.strip() if listed else line[4:])
        else:
            found.append(line)
    return "\n".join(found)


def entry(name: str) -> str:
    """One name: heading, signature, docstring, public methods."""
    target = getattr(pneumonia, name)
    if not (inspect.isclass(target) or inspect.isroutine(target)):
        return f"### `{name}`\n\n`{target!r}`, levels for `Quantized`.\n"
    parts = [f"### `{name}`\n\n```python\n{signature_text(name, target)}\n```\n"]
    parts.append(docstring_text(target) + "\n")
    if inspect.isclass(target):
        for key, method in vars(target).items():
            function = getattr(method, "__func__", method)
            if not key.startswith("_") and inspect.isfunction(function) and function.__doc__:
                bound = getattr(target, key)
                parts.append(f"```python\n{name}.{signature_text(key, bound)}\n```\n")
                parts.append(docstring_text(function) + "\n")
    return "\n".join(parts)


def contents() -> str:
    """All names by section, with links."""
    lines = []
    for title, names in SECTIONS.items():
        links = ", ".join(f"[{name}](#{name.lower()})" for name in names)
        lines.append(f"- **{re.sub(r' [(].*', '', title)}**: {links}")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD, contents()]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [entry(name) for name in names]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
