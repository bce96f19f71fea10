"""Entity-linking benchmark files, their word vectors, and entities known by name.

Mentions with candidates, priors and gold, tab-separated.

The format of AIDA-CoNLL, MSNBC, AQUAINT, ACE2004, CWEB and WIKI as used by Ganea and Hofmann (2017)
and later systems such as DCA. One mention per line:

    document  document  mention  left context  right context  CANDIDATES
    id,prior,name  id,prior,name ...  (or EMPTYCAND)  GT:  place,id,prior,name  (or -1,...)
"""

from collections.abc import Container, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from data_prep.reports.linker.candidates import pick
from data_prep.reports.linker.documents import (
    NIL,
    EntityCandidate,
    EntitySpace,
    LinkDocument,
    LinkMention,
    clamp,
)
from data_prep.reports.linker.spaces import ContextScore, Vector, unit, words_of
from data_prep.reports.linker.vectors import Matrix, WordVectors
from pneumonia.runtime.errors import DataError

ENTITY_PREFIX = "ENTITY/"  # marks entities among the words, as in files of Wikipedia2Vec
MAX_CANDIDATES = 50  # read per mention; `preselect` keeps fewer
_CONTEXT_WORDS = 50
_EMPTY = "EMPTYCAND"
_MAX_BYTES = 1 << 30


