"""Entity vectors, neighbours, kinds and descriptions: of concept codes, and of plain names."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from data_prep.reports.findings.concepts import NIL, ConceptBase, split_code
from data_prep.reports.findings.text import tokenize
from data_prep.reports.linker.vectors import WordVectors

Vector = npt.NDArray[np.float32]
_HEADING, _QUALIFIER = "heading:", "qualifier:"  # prefixes of rows that are not words


def parts_of(code: str) -> list[str]:
    """Row names of the vectors of a code's heading and qualifiers."""
    heading, qualifiers = split_code(code)
    return [_HEADING + heading, *(_QUALIFIER + name for name in qualifiers)]


class ConceptSpace:
    """Vectors of codes: the sum of their heading's and qualifiers' vectors, at unit length.

    A code without training reports also has a vector, since its parts occur in other codes.

    Args:
        base: The concept base.
        vectors: Trained with `together=(context, parts_of(code))`.
    """

    def __init__(self, base: ConceptBase, vectors: WordVectors) -> None:
        self._base = base
        self._rows = vectors.rows()
        self._matrix = vectors.matrix
        self.dimensions = vectors.matrix.shape[1]
        self._kinds = {group: at + 1 for at, group in enumerate(sorted(base.groups))}
        self.n_kinds = len(self._kinds) + 2  # NIL is 0, `Other` the last
        self._near: dict[str, tuple[str, ...]] = {}

    def vector(self, entity: str) -> Vector:
        """See EntitySpace."""
        total = np.zeros(self.dimensions, np.float32)
        if entity == NIL:
            return total
        for part in parts_of(entity):
            row = self._rows.get(part)
            if row is None:  # a heading never seen: the words of its name
                words = tokenize(part.split(":", 1)[1])
                rows = [self._rows[t.word] for t in words if t.word in self._rows]
                total += self._matrix[rows].mean(axis=0) if rows else 0
            else:
                total += self._matrix[row]
        return unit(total)

    def neighbours(self, entity: str) -> tuple[str, ...]:
        """The commonest code of each neighbouring heading, and the code's own parent."""
        if entity == NIL:
            return ()
        found = self._near.get(entity)
        if found is None:
            near = [self._base.by_heading.get(h, [h])[0] for h in self._base.neighbours(entity)]
            parent = entity.rpartition("/")[0]
            found = self._near[entity] = tuple(near + [parent] * bool(parent))
        return found

    def kind(self, entity: str) -> int:
        """NIL, the group, or `Other`."""
        return 0 if entity == NIL else self._kinds.get(self._base.group(entity), self.n_kinds - 1)

    def description(self, entity: str) -> tuple[str, ...]:
        """Words of the code."""
        return () if entity == NIL else tuple(t.word for t in tokenize(entity) if t.word.isalnum())


class NameSpace:
    """Vectors of entities known by name only: the mean of the vectors of the name's words.

    Args:
        vectors: Word vectors.
        neighbours: Entity -> related entities, for example linked beside it in training.
    """

    def __init__(
        self, vectors: WordVectors, neighbours: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._rows = vectors.rows()
        self._matrix = vectors.matrix
        self.dimensions = vectors.matrix.shape[1]
        self.n_kinds = 2
        self._near = {name: tuple(others) for name, others in (neighbours or {}).items()}

    def vector(self, entity: str) -> Vector:
        """See EntitySpace."""
        rows = [self._rows[word] for word in self.description(entity) if word in self._rows]
        total = np.zeros(self.dimensions, np.float32)
        return unit(self._matrix[rows].sum(axis=0)) if rows else total

    def neighbours(self, entity: str) -> tuple[str, ...]:
        """Neighbours passed to the constructor."""
        return self._near.get(entity, ())

    def kind(self, entity: str) -> int:
        """Kind of an entity: NIL or any other."""
        return int(entity != NIL)

    def description(self, entity: str) -> tuple[str, ...]:
        """Words of the name."""
        if entity == NIL:
            return ()
        return tuple(t.word for t in tokenize(entity.replace("_", " ")) if t.word.isalnum())


def unit(vector: Vector) -> Vector:
    """The vector at length 1; zero stays zero."""
    return (vector / max(float(np.linalg.norm(vector)), 1e-10)).astype(np.float32)
