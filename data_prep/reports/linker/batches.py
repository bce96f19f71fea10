"""Documents as tensors: mentions in the order they are linked, candidates padded."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data_prep.reports.linker.documents import (
    NIL,
    EntitySpace,
    LinkDocument,
    gold_place,
)
from data_prep.reports.linker.vectors import WordVectors

Order = Literal["offset", "size", "random"]
MAX_NEIGHBOURS = 8
MAX_TITLE, MAX_DESCRIPTION, MAX_DOCUMENT = 12, 32, 300  # words
PAD = 0  # row of padding in both vector tables; in that of words, unknown words use it, too


class DocumentBatch(NamedTuple):
    """B documents of up to T mentions with up to C candidates, W words, D dimensions."""

    order: Tensor  # int64 (B, T), number of the mention at each step; -1 = padding
    surface: Tensor  # int64 (B, T, W) word rows of the mention itself, 0 = padding or unknown
    context: Tensor  # int64 (B, T, W) word rows around the mention
    document: Tensor  # int64 (B, T, W) word rows of the whole document, the same at every step
    candidates: Tensor  # int64 (B, T, C) entity numbers, 0 = padding
    vectors: Tensor  # float32 (B, T, C, D)
    log_prior: Tensor  # float32 (B, T, C)
    valid: Tensor  # bool (B, T, C)
    nil: Tensor  # bool (B, T, C), where the candidate is NIL
    entity_kind: Tensor  # int64 (B, T, C)
    mention_kind: Tensor  # int64 (B, T)
    gold: Tensor  # int64 (B, T), index among the candidates; -1 = unknown or not among them


class EntityTable:
    """Index of entities with their vectors, words and neighbours; unknown entities are added.

    Args:
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
        self._titles = np.zeros((256, MAX_TITLE), np.int64)
        self._descriptions = np.zeros((256, MAX_DESCRIPTION), np.int64)
        self._kinds = np.zeros(256, np.int64)

    def rows(self, words: Iterable[str]) -> list[int]:
        """Rows of the words that have a vector."""
        return [self.word_rows[word] for word in words if word in self.word_rows]

    def number(self, entity: str, with_neighbours: bool = True) -> int:
        """Number of an entity; a new entity gets the next number."""
        at = self._numbers.get(entity)
        if at is None:
            at = self._numbers[entity] = len(self.names)
            self.names.append(entity)
            if at == len(self._kinds):
                self._double()
            self._vectors[at] = self.space.vector(entity)
            self._kinds[at] = self.space.kind(entity)
            _fill(self._titles[at], self.rows(self.space.title(entity)))
            _fill(self._descriptions[at], self.rows(self.space.description(entity)))
            self._near[at] = -1
        if with_neighbours and self._near[at, 0] == -1:
            near = [self.number(n, False) for n in self.space.neighbours(entity)]
            row = (near[:MAX_NEIGHBOURS] + [PAD] * MAX_NEIGHBOURS)[:MAX_NEIGHBOURS]
            self._near[at] = row
        return at

    def _double(self) -> None:
        for name in ("_vectors", "_near", "_titles", "_descriptions", "_kinds"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros_like(column)]))

    def vectors(self, numbers: Tensor) -> Tensor:
        """float32 (..., D)."""
        return torch.from_numpy(self._vectors)[numbers]

    def neighbours(self, numbers: Tensor) -> Tensor:
        """int64 (..., MAX_NEIGHBOURS) entity numbers, 0 = none."""
        return torch.from_numpy(self._near)[numbers].clamp(min=PAD)

    def titles(self, numbers: Tensor) -> Tensor:
        """int64 (..., MAX_TITLE) word rows, 0 = padding."""
        return torch.from_numpy(self._titles)[numbers]

    def descriptions(self, numbers: Tensor) -> Tensor:
        """int64 (..., MAX_DESCRIPTION) word rows, 0 = padding."""
        return torch.from_numpy(self._descriptions)[numbers]

    def kinds(self, numbers: Tensor) -> Tensor:
        """int64 (...), see EntitySpace.kind."""
        return torch.from_numpy(self._kinds)[numbers]


