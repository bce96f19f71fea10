"""Random masks, and the comparison of a masked network with a smaller one."""

import torch
from torch import Tensor

from pneumonia.compression.sets.units import Columns, Filters
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import NetworkSpec
from tests.compression.graphs import run


def random_masks(spec: NetworkSpec, seed: int, density: float, group: int) -> dict[str, Tensor]:
    """Filters and grouped columns left out at random, in three layers of four."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for layer in spec.weighted():
        if torch.rand((), generator=generator) < 0.25:
            continue
        shape: tuple[int, ...] = (layer.out_channels, layer.in_channels)
        shape += (layer.kernel, layer.kernel) if isinstance(layer, Conv) else ()
        noise = torch.rand(shape, generator=generator) + 0.01
        n_columns = noise[0].numel()
        keep = max(1, round(density * n_columns))
        mask = Columns(keep, group).project(noise).mask
        if layer.name not in spec.outputs:
            mask = mask & Filters(max(1, round(density * shape[0]))).project(noise).mask
        masks[layer.name] = mask
    return masks


def assert_same_outputs(spec: NetworkSpec, dense: dict[str, Tensor], small: NetworkSpec,
                        kept: dict[str, Tensor]) -> None:  # fmt: skip
    expected, found = run(spec, dense), run(small, kept)
    assert expected.keys() == found.keys()
    for name in expected:
        scale = float(expected[name].abs().max()) + 1e-6
        assert float((expected[name] - found[name]).abs().max()) <= 1e-5 * scale + 1e-6
