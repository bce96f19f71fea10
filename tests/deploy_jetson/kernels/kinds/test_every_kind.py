"""What holds for every kernel kind of the registry.

Spans: deploy_jetson.kernels.kinds.
"""

from pathlib import Path

import pytest

from deploy_jetson.kernels.compile.lower import lower
from deploy_jetson.kernels.compile.source import family_texts
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.columns.choice import ColumnsChoice
from deploy_jetson.kernels.kinds.registry import (
    FAMILIES,
    KINDS,
    candidates,
    cheapest,
    kind_of,
    predicted_cycles,
)
from deploy_jetson.kernels.plan.layer_problem import problems_of
from deploy_jetson.kernels.plan.steps import KernelStep
from deploy_jetson.kernels.targets import HALF, TARGETS
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from tests.deploy_jetson.kernels.cases import CASES, GOLDEN_CASES, legal_choices
from tests.deploy_jetson.kernels.networks import (
    keep_columns,
    keep_patterns,
    keep_some,
    layer_problem,
    one_layer,
    one_layer_many_times,
    random_image,
    random_tensors,
    random_weight,
    reference,
    relative_error,
)
from tests.deploy_jetson.kernels.programs import (
    EACH_ARM_TARGET,
    EACH_TARGET,
    HERE,
    assert_close,
    choosing,
    emulated,
    generated,
    needs_gcc,
    needs_target,
    run_emulated,
    run_poisoned,
    run_program,
)

GOLDEN = Path(__file__).parent / "golden"
HALF_ERROR = 4e-3  # of float16 sums


def test_every_kind_has_a_case():
    assert set(CASES) == set(KINDS)
    assert {KINDS[name].family.name for name in GOLDEN_CASES} == set(FAMILIES)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", KINDS)
def test_a_kind_offers_costs_and_describes_its_choices(name, target):
    kind = KINDS[name]
    problem = CASES[name].problem()
    legal = legal_choices(name, TARGETS[target])
    groups = {dot.group for dot in TARGETS[target].dots}
    wanted = {"dots": groups, "winograd_dots": groups & {2}}
    assert bool(legal) == bool(wanted.get(name, True))
    assert len(legal) == len(set(legal))
    for choice in legal:
        assert kind_of(choice) is kind
        assert predicted_cycles(LayerAnalysis(problem), choice, TARGETS[target]) > 0
        assert kind.describe(choice)
        assert isinstance(hash(kind.tuning_group(choice)), int)
        assert isinstance(kind.details(problem, choice), dict)


def test_winograd_is_chosen_for_dense_layers_and_columns_for_sparse_ones():
    target = TARGETS["x86-avx512"]
    weight = random_weight(256, 128, 3, 3)
    assert kind_of(cheapest(layer_problem(weight, 52, 52), target)).name == "winograd"
    sparse = keep_columns(weight, 0.1, 0)
    assert kind_of(cheapest(layer_problem(sparse, 52, 52), target)).name == "columns"


@needs_gcc
@needs_target
@pytest.mark.slow
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize("sparsity", ["columns", "patterns", "single weights"])
def test_every_legal_choice_gives_the_same_answer(tmp_path, target, sparsity):
    """The registry drives this: no kernel exists untested."""
    spec = one_layer((20, 37, 11, 15), skip=True)
    tensors = random_tensors(spec)
    keep = {"columns": keep_columns, "patterns": keep_patterns, "single weights": keep_some}
    tensors["tested.weight"] = keep[sparsity](tensors["tested.weight"], 0.4)
    problem = problems_of(spec, tensors)["tested"]
    legal = list(candidates(LayerAnalysis(problem), TARGETS[target]))
    kinds = {kind_of(choice).name for choice in legal}
    assert kinds >= {"columns", "winograd"}
    assert ("pattern" in kinds) == (sparsity == "patterns")
    assert "taps" in kinds or sparsity == "columns"
    image = random_image(spec)
    expected = reference(spec, tensors, image)["sum"]
    many = one_layer_many_times(spec, len(legal))
    for name in ("weight", "bias"):
        for number in range(len(legal)):
            tensors[f"tested{number}.{name}"] = tensors[f"tested.{name}"]

    def choose(problem):
        number = problem.layer.name[len("tested") :]
        return legal[int(number)] if number.isdigit() else ColumnsChoice(1, 1, 3)

    made = generated(tmp_path, many, tensors, target, choose)
    found = KernelLibrary(str(made.library)).run(image)
    for number, choice in enumerate(legal):
        assert relative_error(found[f"sum{number}"], expected) <= 1e-4, choice


