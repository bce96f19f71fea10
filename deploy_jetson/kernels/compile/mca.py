"""Static analysis of hot loops: spills counted in the assembly, cycles by llvm-mca.

For machines that cannot be run here, such as the Jetson's Cortex-A57. The scheduling model assumes
hits in the first-level cache: an upper bound of the rate, good for ranking and for finding spills.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deploy_jetson.kernels.compile.compilers import Compiler, find_compiler, run_compiler
from deploy_jetson.kernels.compile.scratch import write_scratch
from deploy_jetson.kernels.compile.source import kernel_texts
from deploy_jetson.kernels.plan.steps import Variant
from deploy_jetson.kernels.targets import Target

NEWEST_LLVM, OLDEST_LLVM = 23, 14
# the newest first: an older one has no models of newer cores
MCA_NAMES = (*(f"llvm-mca-{n}" for n in range(NEWEST_LLVM, OLDEST_LLVM - 1, -1)), "llvm-mca")
ITERATIONS = 100
HOT_SHARE = 0.35  # of a loop's instructions are multiply-adds; transforms and copies have fewer
FUSED = re.compile(r"^\s*(fmla|vfmadd\d+ps|sdot|vpmaddwd)\b")
BRANCH = re.compile(r"^\s*(?:b\.?\w*|cbn?z|tbn?z|j\w+)\s+(?:.*,\s*)?(\.L\w+)\s*$")
LABEL = re.compile(r"^(\.L\w+):")
FUNCTION = re.compile(r"^([A-Za-z_][\w.]*):")
STACK = re.compile(r"\[sp|\[x29|\(%rsp|\(%rbp|\[fp")


class HotLoop(NamedTuple):
    """One innermost loop with multiply-adds."""

    function: str  # C function it is in
    fused: int  # vector multiply-adds of one iteration
    instructions: int  # all instructions
    spills: int  # instructions that touch the stack
    # multiply-adds per cycle by llvm-mca; None when no llvm-mca here models the core
    per_cycle: float | None


def find_mca() -> str | None:
    """The newest llvm-mca that is installed."""
    return next((name for name in MCA_NAMES if shutil.which(name)), None)


def has_model(program: str, target: Target) -> bool:
    """Whether an llvm-mca program models the target's core."""
    if target.model is None:
        return False
    done = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    version = re.search(r"LLVM version (\d+)", done.stdout)
    return bool(version and int(version.group(1)) >= target.model.since)


def hot_loops(target: Target, variants: Sequence[Variant]) -> list[HotLoop]:
    """Compile the kernels to assembly and analyse their innermost loops.

    Raises:
        DeviceError, ExportError: No compiler, or it fails.
    """
    compiler = find_compiler(target)
    found: list[HotLoop] = []
    with tempfile.TemporaryDirectory(prefix="pneumonia-mca-") as scratch:
        folder = Path(scratch)
        write_scratch(folder, kernel_texts(target, variants))
        for family in sorted({variant.family for variant in variants}):
            assembly = compile_assembly(folder, f"{family}.c", target, compiler)
            found += analyse(assembly, target)
    return found


def compile_assembly(folder: Path, source: str, target: Target, compiler: Compiler) -> str:
    """A C file of a folder as assembly text."""
    run_compiler(
        [*compiler.command, *compiler.flags(target), "-S", "-fPIC", source, "-o", "kernels.s"],
        folder,
    )
    return (folder / "kernels.s").read_text(encoding="utf-8")


def analyse(assembly: str, target: Target) -> Iterator[HotLoop]:
    """Hot loops of assembly text."""
    program = find_mca()
    if program and not has_model(program, target):
        program = None
    for function, body in innermost_loops(assembly):
        fused = sum(bool(FUSED.match(line)) for line in body)
        spills = sum(bool(STACK.search(line)) for line in body)
        per_cycle = None
        if program and target.model:
            per_cycle = fused / _cycles(program, body, target.machine, target.model.core)
        yield HotLoop(function, fused, len(body), spills, per_cycle)


def innermost_loops(assembly: str) -> Iterator[tuple[str, list[str]]]:
    """(function, instructions) of every innermost loop that is mostly multiply-adds."""
    function, labels, lines = "", {}, []  # type: str, dict[str, int], list[str]
    last_loop = -1  # first line of the innermost loop found last
    for line in assembly.splitlines():
        if found := FUNCTION.match(line):
            function, labels, lines, last_loop = found.group(1), {}, [], -1
        elif found := LABEL.match(line):
            labels[found.group(1)] = len(lines)
        elif line.startswith("\t") and not line.lstrip().startswith((".", "//", "#", "@")):
            lines.append(line.split("//")[0].rstrip())
            target = BRANCH.match(line)
            start = labels.get(target.group(1)) if target else None
            if start is not None and start > last_loop:
                body = lines[start:]
                last_loop = start
                if sum(bool(FUSED.match(item)) for item in body) >= HOT_SHARE * len(body):
                    yield function, body


def _cycles(program: str, body: list[str], triple: str, cpu: str) -> float:
    """Cycles of one iteration."""
    done = subprocess.run(
        [program, f"-mtriple={triple}", f"-mcpu={cpu}", f"-iterations={ITERATIONS}", "-"],
        input="\n".join(body) + "\n", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    match = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert match, "llvm-mca prints the total"
    return int(match.group(1)) / ITERATIONS
