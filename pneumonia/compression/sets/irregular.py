"""Irregular pruning: any weight may go. Most weights removed, at the price of one index each."""

from collections.abc import Mapping

import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits, best_irregular_index_bits
from pneumonia.compression.sets.constraint import (
    WEIGHT_BITS,
    Projection,
    check_finite,
    check_n_keep,
    gemm_view,
    masked,
    top_k_mask,
)


class Irregular:
    """At most `n_keep` non-zero weights in the layer: keeps the largest magnitudes. Exact."""

    def __init__(self, n_keep: int) -> None:
        check_n_keep(n_keep, "weights")
        self.n_keep = n_keep

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set."""
        check_finite(v)
        return masked(v, top_k_mask(v.abs().reshape(-1), self.n_keep).reshape(v.shape))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Values, and the cheapest of a bitmap, CSR and relative indices of 1..16 bits."""
        support = (gemm_view(z) != 0).numpy()
        return StorageBits(
            int(support.sum()) * WEIGHT_BITS, best_irregular_index_bits(support, WEIGHT_BITS)
        )


class GlobalIrregular:
    """At most `n_keep` non-zero weights in all layers together, at least `floor` in each. Exact.

    Taking the best `floor` of every layer first and the best of all others next is the optimum
    (the supports form a matroid).

    Args:
        layers: The layers tied together, in the order that breaks ties.
        n_keep: Weights kept in all of them.
        floor: Weights every layer keeps (all of it when it has fewer).
    """

    def __init__(self, layers: tuple[str, ...], n_keep: int, floor: int = 1) -> None:
        check_n_keep(n_keep, "weights")
        check_n_keep(n_keep - floor * len(layers) + 1, "weights beyond the floor of each layer")
        self._layers = layers
        self.n_keep = n_keep
        self.floor = floor

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers the budget ties together."""
        return self._layers

    def project(
        self, v: Mapping[str, Tensor], near: Mapping[str, Tensor] | None = None
    ) -> dict[str, Projection]:
        """The allowed point nearest to `v`, layer by layer; `near` is not needed."""
        scores = []
        for name in self._layers:
            check_finite(v[name], name)
            score = v[name].abs().reshape(-1)
            score[top_k_mask(score, min(self.floor, score.numel()))] = torch.inf
            scores.append(score)
        chosen = top_k_mask(torch.cat(scores), self.n_keep)
        masks = torch.split(chosen, [score.numel() for score in scores])
        return {
            name: masked(v[name], mask.reshape(v[name].shape))
            for name, mask in zip(self._layers, masks, strict=True)
        }
