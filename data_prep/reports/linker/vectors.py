"""Word and entity vectors, trained from co-occurrence.

They are positive pointwise mutual information, reduced by SVD (scikit-learn). Source:
Levy, Goldberg, Dagan, TACL 3 (2015) 211-225: on small corpora this is at least as good as
skip-gram.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia.runtime.errors import ConfigError, DataError

Matrix = npt.NDArray[np.float32]
WINDOW = 5  # words to either side that count as neighbours
MIN_COUNT = 3  # rarer words get no vector
_SMOOTHING = 0.75  # exponent of the context distribution: lowers the weight of rare words


class WordVectors(NamedTuple):
    """Vectors of unit length; unknown words have the zero vector."""

    words: tuple[str, ...]  # in the order of the rows
    matrix: Matrix  # float32 (len(words), dimensions)

    def rows(self) -> dict[str, int]:
        """Word -> row."""
        return {word: row for row, word in enumerate(self.words)}


def train_vectors(
    sentences: Iterable[Sequence[str]],
    dimensions: int = 100,
    together: Iterable[tuple[Sequence[str], Sequence[str]]] = (),
) -> WordVectors:
    """Learn vectors of words and, in the same space, of the names in `together`.

    Args:
        sentences: Words in normal form.
        dimensions: Length of a vector; fewer when there are fewer words.
        together: (words, names): every name co-occurs with every word, and with every other name.

    Raises:
        DataError: There are too few words to learn from.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    counts: Counter[str] = Counter()
    for words in sentences:
        counts.update(words)
        for at, word in enumerate(words):
            pairs.update((word, other) for other in words[at + 1 : at + 1 + WINDOW])
    for words, names in together:
        counts.update(names)
        pairs.update((name, word) for name in names for word in words)
        pairs.update((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    vocabulary = tuple(sorted(word for word, n in counts.items() if n >= MIN_COUNT))
    rows = {word: row for row, word in enumerate(vocabulary)}
    kept = [(rows[a], rows[b], n) for (a, b), n in pairs.items() if a in rows and b in rows]
    if len(vocabulary) < 3 or not kept:
        raise DataError(
            "Too little text to learn word vectors from",
            expected=f"words that occur {MIN_COUNT} times",
            found=f"{len(vocabulary)} such words",
        )
    return WordVectors(vocabulary, _factorise(kept, len(vocabulary), dimensions))


def _solver(dimensions: int) -> Any:
    try:
        from sklearn.decomposition import TruncatedSVD
    except ModuleNotFoundError:
        raise ConfigError(
            "Training a linker needs scikit-learn",
            fix='Install it: pip install "pneumonia[reports]"',
        ) from None
    return TruncatedSVD(dimensions, random_state=0)


def _factorise(pairs: list[tuple[int, int, int]], size: int, dimensions: int) -> Matrix:
    solver = _solver(min(dimensions, size - 1))
    from scipy.sparse import coo_matrix

    a, b, n = (np.array(column) for column in zip(*pairs, strict=True))
    values = np.concatenate([n, n]).astype(np.float64)
    places = (np.concatenate([a, b]), np.concatenate([b, a]))
    counts = coo_matrix((values, places), shape=(size, size)).tocsr().tocoo()
    total = counts.data.sum()
    sums = np.asarray(counts.sum(axis=1)).ravel()
    context = sums**_SMOOTHING
    context /= context.sum()
    gain = np.log(counts.data / (total * (sums / total)[counts.row] * context[counts.col]))
    positive = coo_matrix((np.maximum(gain, 0), (counts.row, counts.col)), shape=counts.shape)
    vectors = solver.fit_transform(positive.tocsr())
    # square root of the singular values as weight, best for similarity (Levy et al., section 7)
    vectors /= np.sqrt(np.maximum(solver.singular_values_, 1e-12))
    padded = np.zeros((size, dimensions))
    padded[:, : vectors.shape[1]] = vectors
    norm = np.linalg.norm(padded, axis=1, keepdims=True)
    found: Matrix = (padded / np.maximum(norm, 1e-10)).astype(np.float32)
    return found