def _fill(row: npt.NDArray[np.int64], values: Sequence[int]) -> None:
    row[: len(values)] = values[: len(row)]


def arrange(document: LinkDocument, order: Order, generator: np.random.Generator) -> list[int]:
    """Linking order of a document's mentions: text order, fewest candidates first, or random."""
    places = list(range(len(document.mentions)))
    if order == "random":
        return [int(i) for i in generator.permutation(len(places))]
    if order == "size":
        return sorted(places, key=lambda i: (document.mentions[i].size, i))
    return sorted(places, key=lambda i: (document.mentions[i].place, i))


class EncodedMention(NamedTuple):
    """Indices of words and entities of one mention; see Batch."""

    surface: list[int]
    context: list[int]
    candidates: list[int]
    log_prior: list[float]
    nil: list[bool]
    kind: int
    gold: int


class EncodedDocument(NamedTuple):
    """Indices of one document: its mentions and the rows of its words."""

    mentions: list[EncodedMention]
    words: list[int]


_NO_MENTION = EncodedMention([], [], [], [], [], 0, -1)


def encode(document: LinkDocument, table: EntityTable) -> EncodedDocument:
    """Replace words and entities of a document by their indices."""
    found = [
        EncodedMention(
            table.rows(mention.surface),
            table.rows(mention.context),
            [table.number(candidate.entity) for candidate in mention.candidates],
            [math.log(candidate.prior + 1e-20) for candidate in mention.candidates],
            [candidate.entity == NIL for candidate in mention.candidates],
            mention.kind,
            gold_place(mention),
        )
        for mention in document.mentions
    ]
    return EncodedDocument(found, table.rows(document.words)[:MAX_DOCUMENT])


def collate(
    documents: Sequence[LinkDocument], table: EntityTable, orders: Sequence[Sequence[int]]
) -> DocumentBatch:
    """Tensors of documents whose mentions are linked in the given orders."""
    return stack([encode(document, table) for document in documents], table, orders)


def stack(
    documents: Sequence[EncodedDocument], table: EntityTable, orders: Sequence[Sequence[int]]
) -> DocumentBatch:
    """`collate` for encoded documents."""
    steps = max([1, *(len(order) for order in orders)])
    rows = [
        [*(document.mentions[i] for i in order), *[_NO_MENTION] * (steps - len(order))]
        for document, order in zip(documents, orders, strict=True)
    ]
    numbers = _padded([[m.candidates for m in row] for row in rows], np.int64)
    log_prior = _padded([[m.log_prior for m in row] for row in rows], np.float32)
    return DocumentBatch(
        torch.tensor([[*order, *[-1] * (steps - len(order))] for order in orders]),
        _padded([[m.surface for m in row] for row in rows], np.int64),
        _padded([[m.context for m in row] for row in rows], np.int64),
        _padded([[document.words] for document in documents], np.int64).expand(-1, steps, -1),
        numbers,
        table.vectors(numbers),
        log_prior,
        numbers != PAD,
        _padded([[m.nil for m in row] for row in rows], np.bool_),
        table.kinds(numbers),
        torch.tensor([[m.kind for m in row] for row in rows]),
        torch.tensor([[m.gold for m in row] for row in rows]),
    )


def _padded(rows: Sequence[Sequence[Sequence[float]]], dtype: npt.DTypeLike) -> Tensor:
    """(B, T, length of the longest row, at least 1); zeros after the end of each row."""
    longest = max([1, *(len(row) for document in rows for row in document)])
    found = np.zeros((len(rows), len(rows[0]), longest), dtype)
    for b, document in enumerate(rows):
        for t, row in enumerate(document):
            found[b, t, : len(row)] = row
    return torch.from_numpy(found)
