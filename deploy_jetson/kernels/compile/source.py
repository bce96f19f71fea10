"""Writes a plan as C: the runtime, the kernels of every family, the network and its weights."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deploy_jetson.kernels.compile.lower import NetworkPlan
from deploy_jetson.kernels.kinds.registry import FAMILIES
from deploy_jetson.kernels.plan.box_decoding import box_decoding
from deploy_jetson.kernels.plan.c_values import initialiser, string_literal
from deploy_jetson.kernels.plan.steps import KernelStep, StepRecord, Variant, variants_of
from deploy_jetson.kernels.plan.weight_store import WeightStore
from deploy_jetson.kernels.targets import Target
from deploy_jetson.kernels.templates import KERNELS, render

RUNTIME = KERNELS / "c"
RUNTIME_FILES = ("pneumonia_model.h", "engine.h", "engine.c", "expand.c", "rounding.h",
                 "quantize.c", "detect.c", "cores.c")  # fmt: skip
NETWORK = "network.c"
WEIGHTS = "weights.bin"
WEIGHTS_SOURCE = "weights.S"
LINE_COLUMNS = 110


class CSources(NamedTuple):
    """Everything the compiler needs."""

    texts: dict[str, str]  # file name -> C text
    weights: bytes  # contents of weights.bin
    records: tuple[StepRecord, ...]  # the step table
    image_bytes: int  # memory of the weights and lists as the kernels read them


def write_plan(
    plan: NetworkPlan, model_hash: str, points: Mapping[str, float] | None = None
) -> CSources:
    """All sources of a network; the same plan always gives the same bytes.

    Args:
        model_hash: Stored in the library.
        points: Operating point -> threshold, the default one first.
    """
    store = WeightStore(plan.target.number.dtype)
    records = tuple(r for step in plan.steps for r in step.records(store, plan.target))
    file = store.file(plan.storage)
    kernel_steps = [step for step in plan.steps if isinstance(step, KernelStep)]
    variants = variants_of(plan.steps, plan.target)
    texts = kernel_texts(plan.target, variants)
    texts[NETWORK] = render(
        "network.c.j2",
        plan=plan,
        records=records,
        shapes=plan.spec.shapes(),
        scratch_floats=max([step.scratch_floats(plan.target) for step in kernel_steps], default=0),
        model_hash=model_hash,
        file=file,
        decoding=box_decoding(plan.spec, points or {}),
        families=sorted({variant.family for variant in variants}),
        initialiser=initialiser,
        wrapped=_wrapped,
        comment=lambda name: name.encode("ascii", "replace").decode().replace("*/", "* /"),
        string_literal=string_literal,
    )
    texts[WEIGHTS_SOURCE] = render("weights.S.j2", file=WEIGHTS)
    return CSources(texts, file.data, records, file.image_bytes)


def _wrapped(text: str) -> str:
    """An initialiser in lines of about LINE_COLUMNS, broken after commas."""
    lines = [""]
    for part in text.split(", "):
        if lines[-1] and len(lines[-1]) + len(part) > LINE_COLUMNS:
            lines.append("")
        lines[-1] += part + ", "
    return "\n    ".join(line.rstrip() for line in lines).removesuffix(",")


def kernel_texts(target: Target, variants: Sequence[Variant]) -> dict[str, str]:
    """The files that depend on the target and the kernels, not on the network."""
    texts = {name: (RUNTIME / name).read_text(encoding="utf-8") for name in RUNTIME_FILES}
    texts["target.h"] = render("target.h.j2", target=target)
    families = sorted({variant.family for variant in variants})
    texts["kernels.h"] = render("kernels.h.j2", families=families)
    for name in families:
        own = [variant for variant in variants if variant.family == name]
        texts.update(family_texts(name, own, target))
    return texts


def family_texts(name: str, variants: Sequence[Variant], target: Target) -> dict[str, str]:
    """Header and C file of one kernel family."""
    context = FAMILIES[name].context(variants, target)
    return {f"{name}.{kind}": render(f"{name}/{name}.{kind}.j2", **context) for kind in ("h", "c")}
