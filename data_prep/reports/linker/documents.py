"""Documents of mentions with candidates: the input of a linker."""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from data_prep.reports.findings.concepts import NIL

MIN_PRIOR = 1e-3  # p(entity | mention) is kept between this and 1


class EntityCandidate(NamedTuple):
    """A candidate entity of a mention, and p(entity | mention) before any context."""

    entity: str
    prior: float


class LinkMention(NamedTuple):
    """One mention."""

    place: int  # position in the document; gives the order `offset`
    context: tuple[str, ...]  # words around it, in normal form
    candidates: tuple[EntityCandidate, ...]  # best prior first; NIL may be one of them
    gold: str | None = None  # the correct entity, NIL, or None where it is unknown
    kind: int = 0  # kind of the mention, a small number; 0 where kinds are not used
    size: int = 0  # number of candidates before the selection; gives the order `size`
    surface: tuple[str, ...] = ()  # words of the mention itself, in normal form


class LinkDocument(NamedTuple):
    """One document: its name, its mentions in text order, and all its words in normal form."""

    name: str
    mentions: tuple[LinkMention, ...]
    words: tuple[str, ...] = ()


class EntitySpace(Protocol):
    """Vectors, neighbours, types and words of entities; NIL has the zero vector and no words."""

    dimensions: int
    n_kinds: int

    def vector(self, entity: str) -> npt.NDArray[np.float32]:
        """Unit length (dimensions,), or zero."""
        ...

    def neighbours(self, entity: str) -> tuple[str, ...]:
        """Related entities in the knowledge base, used as the second hop."""
        ...

    def kind(self, entity: str) -> int:
        """Type of an entity, below n_kinds."""
        ...

    def title(self, entity: str) -> tuple[str, ...]:
        """Words of the entity's name."""
        ...

    def description(self, entity: str) -> tuple[str, ...]:
        """Words that describe the entity: synonyms, group, related entities."""
        ...


def clamp(prior: float) -> float:
    """Clamp p(entity | mention) to [MIN_PRIOR, 1]."""
    return min(1.0, max(MIN_PRIOR, prior))


def gold_place(mention: LinkMention) -> int:
    """Index of the gold entity among the candidates; -1 when absent or unknown."""
    for place, candidate in enumerate(mention.candidates):
        if candidate.entity == mention.gold:
            return place
    return -1


__all__ = [
    "MIN_PRIOR", "NIL", "EntityCandidate", "EntitySpace", "LinkDocument", "LinkMention", "clamp",
    "gold_place",
]  # fmt: skip
