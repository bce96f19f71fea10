"""Typing model: type of a mention's entity, from its words and the words around it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.reports.linker.batches import PAD, DocumentBatch, EntityTable


class TypeModel(nn.Module):
    """A linear classifier of types over mean word vectors, and a bias per kind of mention.

    DCA takes mention types from an external typing model; this one is trained with the linker, on
    the types of the gold entities.

    Args:
        table: Word vectors and the types of entities.
        n_mention_kinds: Kinds of mentions.
    """

    def __init__(self, table: EntityTable, n_mention_kinds: int) -> None:
        super().__init__()
        self.register_buffer("words", table.word_matrix, persistent=False)
        self.kinds = nn.Parameter(torch.zeros(n_mention_kinds, table.space.n_kinds))
        self.read = nn.Linear(2 * table.word_matrix.shape[1], table.space.n_kinds)

    def forward(self, batch: DocumentBatch) -> Tensor:
        """float32 (B, T, types): log p(type | mention)."""
        words = torch.cat([self._mean(batch.surface), self._mean(batch.context)], dim=2)
        logits: Tensor = self.read(words) + self.kinds[batch.mention_kind]
        return logits.log_softmax(dim=2)

    def _mean(self, rows: Tensor) -> Tensor:
        """(B, T, W) word rows -> (B, T, D); padding has the zero vector."""
        total = self.get_buffer("words")[rows].sum(dim=2)
        return total / (rows != PAD).sum(dim=2, keepdim=True).clamp(min=1)

    def loss(self, batch: DocumentBatch) -> Tensor:
        """Cross-entropy to the types of the gold entities; mentions without gold do not count."""
        known = batch.gold >= 0
        if not known.any():
            return self.kinds.sum() * 0
        gold = batch.entity_kind.gather(2, batch.gold.clamp(min=0)[..., None])[..., 0]
        return F.nll_loss(self(batch)[known], gold[known])
