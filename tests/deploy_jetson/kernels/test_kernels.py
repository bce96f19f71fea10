"""Every kernel kind against NumPy, by running: x86 here, the A57 under qemu."""

import numpy as np
import pytest

from deploy_jetson.kernels import chain, steps
from deploy_jetson.kernels.choices import (
    ColumnsChoice,
    PatternChoice,
    RowsChoice,
    TapsChoice,
    WinogradChoice,
)
from deploy_jetson.kernels.cost import candidates, cheapest
from deploy_jetson.kernels.lower import problems_of
from deploy_jetson.kernels.targets import TARGETS
from pneumonia.runtime.engines.kernels import KernelLibrary
from tests.deploy_jetson.kernels.networks import (
    every_op,
    keep_columns,
    keep_patterns,
    keep_some,
    one_layer,
    one_layer_many_times,
    random_image,
    random_tensors,
    reference,
    relative_error,
    residual_tower,
)
from tests.deploy_jetson.kernels.programs import (
    A57,
    EACH_TARGET,
    HERE,
    assert_close,
    darb,
    forced,
    fully_connected,
    generated,
    needs_gcc,
    needs_target,
    run,
    run_on_a57,
    run_program,
)

pytestmark = needs_gcc


SHAPES = [(1, 1, 5, 3), (16, 16, 13, 13), (17, 35, 7, 11), (24, 18, 19, 26), (3, 70, 4, 31)]


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(
    ("kernel", "stride", "group", "density"),
    [(1, 1, 0, 1), (1, 2, 8, 0.3), (3, 1, 16, 0.2), (3, 2, 0, 0.1), (5, 1, 4, 0.5), (7, 2, 0, 1)],
)
def test_columns(tmp_path, target, kernel, stride, group, density):
    shape = SHAPES[(kernel + stride) % len(SHAPES)]
    spec = one_layer(shape, kernel, stride, skip=True)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_columns(tensors["tested.weight"], density, group)
    choose = forced(target, ColumnsChoice, index=kernel * 3 + stride)
    _, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize("piece_bytes", [1, 3000, 20_000])
@pytest.mark.parametrize(("kernel", "stride", "strip"), [(3, 1, 8), (3, 2, 0), (1, 1, 12)])
def test_columns_in_pieces(tmp_path, target, piece_bytes, kernel, stride, strip):
    spec = one_layer((24, 50, 19, 26), kernel, stride, skip=True)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_columns(tensors["tested.weight"], 0.4, 16)
    tensors["tested.weight"][32:48] = 0  # a panel without weights has one empty piece

    def choose(problem):
        if problem.layer.name == "tested":
            return ColumnsChoice(5, 2, 7, piece_bytes, strip)
        return cheapest(problem, TARGETS[target])

    made, found, expected = run(tmp_path, spec, tensors, target, choose, threads=2)
    assert "columns_5x2" in "".join(record.run for record in made.sources.records)
    assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(("out_tile", "shape"), list(zip([2, 4, 6], SHAPES[1:4], strict=True)))
def test_winograd(tmp_path, target, out_tile, shape, monkeypatch):
    monkeypatch.setattr(steps, "PIECE_BYTES", 1200 * out_tile)  # several pieces, and one
    spec = one_layer(shape, skip=out_tile == 4)
    tensors = random_tensors(spec)
    tensors["tested.weight"][:, 0] = 0  # a channel that is not read
    choose = forced(target, WinogradChoice, index=shape[0], out_tile=out_tile)
    _, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize("shape", [*SHAPES[2:], (9, 12, 6, 64)])
