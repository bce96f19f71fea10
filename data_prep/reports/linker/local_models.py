"""Local models: score each candidate only by the words around its mention.

The plug-in contract of Dynamic Context Augmentation: any `torch.nn.Module` that gives one number
per candidate from a `Batch` is a local model. Two are here.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.reports.linker.batches import Batch

_NONE = -1e10


class AttentionLocal(nn.Module):
    """Attention over context words.

    The weight of a word is its largest score over the candidates: u_w = max_e e^T diag(A) w; the 50
    words with the largest u are kept, softmaxed, and score(e) = e^T sum_w a_w diag(B) w.

    Source: Ganea, Hofmann, EMNLP 2017, as used by DCA (arXiv 1909.02117).

    Args:
        words: float32 (vocabulary + 1, D), row 0 = padding.
        keep: Words that are kept.
    """

    def __init__(self, words: Tensor, keep: int = 50) -> None:
        super().__init__()
        self.register_buffer("words", words, persistent=False)
        self.keep = keep
        self.attention = nn.Parameter(torch.ones(words.shape[1]))
        self.fit = nn.Parameter(torch.ones(words.shape[1]))

    def forward(self, batch: Batch) -> Tensor:
        """(B, T, C) scores."""
        words = self.get_buffer("words")[batch.context]
        there = batch.context != 0
        return attend(
            batch.vectors, batch.valid, words, there, (self.attention, self.fit), self.keep
        )


class ConvolutionLocal(nn.Module):
    """A convolution over the words around the mention and one over the candidate's name; cosine.

    Source: the CNN base model of DCA (arXiv 1909.02117): kernel 3, 64 maps, max-pooling.

    Args:
        words: float32 (vocabulary + 1, D), row 0 = padding.
        maps: Feature maps.
    """

    def __init__(self, words: Tensor, maps: int = 64) -> None:
        super().__init__()
        self.register_buffer("words", words, persistent=False)
        self.context = nn.Conv1d(words.shape[1], maps, 3, padding=1)
        self.name = nn.Conv1d(words.shape[1], maps, 3, padding=1)

    def _pool(self, layer: nn.Conv1d, rows: Tensor) -> Tensor:
        """(N, L) word rows -> (N, maps), maximum over the words."""
        found = layer(self.get_buffer("words")[rows].transpose(1, 2))
        return torch.where((rows != 0)[:, None], found, _NONE).amax(dim=2).clamp(min=-1e3)

    def forward(self, batch: Batch) -> Tensor:
        """(B, T, C) cosines."""
        n_docs, n_mentions, n_candidates, n_words = batch.description.shape
        around = self._pool(self.context, batch.context.flatten(0, 1))
        # the same name stands in many places: convolve each once
        names, back = torch.unique(
            batch.description.reshape(-1, n_words), dim=0, return_inverse=True
        )
        name = self._pool(self.name, names)[back].view(n_docs, n_mentions, n_candidates, -1)
        around = around.view(n_docs, n_mentions, 1, -1)
        return F.cosine_similarity(around, name, dim=3)


LOCAL_MODELS: dict[str, Callable[[Tensor], nn.Module]] = {
    "attention": AttentionLocal,
    "cnn": ConvolutionLocal,
}


def attend(
    candidates: Tensor,
    valid: Tensor,
    memory: Tensor,
    there: Tensor,
    weights: tuple[Tensor, Tensor],
    keep: int | None,
) -> Tensor:
    """Score candidates against a set of vectors by attention.

    Args:
        candidates: (B, T, C, D).
        valid: bool (B, T, C).
        memory: (B, T, M, D), or (B, 1, M, D) when all steps share one.
        there: bool (B, T, M), which members the set of each step has.
        weights: The diagonals A (attention) and B (fit), (D,) each.
        keep: Members with the largest attention that count (hard); None = all (soft).

    Returns:
        (B, T, C); 0 for an empty set.
    """
    attention, fit = weights
    memory = memory.expand(candidates.shape[0], candidates.shape[1], -1, -1)
    match = torch.einsum("btcd,btmd->btcm", candidates * attention, memory)
    wanted = torch.where(valid[..., None], match, _NONE).amax(dim=2)
    wanted = torch.where(there, wanted, _NONE)
    if keep is not None and keep < wanted.shape[-1]:
        least = wanted.topk(keep, dim=-1).values[..., -1:]
        there = there & (wanted >= least)
        wanted = torch.where(there, wanted, _NONE)
    share = wanted.softmax(dim=-1) * there
    context = torch.einsum("btm,btmd->btd", share, memory)
    return torch.einsum("btcd,btd->btc", candidates, context * fit)