@pytest.mark.slow
@needs_gcc
@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize("kind", KINDS)
def test_no_step_reads_what_none_has_written(tmp_path, target, kind):
    spec, tensors = CASES[kind].spec, CASES[kind].tensors()
    legal = legal_choices(kind, TARGETS[target])
    if not legal:
        pytest.skip(f"{target} has no instruction for this kind")
    for index in sorted({0, len(legal) // 2, len(legal) - 1}):
        folder = tmp_path / str(index)
        choose = choosing(target, legal[index])
        found, expected = run_poisoned(
            folder, spec, tensors, target, choose, quantization=CASES[kind].quantization()
        )
        assert_close(found, expected, CASES[kind].limit)


@pytest.mark.slow
@needs_gcc
@needs_target
@pytest.mark.parametrize("kind", KINDS)
def test_sanitizers_find_nothing(tmp_path, kind):
    target = HERE[-1]
    spec, tensors = CASES[kind].spec, CASES[kind].tensors()
    legal = legal_choices(kind, TARGETS[target])
    in_pieces = ColumnsChoice(4, 2, 3, 1500, 6)
    choice = in_pieces if kind == "columns" else legal[3 % len(legal)]
    build = [
        "gcc", "-std=gnu11", "-O1", "-g", "-ffp-contract=fast", *TARGETS[target].flags,
        "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
    ]  # fmt: skip
    found, expected = run_program(
        tmp_path, (spec, tensors), target, build, choose=choosing(target, choice), threads="2",
        quantization=CASES[kind].quantization(),
    )  # fmt: skip
    assert_close(found, expected, CASES[kind].limit)


@emulated
@pytest.mark.parametrize("target", EACH_ARM_TARGET)
@pytest.mark.parametrize("kind", KINDS)
def test_on_arm(tmp_path, kind, target):
    spec, tensors = CASES[kind].spec, CASES[kind].tensors()
    legal = legal_choices(kind, TARGETS[target])
    if not legal:
        pytest.skip(f"{target} has no instruction for this kind")
    for number in sorted({0, 5 % len(legal)}):
        folder = tmp_path / str(number)
        folder.mkdir()
        choose = choosing(target, legal[number])
        found, expected = run_emulated(
            folder, spec, tensors, choose, target=target, quantization=CASES[kind].quantization()
        )
        half = TARGETS[target].number is HALF
        assert_close(found, expected, max(CASES[kind].limit, HALF_ERROR if half else 0))


def golden_text(kind):
    """The C file of a kind's family for the one kernel of its golden case, on AVX2."""
    case, target = GOLDEN_CASES[kind], TARGETS["x86-avx2"]
    choice = KINDS[kind].choice(*case.golden)

    def choose(problem):
        return choice if problem.layer.name == "tested" else ColumnsChoice(7, 1, 5)

    plan = lower(case.spec, case.tensors(), target, choose)
    name = KINDS[kind].family.name
    variants = [
        variant
        for step in plan.steps
        if isinstance(step, KernelStep) and step.name == "tested"
        for variant in step.variants(target)
    ]
    return name, family_texts(name, variants, target)[f"{name}.c"]


@pytest.mark.parametrize("kind", GOLDEN_CASES)
def test_generated_c_is_the_golden_c(kind):
    """After a wanted change: python -m tests.deploy_jetson.kernels.kinds.test_every_kind."""
    name, text = golden_text(kind)
    assert text == (GOLDEN / f"{name}.c").read_text()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for golden_kind in GOLDEN_CASES:
        stem, golden = golden_text(golden_kind)
        (GOLDEN / f"{stem}.c").write_text(golden)