def read_candidate_file(path: Path, keep: int = MAX_CANDIDATES) -> list[LinkDocument]:
    """Documents of a benchmark file, in its order.

    The gold of a mention is an entity name, NIL when the file has none. Mentions without candidates
    are kept, since they count as errors.

    Args:
        keep: Candidates kept, best prior first.

    Raises:
        DataError: Missing, too large, not UTF-8, or a malformed line.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError("File is too large", expected="at most 1 GiB", where=str(path))
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(
            "Cannot read mentions", found=error.strerror or str(error), where=str(path)
        ) from None
    except UnicodeDecodeError:
        raise DataError("Mentions are not UTF-8", where=str(path)) from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(line.rstrip("\r").split("\t"), number, keep))
        except (ValueError, IndexError):
            raise DataError(
                "Line is not a mention with candidates",
                expected="document, document, mention, left, right, CANDIDATES, ..., GT:, gold",
                where=f"{path}, line {number}",
            ) from None
    if not rows:
        raise DataError("File has no mention", where=str(path))
    grouped = groupby(rows, key=lambda row: row[0])
    return [_document(name, tuple(mention for _, mention in found)) for name, found in grouped]


def _document(name: str, mentions: tuple[LinkMention, ...]) -> LinkDocument:
    """A document whose words are those around its mentions: the file has no further text."""
    words = dict.fromkeys(word for mention in mentions for word in mention.context)
    return LinkDocument(name, mentions, tuple(words))


def preselect(
    documents: Sequence[LinkDocument], space: EntitySpace, words: WordVectors
) -> list[LinkDocument]:
    """Keep eight candidates of each mention: four by prior, the others by context score."""
    score = ContextScore(space, words)
    found = []
    for document in documents:
        kept = tuple(
            mention._replace(
                candidates=pick(
                    mention.candidates,
                    score((c.entity for c in mention.candidates), mention.context),
                )
            )
            for mention in document.mentions
        )
        found.append(document._replace(mentions=kept))
    return found


def _row(fields: Sequence[str], number: int, keep: int) -> tuple[str, LinkMention]:
    end = fields.index("GT:")
    if fields[5] != "CANDIDATES" or end < 7:
        raise ValueError("columns")
    listed = [] if fields[6] == _EMPTY else [_candidate(field) for field in fields[6:end]]
    best: dict[str, float] = {}
    for name, prior in sorted(listed, key=lambda pair: -pair[1]):
        best.setdefault(name, prior)
    kept = tuple(EntityCandidate(name, clamp(prior)) for name, prior in list(best.items())[:keep])
    gold = fields[end + 1].split(",")
    name = NIL if gold[0] == "-1" else _name(gold[3:])
    left, right = words_of(fields[3])[-_CONTEXT_WORDS:], words_of(fields[4])[:_CONTEXT_WORDS]
    own = words_of(fields[2])
    mention = LinkMention(number, left + own + right, kept, name, size=len(best), surface=own)
    return f"{fields[0]} {fields[1]}", mention


def _candidate(field: str) -> tuple[str, float]:
    parts = field.split(",")
    prior = float(parts[1])
    if not 0 <= prior <= 1:
        raise ValueError("prior")
    return _name(parts[2:]), prior


def _name(parts: Sequence[str]) -> str:
    """Entity name with underscores for blanks, joined from fields that were split at commas."""
    name = ",".join(parts).strip().replace(" ", "_")
    if not name:
        raise ValueError("name")
    return name


class NameSpace:
    """Entities known by name: a row `ENTITY/name` of the vectors, else the mean of its words.

    Args:
        vectors: Word vectors, with entities as in files of Wikipedia2Vec.
        neighbours: Entity -> related entities, for example linked beside it in training.
        descriptions: Entity -> words of a text about it; the words of the name where it has none.
    """

    def __init__(
        self,
        vectors: WordVectors,
        neighbours: Mapping[str, Sequence[str]] | None = None,
        descriptions: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._rows = vectors.rows()
        self._matrix = vectors.matrix
        self.dimensions = vectors.matrix.shape[1]
        self.n_kinds = 2
        self._near = {name: tuple(others) for name, others in (neighbours or {}).items()}
        self._described = {name: tuple(words) for name, words in (descriptions or {}).items()}

    def vector(self, entity: str) -> Vector:
        """The entity's own vector, else the sum of its title's words; zeros without either."""
        own = self._rows.get(ENTITY_PREFIX + entity)
        if own is not None:
            return unit(self._matrix[own])
        rows = [self._rows[word] for word in self.title(entity) if word in self._rows]
        total = np.zeros(self.dimensions, np.float32)
        return unit(self._matrix[rows].sum(axis=0)) if rows else total

    def neighbours(self, entity: str) -> tuple[str, ...]:
        """Neighbours passed to the constructor."""
        return self._near.get(entity, ())

    def kind(self, entity: str) -> int:
        """0 for NIL, 1 for any other entity."""
        return int(entity != NIL)

    def title(self, entity: str) -> tuple[str, ...]:
        """Words of the name."""
        return () if entity == NIL else words_of(entity.replace("_", " "))

    def description(self, entity: str) -> tuple[str, ...]:
        """Words passed to the constructor, else those of the name."""
        return self._described.get(entity) or self.title(entity)


def read_vectors(path: Path, wanted: Container[str] | None = None) -> WordVectors:
    """Read a text file of vectors, as of word2vec, GloVe, fastText and Wikipedia2Vec.

    One word per line, then its numbers, separated by blanks; an optional first line has two whole
    numbers (words and dimensions). Vectors are scaled to unit length; of equal words the first is
    used.

    Args:
        path: UTF-8 file, read line by line; it may be larger than memory.
        wanted: Words to keep; None = all.

    Raises:
        DataError: The file cannot be read, a line is malformed, or no wanted word is in it.
    """
    kept: dict[str, Matrix] = {}
    size = number = 0
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                parts = line.split()
                if not parts:
                    continue
                if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
                    size = int(parts[1])
                    continue
                size = size or len(parts) - 1
                word, *numbers = line.strip().rsplit(None, size)
                if size < 1 or len(numbers) != size:
                    raise ValueError("columns")
                if word in kept or (wanted is not None and word not in wanted):
                    continue
                vector = np.array(numbers, np.float32)
                if not np.isfinite(vector).all():
                    raise ValueError("not finite")
                kept[word] = vector / max(float(np.linalg.norm(vector)), 1e-10)
    except OSError as error:
        raise DataError(
            "Cannot read vectors", found=error.strerror or str(error), where=str(path)
        ) from None
    except ValueError:  # UnicodeDecodeError is one
        raise DataError(
            "Line is not a word with its vector",
            expected=f"a word and {size} numbers" if size > 0 else "a word and numbers, in UTF-8",
            where=f"{path}, line {max(1, number)}",
        ) from None
    if not kept:
        raise DataError("File has no vector of a wanted word", where=str(path))
    return WordVectors(tuple(kept), np.stack(list(kept.values())))