def test_free_patterns(tmp_path, target, shape):
    legal_frames = 1 if shape[0] % 3 == 0 else 3
    filters = 2 if shape[2] > 7 and shape[0] % 2 else 1
    spec = one_layer(shape, skip=filters == 2)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_patterns(tensors["tested.weight"], 0.4)
    tensors["tested.weight"][shape[1] // 2] = 0  # an empty filter
    choose = forced(target, PatternChoice, index=shape[0], filters=filters, frames=legal_frames)
    made, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert_close(found, expected, 1e-4)
    assert any("pattern" in record.run for record in made.sources.records)


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(
    "patterns",
    [((0,), (1,), (2, 5), (3, 6, 7, 8), (4,)), ((2,), (5,)), tuple((t,) for t in range(9))],
    ids=["of any length", "two single taps", "every single tap"],
)
def test_patterns_are_told_apart_from_single_taps(tmp_path, target, patterns):
    """Few columns of a group look like patterns, of one tap each some of them."""
    spec = one_layer((17, 35, 7, 11))
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_patterns(tensors["tested.weight"], 0.5, patterns=patterns)
    for number in range(3):
        choose = forced(target, PatternChoice, index=number * 4)
        folder = tmp_path / str(number)
        _, found, expected = run(folder, spec, tensors, target, choose)
        assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("target", HERE[:1])
@pytest.mark.parametrize(("kernel", "shape"), [(3, (24, 18, 19, 26)), (1, (17, 35, 7, 11))])
def test_single_taps(tmp_path, target, kernel, shape):
    spec = one_layer(shape, kernel, skip=kernel == 1)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep_some(tensors["tested.weight"], 0.2)
    choose = forced(target, TapsChoice, index=kernel, frames=kernel)
    made, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert any(record.run.startswith("taps") for record in made.sources.records)
    assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("target", HERE[:1])
@pytest.mark.parametrize("vectors", [1, 2])
def test_darb_rows(tmp_path, target, vectors):
    spec = fully_connected(37)
    tensors = random_tensors(spec)
    tensors["tested.weight"] = darb(tensors["tested.weight"])
    choose = forced(target, RowsChoice, vectors=vectors)
    made, found, expected = run(tmp_path, spec, tensors, target, choose)
    assert "run_rows" in {record.run for record in made.sources.records}
    assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.slow
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize("sparsity", ["columns", "patterns", "single weights"])
def test_every_legal_choice_gives_the_same_answer(tmp_path, target, sparsity):
    """The table of variants drives this: no kernel exists untested."""
    spec = one_layer((20, 37, 11, 15), skip=True)
    tensors = random_tensors(spec)
    keep = {"columns": keep_columns, "patterns": keep_patterns, "single weights": keep_some}
    tensors["tested.weight"] = keep[sparsity](tensors["tested.weight"], 0.4)
    legal = list(candidates(problems_of(spec, tensors)["tested"], TARGETS[target]))
    kinds = {type(choice) for choice in legal}
    assert kinds >= {ColumnsChoice, WinogradChoice}
    assert (PatternChoice in kinds) == (sparsity == "patterns")
    assert TapsChoice in kinds or sparsity == "columns"
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


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize("threads", [1, 3])
def test_whole_network_of_every_op(tmp_path, target, threads):
    spec = every_op()
    tensors = random_tensors(spec)
    tensors["c8.weight"][5:9] = 0  # empty filters: nothing but the bias is left
    tensors["c3.weight"][:] = 0  # an empty layer
    _, found, expected = run(tmp_path, spec, tensors, target, threads=threads)
    assert_close(found, expected, 1e-4)


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize(("scratch", "threads"), [(8_000, 1), (60_000, 2)])
def test_chains_of_bands(tmp_path, target, threads, scratch, monkeypatch):
    monkeypatch.setattr(chain, "WORTH_BYTES", 0)
    monkeypatch.setattr(chain, "SCRATCH_BYTES", scratch)  # bands of one row, and of many
    spec = residual_tower()
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith(".weight"):
            tensors[name] = keep_columns(tensors[name], 0.5, 8)

    def choose(problem):
        legal = candidates(problem, TARGETS[target])
        return next(choice for choice in legal if isinstance(choice, ColumnsChoice))

    made, found, expected = run(tmp_path, spec, tensors, target, choose, threads)
    lengths = [len(r.chain) for r in made.sources.records if r.chain]
    assert lengths
    assert scratch < 60_000 or max(lengths) == 3
    assert_close(found, expected, 1e-4)


@needs_target
def test_runs_repeat_and_instances_do_not_share(tmp_path):
    spec = residual_tower()
    tensors = random_tensors(spec)
    path = str(generated(tmp_path, spec, tensors).library)
    one, two = KernelLibrary(path, threads=2), KernelLibrary(path)
    images = [random_image(spec, seed) for seed in range(3)]
    first = [one.run(image)["sum2"] for image in images]
    for image, value in zip(images, first, strict=True):
        np.testing.assert_array_equal(two.run(image)["sum2"], value)
        np.testing.assert_array_equal(one.run(image)["sum2"], value)
    one.close()
    two.close()


@needs_target
@pytest.mark.parametrize("threads", ["1", "2"])
def test_address_and_undefined_sanitizers_find_nothing(tmp_path, threads, monkeypatch):
    monkeypatch.setattr(chain, "WORTH_BYTES", 0)
    target = HERE[-1]
    spec = residual_tower((6, 20, 33)) if threads == "2" else every_op()
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith(".weight"):
            tensors[name] = keep_columns(tensors[name], 0.6, 8)
    build = [
        "gcc", "-std=gnu11", "-O1", "-g", "-ffp-contract=fast", *TARGETS[target].flags,
        "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
    ]  # fmt: skip
    found, expected = run_program(tmp_path, (spec, tensors), target, build, threads=threads)
    assert_close(found, expected, 1e-4)


@A57
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a57_whole_network(tmp_path, threads):
    spec = every_op()
    tensors = random_tensors(spec)
    found, expected = run_on_a57(tmp_path, spec, tensors, threads=threads)
    assert_close(found, expected, 1e-4)


@A57
@pytest.mark.parametrize("kind", [ColumnsChoice, WinogradChoice, PatternChoice, TapsChoice])
def test_a57_kernel_kinds(tmp_path, kind):
    for number, shape in enumerate([(17, 35, 7, 11), (5, 22, 9, 13)]):
        spec = one_layer(shape, skip=number == 0)
        tensors = random_tensors(spec)
        if kind is PatternChoice:
            tensors["tested.weight"] = keep_patterns(tensors["tested.weight"], 0.4)
        if kind is ColumnsChoice:
            tensors["tested.weight"] = keep_columns(tensors["tested.weight"], 0.3, 16)
        if kind is TapsChoice:
            tensors["tested.weight"] = keep_some(tensors["tested.weight"], 0.3)
        folder = tmp_path / str(number)
        folder.mkdir()
        choose = forced("cortex-a57", kind, index=number * 5)
        found, expected = run_on_a57(folder, spec, tensors, choose)
        assert_close(found, expected, 1e-4)


@A57
def test_a57_chains(tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "WORTH_BYTES", 0)
    spec = residual_tower()
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith(".weight"):
            tensors[name] = keep_columns(tensors[name], 0.3, 0)
    found, expected = run_on_a57(tmp_path, spec, tensors)
    assert_close(found, expected, 1e-4)
