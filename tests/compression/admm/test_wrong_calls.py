"""Settings and modules that a researcher may get wrong: refused, and the valid ones are named.

Spans: pneumonia.compression.admm, pneumonia.compression.sets,
pneumonia.compression.network_pruning.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import pneumonia
from pneumonia.exporting.bundle import ExportOptions
from pneumonia.runtime.errors import PneumoniaError


def small():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))


def imported(**options):
    return pneumonia.from_torch(small(), torch.randn(2, 1, 8, 8), **options)


WEIGHT = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
PER_LAYER = pneumonia.PerLayer({"a": pneumonia.Irregular(4)})


def started(*more):
    admm = pneumonia.Admm([PER_LAYER], 1e-3, *more)
    admm.start({"a": nn.Parameter(WEIGHT.clone())})
    return admm


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: pneumonia.Columns(4, 5, "grp"), "group or layer"),
        (lambda: pneumonia.Columns(4, -1), "int >= 0"),
        (lambda: pneumonia.Combined(4, 4, budget="grp"), "group or layer"),
        (lambda: pneumonia.Combined(4, 4, n_random_starts=-1), "int >= 0"),
        (lambda: pneumonia.Patterns(group_size=-1), "int >= 0"),
        (lambda: pneumonia.PatternConnectivity(4, spread="even"), "layer or balanced"),
        (lambda: pneumonia.BlockMax(2.5), "int >= 0"),
        (lambda: pneumonia.DensityAdaptiveBlocks(200, "enery"), "density or energy"),
        (
            lambda: pneumonia.DensityAdaptiveBlocks(200, exponents=np.array([3, 3])).project(
                WEIGHT
            ),
            "8 ints of 0 to 5",
        ),
        (lambda: pneumonia.Quantized(3), "TERNARY"),
        (lambda: pneumonia.Quantized(pneumonia.TERNARY, mask=WEIGHT), "bool"),
        (
            lambda: pneumonia.Quantized(
                pneumonia.TERNARY, mask=torch.ones(3, dtype=torch.bool)
            ).project(WEIGHT),
            "8, 4, 3, 3",
        ),
        (lambda: pneumonia.Admm([PER_LAYER], 1e-3, "heldd"), "held or free"),
        (lambda: pneumonia.Admm([pneumonia.Irregular(4)], 1e-3), "PerLayer"),
        (lambda: pneumonia.Admm(PER_LAYER, 1e-3), "list"),
        (lambda: pneumonia.Admm([PER_LAYER], 1e-3).start({"b": WEIGHT}), "no 'a'"),
        (lambda: pneumonia.Admm([PER_LAYER], 1e-3).load_state({}), "0.z.a"),
        (lambda: started().pull({"a": WEIGHT}, float("nan")), "learning rate"),
        (lambda: started().set_rho(1.0, {"a": WEIGHT}, "rescal"), "rescale or restart"),
        (lambda: pneumonia.NetworkPruning(imported(), 2.0, kept="freee"), "held or free"),
        (lambda: pneumonia.ModuleCompression(nn.Linear, {}), "the class Linear itself"),
        (lambda: pneumonia.match_parameters(None, "*", pneumonia.Irregular), "torch.nn.Module"),
        (lambda: pneumonia.from_torch(small().state_dict(), WEIGHT), "OrderedDict"),
        (lambda: pneumonia.from_torch(nn.LazyLinear(3), torch.randn(2, 4)), "without values"),
        (lambda: pneumonia.from_torch(small().to("meta"), torch.randn(2, 1, 8, 8)), "meta"),
        (
            lambda: pneumonia.from_torch(small(), torch.randn(2, 3, 8, 8)),
            "does not run.*3 channels",
        ),
        (lambda: pneumonia.from_torch(small(), torch.randn(0, 1, 8, 8)), "not understood"),
        (lambda: imported(opaque=("1", "neck.*")), r"'neck\.\*'"),
        (lambda: pneumonia.write_onnx(imported(), "never.onnx", batch=0), "int >= 1"),
        (lambda: pneumonia.write_onnx(imported(), "never.onnx", batch=1.5), "int >= 1"),
        (lambda: pneumonia.export("x", "y", ExportOptions(weights="fp8")), "fp32 or fp16"),
        (lambda: pneumonia.export("x", "y", ExportOptions(checkpoint="bes")), "best or last"),
        (lambda: pneumonia.plan_bits({"a": 8, "b": 8}, {"a": {8: 0.0}}, 64), "a, b"),
        (lambda: pneumonia.plan_bits({"a": 8}, {"a": {8: float("nan")}}, 64), "not finite"),
        (lambda: pneumonia.plan_bits({"a": 8}, {"a": {}}, 64), "no bits"),
        (lambda: pneumonia.conductance_step(0), "int >= 1"),
        (lambda: pneumonia.conductances(WEIGHT, 0.0, 1e-8), "> 0"),
    ],
)
def test_refused_with_what_is_valid(call, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PneumoniaError, match=named) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "0.3"])
def test_shares_that_no_weights_can_be(share):
    levels = {"a": pneumonia.Quantized(pneumonia.TERNARY)}
    snap = pneumonia.ProgressiveSnap({"a": WEIGHT.clone()}, levels)
    with pytest.raises(PneumoniaError, match="0 to 1"):
        snap.advance(share)
    with pytest.raises(PneumoniaError, match="Irregular for 'a'"):
        pneumonia.ProgressiveSnap({"a": WEIGHT}, {"a": pneumonia.Irregular(3)})


def test_a_parameter_that_is_not_the_modules_any_more():
    model = small()
    plan = pneumonia.ModuleCompression(model, {"0.weight": pneumonia.Irregular(8)})
    plan.start()
    model[0].weight = nn.Parameter(torch.randn(8, 1, 3, 3))
    with pytest.raises(PneumoniaError, match=r"replaced.*0\.weight"):
        plan.harden()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "constraint", [pneumonia.Irregular(8), pneumonia.Quantized(pneumonia.TERNARY)]
)
def test_weights_of_other_precisions_are_masked_as_float32_ones(dtype, constraint):
    model, reference = nn.Linear(8, 4).to(dtype), nn.Linear(8, 4)
    reference.load_state_dict(model.state_dict())
    for module in (model, reference):
        plan = pneumonia.ModuleCompression(module, {"weight": constraint})
        plan.start()
        plan.update()
        plan.harden()
    assert model.weight.dtype == dtype
    torch.testing.assert_close(
        model.weight.float(), reference.weight.to(dtype).float(), rtol=2**-8, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_of_another_precision_takes_the_modules_inputs(dtype):
    model, x = small().to(dtype), torch.randn(2, 1, 8, 8).to(dtype)
    network = pneumonia.from_torch(model, x)
    found = network(x)
    assert found.dtype == torch.float32
    functional.mse_loss(found, torch.zeros_like(found)).backward()
    torch.testing.assert_close(found.to(dtype), model(x), rtol=0.05, atol=0.02)


def test_a_compiled_module_is_imported_as_what_was_compiled():
    network = pneumonia.from_torch(torch.compile(small()), torch.randn(2, 1, 8, 8))
    assert [layer.name for layer in network.spec.weighted()] == ["0", "2"]


def test_an_onnx_file_that_fails_its_check_replaces_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an earlier one")
    monkeypatch.setattr("pneumonia.exporting.onnx_file.TOLERANCE", -1.0)
    with pytest.raises(PneumoniaError, match="disagree"):
        pneumonia.write_onnx(imported(), path)
    assert path.read_bytes() == b"an earlier one"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_one_change_of_a_recipe_may_be_a_bare_text():
    assert pneumonia.RunOptions(changes="epochs=3").overrides() == ["epochs=3"]
