"""Dynamic Context Augmentation: link a document in one pass, using all earlier decisions.

Two sets grow: the entities linked so far (one hop) and their neighbours (two hops). Each candidate
is scored against both by attention; a small network joins these scores with the local one, the
prior and the type. Source: Yang et al., EMNLP 2019 (arXiv 1909.02117).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.reports.linker.batches import MAX_NEIGHBOURS, PAD, DocumentBatch, EntityTable
from data_prep.reports.linker.local_models import attend

KEEP_ENTITIES, KEEP_NEIGHBOURS = 7, 50
# Initial diagonals. Vectors have unit length, so products are within -1..1: with ones the attention
# would be nearly uniform, and codes that differ in one qualifier would have similar scores.
# Neighbours start with a smaller weight than linked entities.
_SHARP, _STEEP, _GENTLE = 5.0, 10.0, 1.0
_MASKED = -1e10
_MEMORY_STEPS = 100  # latest entities kept, which bounds the cost of a step


class TypeModel(nn.Module):
    """A linear classifier of types over mean word vectors, and a bias per kind of mention.

    DCA takes mention types from an external typing model; this one is trained with the linker, on
    the types of the gold entities.
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


class LinkedBatch(NamedTuple):
    """Result of one linking pass."""

    scores: Tensor  # (B, T, C) at the time of each decision; masked candidates have -1e10
    chosen: Tensor  # int64 (B, T) places among the candidates


class DynamicContext(nn.Module):
    """DCA over a local model.

    Args:
        local: Module Batch -> (B, T, C) scores.
        hops: 0 = local only, 1 = linked entities, 2 = their neighbours too.
        hard: Keep the best 7 entities and 50 neighbours only; otherwise all count (soft).
        hidden: Width of the network that combines the scores.
    """

    def __init__(
        self,
        local: nn.Module,
        table: EntityTable,
        n_mention_kinds: int = 1,
        hops: int = 2,
        hard: bool = True,
        hidden: int = 100,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        size = table.space.dimensions
        self.local = local
        self.table = table
        self.hops = hops
        self.keep = (KEEP_ENTITIES, KEEP_NEIGHBOURS) if hard else (None, None)
        self.diagonals = nn.ParameterList(
            nn.Parameter(torch.full((size,), value)) for value in (_SHARP, _STEEP, _SHARP, _GENTLE)
        )
        self.types = TypeModel(table, n_mention_kinds)
        self.join: nn.Module = nn.Sequential(
            nn.Linear(5, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )

    def forward(self, batch: DocumentBatch) -> LinkedBatch:
        """Link greedily: the best candidate joins the context of the later mentions."""
        return self._walk(batch, None)

    def sample(self, batch: DocumentBatch, generator: torch.Generator) -> LinkedBatch:
        """Link by sampling from the softmax of the scores, for exploration in RL."""
        return self._walk(batch, generator)

    def teach(self, batch: DocumentBatch) -> Tensor:
        """Scores (B, T, C) with teacher forcing: the gold entity joins the context."""
        place = batch.gold.clamp(min=0)
        linked = self._numbers(batch, place).masked_fill(batch.gold < 0, PAD)
        steps = linked.shape[1]
        earlier = torch.ones(steps, steps, dtype=torch.bool).tril(-1)
        entities = self._coherence(batch, linked, earlier, 0)
        neighbours = self._coherence(batch, linked, earlier, 1)
        return self._join(batch, self._fixed(batch), entities, neighbours)

    def _walk(self, batch: DocumentBatch, generator: torch.Generator | None) -> LinkedBatch:
        fixed = self._fixed(batch)
        n_docs, steps = batch.gold.shape
        linked = torch.zeros(n_docs, 0, dtype=torch.int64)
        scores, chosen = [], []
        for t in range(steps):
            now = DocumentBatch(*(part[:, t : t + 1] for part in batch))
            memory = linked[:, -_MEMORY_STEPS:]
            earlier = torch.ones(1, memory.shape[1], dtype=torch.bool)
            found = self._join(
                now,
                [part[:, t : t + 1] for part in fixed],
                self._coherence(now, memory, earlier, 0),
                self._coherence(now, memory, earlier, 1),
            )
            if generator is None:
                place = found.argmax(dim=2)
            else:
                place = torch.multinomial(found.softmax(dim=2)[:, 0], 1, generator=generator)
            scores.append(found)
            chosen.append(place)
            if self.hops:
                linked = torch.cat([linked, self._numbers(now, place)], dim=1)
        return LinkedBatch(torch.cat(scores, dim=1), torch.cat(chosen, dim=1))

    @staticmethod
    def _numbers(batch: DocumentBatch, place: Tensor) -> Tensor:
        """Entity numbers (B, T) of the chosen places; 0 for NIL, which adds no context."""
        numbers = batch.candidates.gather(2, place[..., None])[..., 0]
        nil = batch.nil.gather(2, place[..., None])[..., 0]
        return numbers.masked_fill(nil, PAD)

    def _fixed(self, batch: DocumentBatch) -> list[Tensor]:
        """Features that do not depend on the order: local score and type score, (B, T, C)."""
        return [self.local(batch), self.types(batch).gather(2, batch.entity_kind)]

    def _coherence(self, batch: DocumentBatch, linked: Tensor, earlier: Tensor, hop: int) -> Tensor:
        """Scores (B, T, C) against the entities (hop 0) or their neighbours (hop 1).

        Args:
            linked: int64 (B, M) entity numbers in the order they were linked, 0 = none.
            earlier: bool (T, M), which of them precede each step.
            hop: Which set.
        """
        if hop >= self.hops or linked.shape[1] == 0:
            return torch.zeros_like(batch.log_prior)
        numbers = linked
        if hop == 1:
            numbers = self.table.neighbours(linked).flatten(1)
            earlier = earlier.repeat_interleave(MAX_NEIGHBOURS, dim=1)
        there = earlier & first_of_each(numbers)[:, None]
        memory = self.table.vectors(numbers)[:, None]
        weights = (self.diagonals[2 * hop], self.diagonals[2 * hop + 1])
        return attend(batch.vectors, batch.valid, memory, there, weights, self.keep[hop])

    def _join(
        self, batch: DocumentBatch, fixed: list[Tensor], entities: Tensor, neighbours: Tensor
    ) -> Tensor:
        local, types = fixed
        features = torch.stack([local, batch.log_prior, entities, types, neighbours], dim=3)
        scores: Tensor = self.join(features)[..., 0]
        return torch.where(batch.valid, scores, _MASKED)


def first_of_each(numbers: Tensor) -> Tensor:
    """Mask (B, M) bool of the first occurrence of each entity number; 0 (padding) is excluded.

    The members before a step form a prefix, which contains a number only if it contains its first
    occurrence.
    """
    same = numbers[:, :, None] == numbers[:, None, :]
    repeated = same.tril(-1).any(dim=2)
    return ~repeated & (numbers != PAD)
