import json
from pathlib import Path

import pytest

from evaluation.hardware.footprint import count, read_footprint
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import Conv, Linear, StorageSpec
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from pneumonia.runtime.model.spec_json import spec_text


def _spec(storage: StorageSpec) -> NetworkSpec:
    return NetworkSpec(
        "tiny",
        InputSpec(1, 8, 8),
        (
            Conv("conv_000", ("input",), 1, 4, 3, 1, 1, bias=False, batch_norm=True),
            Conv("conv_001", ("conv_000",), 4, 6, 3, 2, 1, storage=storage),
        ),
        ("conv_001",),
        ("opacity",),
    )


def test_hand_counted() -> None:
    # weights 36 + 216, batch norm 2 * 4, bias 6; MACs 36 * 64 + 216 * 16
    assert count(_spec(StorageSpec())) == (36 + 216 + 8 + 6, 36 * 64 + 216 * 16)
    pruned = _spec(StorageSpec("columns", 0, 54))
    assert count(pruned) == (36 + 54 + 8 + 6, 36 * 64 + 54 * 16)


def test_a_linear_layer_multiplies_once() -> None:
    layer = Linear("linear_000", ("input",), 10, 3)
    spec = NetworkSpec("l", InputSpec(10, 1, 1), (layer,), ("linear_000",), ("x",))
    assert count(spec) == (33, 30)


def test_a_bundle_and_a_run(tmp_path: Path) -> None:
    text = spec_text(_spec(StorageSpec()))
    for place in (tmp_path / "bundle", tmp_path / "run" / "best"):
        place.mkdir(parents=True)
        (place / "spec.json").write_text(text)
        (place / "weights.safetensors").write_bytes(b"x" * 77)
    (tmp_path / "bundle" / "manifest.json").write_text(
        json.dumps({"model_hash": "ab", "measured": {"latency_ms": 4.5, "note": "on a TX2"}})
    )
    bundle = read_footprint(tmp_path / "bundle")
    assert (bundle.file_bytes, bundle.latency_ms, bundle.model_hash) == (77, 4.5, "ab")
    assert bundle.energy_mj is None
    run = read_footprint(tmp_path / "run")
    assert (run.parameters, run.latency_ms) == (bundle.parameters, None)
    with pytest.raises(ArtefactError, match=r"spec\.json"):
        read_footprint(tmp_path)
