"""Documents as tensors: mentions in the order they are linked, candidates padded."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.reports.linker.documents import EntitySpace, LinkDocument, LinkMention, gold_place
from data_prep.reports.linker.vectors import WordVectors

Order = Literal["offset", "size", "random"]
MAX_NEIGHBOURS = 8
MAX_DESCRIPTION = 12  # words
PAD = 0  # entity number of a padded place


class Batch(NamedTuple):
    """B documents of up to T mentions with up to C candidates, W words of context, D dimensions.

    Attributes:
        order: int64 (B, T): which mention of the document stands at each step; -1 = padding.
        context: int64 (B, T, W) word rows, 0 = padding or unknown.
        candidates: int64 (B, T, C) entity numbers, 0 = padding.
        description: int64 (B, T, C, L) word rows of the candidates' names.
        vectors: float32 (B, T, C, D).
        log_prior: float32 (B, T, C).
        valid: bool (B, T, C).
        nil: bool (B, T, C), where the candidate is NIL.
        entity_kind: int64 (B, T, C).
        mention_kind: int64 (B, T).
        gold: int64 (B, T), place among the candidates, -1 = none.
    """

    order: Tensor
    context: Tensor
    candidates: Tensor
    description: Tensor
    vectors: Tensor
    log_prior: Tensor
    valid: Tensor
    nil: Tensor
    entity_kind: Tensor
    mention_kind: Tensor
    gold: Tensor


class EntityTable:
    """Numbers for entities, with their vectors and neighbours; grows as new ones turn up.

    Args:
        space: See EntitySpace.
        words: Words whose vectors fill the rows from 1.
    """

    def __init__(self, space: EntitySpace, words: WordVectors) -> None:
        self.space = space
        self.word_rows = {word: row + 1 for row, word in enumerate(words.words)}
        zero = np.zeros((1, words.matrix.shape[1]), np.float32)
        self.word_matrix = torch.from_numpy(np.vstack([zero, words.matrix]))
        self._numbers: dict[str, int] = {}
        self.names: list[str] = [""]
        self._vectors = np.zeros((256, space.dimensions), np.float32)
        self._near = np.zeros((256, MAX_NEIGHBOURS), np.int64)
        self._described: list[tuple[int, ...]] = [()]
        self._kinds: list[int] = [0]

    def number(self, entity: str, with_neighbours: bool = True) -> int:
        """Number of an entity; a new entity gets the next number."""
        at = self._numbers.get(entity)
        if at is None:
            at = self._numbers[entity] = len(self.names)
            self.names.append(entity)
            if at == len(self._vectors):
                self._vectors = np.vstack([self._vectors, np.zeros_like(self._vectors)])
                self._near = np.vstack([self._near, np.zeros_like(self._near)])
            self._vectors[at] = self.space.vector(entity)
            words = [self.word_rows.get(w, 0) for w in self.space.description(entity)]
            self._described.append(tuple(words[:MAX_DESCRIPTION]))
            self._kinds.append(self.space.kind(entity))
            self._near[at] = -1
        if with_neighbours and self._near[at, 0] == -1:
            near = [self.number(n, False) for n in self.space.neighbours(entity)]
            row = (near[:MAX_NEIGHBOURS] + [PAD] * MAX_NEIGHBOURS)[:MAX_NEIGHBOURS]
            self._near[at] = row
        return at

    def vectors(self, numbers: Tensor) -> Tensor:
        """float32 (..., D)."""
        return torch.from_numpy(self._vectors)[numbers]

    def neighbours(self, numbers: Tensor) -> Tensor:
        """int64 (..., MAX_NEIGHBOURS) entity numbers, 0 = none."""
        return torch.from_numpy(self._near)[numbers].clamp(min=PAD)

    def mention(self, mention: LinkMention) -> "_Row":
        """Integer encoding of one mention."""
        numbers = [self.number(candidate.entity) for candidate in mention.candidates]
        return _Row(
            [self.word_rows[word] for word in mention.context if word in self.word_rows],
            numbers,
            [self._described[at] for at in numbers],
            [float(np.log(candidate.prior + 1e-20)) for candidate in mention.candidates],
            [candidate.entity == "NIL" for candidate in mention.candidates],
            [self._kinds[at] for at in numbers],
            gold_place(mention),
            mention.kind,
        )


class _Row(NamedTuple):
    context: list[int]
    numbers: list[int]
    described: list[tuple[int, ...]]
    log_prior: list[float]
    nil: list[bool]
    kinds: list[int]
    gold: int
    kind: int


def arrange(document: LinkDocument, order: Order, generator: np.random.Generator) -> list[int]:
    """Linking order of a document's mentions: text order, fewest candidates first, or random."""
    places = list(range(len(document.mentions)))
    if order == "random":
        return [int(i) for i in generator.permutation(len(places))]
    if order == "size":
        return sorted(places, key=lambda i: (document.mentions[i].size, i))
    return sorted(places, key=lambda i: (document.mentions[i].place, i))


def collate(
    documents: Sequence[LinkDocument], table: EntityTable, orders: Sequence[Sequence[int]]
) -> Batch:
    """Tensors of documents whose mentions are linked in the given orders."""
    rows = [
        [table.mention(document.mentions[i]) for i in order]
        for document, order in zip(documents, orders, strict=True)
    ]
    flat = [row for document in rows for row in document]
    shape = (len(rows), max(1, *(len(document) for document in rows)))
    n_candidates = max([1, *(len(row.numbers) for row in flat)])
    n_words = max([1, *(len(row.context) for row in flat)])
    n_described = max([1, *(len(words) for row in flat for words in row.described)])
    order = np.full(shape, -1, np.int64)
    context = np.zeros((*shape, n_words), np.int64)
    candidates = np.zeros((*shape, n_candidates), np.int64)
    described = np.zeros((*shape, n_candidates, n_described), np.int64)
    log_prior = np.zeros((*shape, n_candidates), np.float32)
    nil = np.zeros((*shape, n_candidates), np.bool_)
    entity_kind = np.zeros((*shape, n_candidates), np.int64)
    mention_kind = np.zeros(shape, np.int64)
    gold = np.full(shape, -1, np.int64)
    for b, document in enumerate(rows):
        order[b, : len(document)] = orders[b]
        for t, row in enumerate(document):
            n = len(row.numbers)
            context[b, t, : len(row.context)] = row.context
            candidates[b, t, :n] = row.numbers
            log_prior[b, t, :n], nil[b, t, :n] = row.log_prior, row.nil
            entity_kind[b, t, :n] = row.kinds
            for c, words in enumerate(row.described):
                described[b, t, c, : len(words)] = words
            mention_kind[b, t], gold[b, t] = row.kind, row.gold
    numbers = torch.from_numpy(candidates)
    return Batch(
        torch.from_numpy(order), torch.from_numpy(context), numbers, torch.from_numpy(described),
        table.vectors(numbers), torch.from_numpy(log_prior), numbers != PAD, torch.from_numpy(nil),
        torch.from_numpy(entity_kind), torch.from_numpy(mention_kind), torch.from_numpy(gold),
    )  # fmt: skip
