"""Entity-linking benchmark files: mentions with candidates, priors and gold, tab-separated.

The format of AIDA-CoNLL, MSNBC, AQUAINT, ACE2004, CWEB and WIKI as used by Ganea and Hofmann (2017)
and later systems such as DCA. One mention per line:

    document  document  mention  left context  right context  CANDIDATES
    id,prior,name  id,prior,name ...  (or EMPTYCAND)  GT:  place,id,prior,name  (or -1,...)
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from data_prep.reports.linker.candidates import pick
from data_prep.reports.linker.documents import (
    NIL,
    EntityCandidate,
    EntitySpace,
    LinkDocument,
    LinkMention,
    clamp,
)
from data_prep.reports.linker.spaces import ContextScore, words_of
from data_prep.reports.linker.vectors import WordVectors
from pneumonia.runtime.errors import DataError

MAX_CANDIDATES = 50  # read per mention; `preselect` keeps fewer
_CONTEXT_WORDS = 50
_EMPTY = "EMPTYCAND"
_MAX_BYTES = 1 << 30


def read_candidate_file(path: Path, keep: int = MAX_CANDIDATES) -> list[LinkDocument]:
    """Documents of a benchmark file, in its order.

    The gold of a mention is an entity name, NIL when the file has none. Mentions without candidates
    are kept, since they count as errors.

    Args:
        path: The file.
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
