"""Entity vectors, neighbours, kinds and descriptions of concept codes."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from data_prep.reports.findings.concepts import NIL, ConceptBase, split_code
from data_prep.reports.findings.text import tokenize
from data_prep.reports.linker.documents import EntitySpace
from data_prep.reports.linker.vectors import WordVectors

Vector = npt.NDArray[np.float32]
_HEADING, _QUALIFIER = "heading:", "qualifier:"  # prefixes of rows that are not words


def parts_of(code: str) -> list[str]:
    """Row names of the vectors of a code's heading and qualifiers."""
    heading, qualifiers = split_code(code)
    return [_HEADING + heading, *(_QUALIFIER + name for name in qualifiers)]


class ConceptSpace:
    """Vectors of codes: the sum of their heading's and qualifiers' vectors, at unit length.

    A code without training reports also has a vector if its parts occur in other codes.

    Args:
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
        self._described: dict[str, tuple[str, ...]] = {}
        self._aliases: dict[str, list[str]] = {}
        for form, code in base.all_aliases():
            self._aliases.setdefault(split_code(code)[0], []).append(form)

    def vector(self, entity: str) -> Vector:
        """Vector of a code at unit length; zeros for NIL and for a code without any known part."""
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
        """The most frequent code of each neighbouring heading, and the code's parent."""
        if entity == NIL:
            return ()
        found = self._near.get(entity)
        if found is None:
            near = [self._base.by_heading.get(h, [h])[0] for h in self._base.neighbours(entity)]
            parent = entity.rpartition("/")[0]
            found = self._near[entity] = tuple(near + [parent] * bool(parent))
        return found

    def kind(self, entity: str) -> int:
        """Number of the entity's group; 0 for NIL, the last for `Other`."""
        return 0 if entity == NIL else self._kinds.get(self._base.group(entity), self.n_kinds - 1)

    def title(self, entity: str) -> tuple[str, ...]:
        """Words of the code."""
        return () if entity == NIL else words_of(entity)

    def description(self, entity: str) -> tuple[str, ...]:
        """Words of the heading's aliases, of its group and of its neighbours, each once."""
        if entity == NIL:
            return ()
        heading = split_code(entity)[0]
        found = self._described.get(heading)
        if found is None:
            forms = [
                *self._aliases.get(heading, ()),
                self._base.group(heading),
                *self._base.neighbours(heading),
            ]
            words = dict.fromkeys(word for form in forms for word in words_of(form))
            found = self._described[heading] = tuple(words)
        return found


class ContextScore:
    """Similarity of entities to the words around a mention, by which DCA selects candidates.

    Args:
        words: Word vectors in the same space.
    """

    def __init__(self, space: EntitySpace, words: WordVectors) -> None:
        self._space = space
        self._rows = words.rows()
        self._matrix = words.matrix

    def __call__(self, entities: Iterable[str], context: Iterable[str]) -> dict[str, float]:
        """Entity -> dot product of its vector and the sum of the context's word vectors."""
        rows = [self._rows[word] for word in context if word in self._rows]
        total = self._matrix[rows].sum(axis=0)
        return {entity: float(self._space.vector(entity) @ total) for entity in entities}


def words_of(text: str) -> tuple[str, ...]:
    """Words and numbers of a text in normal form, without signs."""
    return tuple(token.word for token in tokenize(text) if token.word.isalnum())


def unit(vector: Vector) -> Vector:
    """The vector at length 1; zero stays zero."""
    return (vector / max(float(np.linalg.norm(vector)), 1e-10)).astype(np.float32)
