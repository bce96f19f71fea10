"""Local models: score each candidate only by the words of the mention and around it.

A local model of Dynamic Context Augmentation is any `torch.nn.Module` that maps a `DocumentBatch`
to one score per candidate. This module has two.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.reports.linker.batches import PAD, DocumentBatch, EntityTable

_NONE = -1e10


class AttentionLocal(nn.Module):
    """Attention over context words.

    The weight of a word is its largest score over the candidates: u_w = max_e e^T diag(A) w; the 50
    words with the largest u are kept, softmaxed, and score(e) = e^T sum_w a_w diag(B) w.

    Source: Ganea, Hofmann, EMNLP 2017, as used by DCA (arXiv 1909.02117).

    Args:
        keep: Number of words kept.
    """

    def __init__(self, table: EntityTable, keep: int = 50) -> None:
        super().__init__()
        self.register_buffer("words", table.word_matrix, persistent=False)
        self.keep = keep
        self.attention = nn.Parameter(torch.ones(table.word_matrix.shape[1]))
        self.fit = nn.Parameter(torch.ones(table.word_matrix.shape[1]))

    def forward(self, batch: DocumentBatch) -> Tensor:
        """(B, T, C) scores."""
        words = self.get_buffer("words")[batch.context]
        there = batch.context != PAD
        return attend(
            batch.vectors, batch.valid, words, there, (self.attention, self.fit), self.keep
        )


class TextConvolution(nn.Module):
    """Encodes a text by a convolution of width 3 over its word vectors and max-pooling."""

    def __init__(self, table: EntityTable, maps: int) -> None:
        super().__init__()
        self.register_buffer("words", table.word_matrix, persistent=False)
        self.layer = nn.Conv1d(table.word_matrix.shape[1], maps, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, rows: Tensor) -> Tensor:
        """int64 (N, L) word rows -> float32 (N, maps) of unit length; zero without a word."""
        rows, back = torch.unique(rows, dim=0, return_inverse=True)  # equal texts are read once
        rows = rows[:, : max(1, int((rows != PAD).sum(dim=1).max()))]
        there = rows != PAD
        words, places = torch.unique(rows, return_inverse=True)
        # a convolution sums one product per offset, and the products are those of few words
        weight = self.layer.weight.permute(2, 1, 0)  # (3, D, maps)
        before, at, after = torch.matmul(self.get_buffer("words")[words], weight)
        found = F.embedding(places, at) + self.bias
        found = found + F.pad(F.embedding(places[:, :-1], before), (0, 0, 1, 0))
        found = found + F.pad(F.embedding(places[:, 1:], after), (0, 0, 0, 1))
        pooled = found.masked_fill(~there[..., None], _NONE).amax(dim=1)
        pooled = pooled.masked_fill(~there.any(dim=1, keepdim=True), 0.0)
        return F.normalize(pooled, dim=1)[back]


class ConvolutionLocal(nn.Module):
    """Cosines between texts of a mention and of a candidate, each encoded by a convolution.

    Texts of the mention: its own words, the words around it, the whole document. Texts of the
    candidate: its name and its description. The six cosines are weighted and summed.

    Source: Francis-Landau, Durrett, Klein, NAACL 2016 (arXiv 1604.00734), with the sizes of the
    CNN base model of DCA (arXiv 1909.02117): kernel 3, 64 maps, max-pooling.
    """

    def __init__(self, table: EntityTable, maps: int = 64) -> None:
        super().__init__()
        self.table = table
        self.sources = nn.ModuleList(TextConvolution(table, maps) for _ in range(3))
        self.targets = nn.ModuleList(TextConvolution(table, maps) for _ in range(2))
        self.weigh = nn.Linear(6, 1)
        nn.init.constant_(self.weigh.weight, 1 / 6)

    def forward(self, batch: DocumentBatch) -> Tensor:
        """(B, T, C) scores."""
        n_docs, n_mentions, _ = batch.candidates.shape
        own, around, document = self.sources
        read = [
            own(batch.surface.flatten(0, 1)).view(n_docs, n_mentions, -1),
            around(batch.context.flatten(0, 1)).view(n_docs, n_mentions, -1),
            document(batch.document[:, 0])[:, None].expand(-1, n_mentions, -1),
        ]
        numbers, places = torch.unique(batch.candidates, return_inverse=True)
        title, description = self.targets
        known = [title(self.table.titles(numbers)), description(self.table.descriptions(numbers))]
        sources, targets = torch.stack(read, dim=2), torch.stack(known, dim=1)[places]
        cosines = torch.einsum("btsm,btcem->btcse", sources, targets).flatten(3)
        scores: Tensor = self.weigh(cosines)[..., 0]
        return scores


LOCAL_MODELS: dict[str, Callable[[EntityTable], nn.Module]] = {
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
