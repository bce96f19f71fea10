"""The concept base: the codes of findings, their hierarchy and their aliases.

A code is a heading with qualifiers, `Opacity/lung/lower lobe/left`. The base is one JSON file; the
default one, beside this module, holds the codes of the OpenI training reports and hand-written
aliases; it contains no text of a report.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.json_files import read_json_object

SCHEMA = "pneumonia.concepts/1"
DEFAULT_BASE = Path(__file__).with_name("concepts_openi.json")
LEXICON = Path(__file__).with_name("lexicon.json")
NIL = "NIL"
NORMAL = "normal"
NOT_FINDINGS = (NORMAL, "No Indexing")  # codes of a whole report, never of a mention
OTHER = "Other"  # root of headings that belong to no group
N_NEIGHBOURS = 8  # kept per heading
_MAX_BYTES = 64 << 20

Json = dict[str, Any]
Name = Annotated[str, Field(min_length=1)]
Names = dict[str, list[Name]]


def split_code(code: str) -> tuple[str, tuple[str, ...]]:
    """`Opacity/lung/left` -> (`Opacity`, (`lung`, `left`))."""
    heading, *qualifiers = code.split("/")
    return heading, tuple(qualifiers)


def same_code(code: str) -> tuple[str, frozenset[str]]:
    """Comparison key of a code, independent of qualifier order and case."""
    heading, qualifiers = split_code(tidy_code(code).casefold())
    return heading, frozenset(qualifiers)


def tidy_code(code: str) -> str:
    """Single spaces, none around the slashes, qualifiers in lower case and each once."""
    parts = [re.sub(r"\s+", " ", part).strip() for part in code.split("/")]
    return "/".join([parts[0], *dict.fromkeys(part.lower() for part in parts[1:] if part)])


class ConceptTables(BaseModel):
    """What the file of a concept base holds."""

    model_config = ConfigDict(strict=True)

    source: Json = {}  # where the counts come from
    groups: Names = {}  # group -> its headings; a heading without a group is a child of `Other`
    opacity: list[Name] = []  # headings of a lung opacity in the sense of the RSNA challenge
    opacity_like: list[Name] = []  # headings that may hide or resemble one
    elsewhere: list[Name] = []  # qualifiers of organs other than the lung
    aliases: Names = {}  # code -> surface forms; `..` stands for up to five other words
    qualifiers: Names = {}  # qualifier -> surface forms
    neighbours: Names = {}  # heading -> those that often occur in the same report, best first
    codes: dict[Name, NonNegativeInt] = {}  # code -> number of training reports coded with it


class ConceptBase:
    """Headings, qualifiers, hierarchy, aliases and neighbours.

    A node is a group (`Lungs`), a heading (`Opacity`) or a code below it. Every prefix of a code
    is a node, even if no report was coded with it. NIL is not a node.
    """

    def __init__(self, tables: ConceptTables) -> None:
        self._tables = tables
        self.groups, self.source, self.counts = tables.groups, tables.source, tables.codes
        self.qualifier_aliases = tables.qualifiers
        self.opacity, self.opacity_like = tables.opacity, tables.opacity_like
        self.elsewhere = tables.elsewhere
        self._group_of = {h: group for group, names in self.groups.items() for h in names}
        self._parent: dict[str, str | None] = {}
        self._children: dict[str, list[str]] = {}
        for code in (*self.counts, *tables.aliases, *self._group_of):
            self._insert(code)
        self._ordered = sorted(self._parent, key=lambda node: (node.casefold(), node))
        self.by_heading: dict[str, list[str]] = {}
        for code in sorted(self.counts, key=lambda c: (-self.counts[c], c)):
            self.by_heading.setdefault(split_code(code)[0], []).append(code)
        self._below: dict[str, tuple[str, ...]] = {}
        self._same = {same_code(code): code for code in reversed(list(self.counts))}

    def _insert(self, code: str) -> None:
        parts = code.split("/")
        heading = parts[0]
        group = self._group_of.get(heading, OTHER)
        self._link(group, None)
        self._link(heading, group)
        for depth in range(1, len(parts)):
            self._link("/".join(parts[: depth + 1]), "/".join(parts[:depth]))

    def _link(self, node: str, parent: str | None) -> None:
        if node in self._parent or node == parent:
            return
        self._parent[node] = parent
        if parent is not None:
            self._children.setdefault(parent, []).append(node)

    def __contains__(self, node: object) -> bool:
        return node in self._parent

    def __iter__(self) -> Iterator[str]:
        """Every node, in alphabetical order."""
        return iter(self._ordered)

    def __len__(self) -> int:
        return len(self._parent)

    @property
    def headings(self) -> tuple[str, ...]:
        """Every heading, in alphabetical order."""
        return tuple(node for node in self._ordered if self._depth(node) == 1)

    def _depth(self, node: str) -> int:
        parent = self._parent[node]
        return 0 if parent is None else 1 + self._depth(parent)

    def roots(self) -> tuple[str, ...]:
        """The groups: the coarsest types."""
        return tuple(node for node, parent in self._parent.items() if parent is None)

    def children(self, node: str) -> tuple[str, ...]:
        """The nodes one step finer, in alphabetical order; () for a leaf.

        Raises:
            DataError: No such node.
        """
        self._known(node)
        return tuple(sorted(self._children.get(node, ()), key=str.casefold))

    def path(self, node: str) -> tuple[str, ...]:
        """From the root to the node, both included.

        Raises:
            DataError: No such node.
        """
        self._known(node)
        steps = [node]
        while (parent := self._parent[steps[-1]]) is not None:
            steps.append(parent)
        return tuple(reversed(steps))

    def aliases(self, code: str) -> tuple[str, ...]:
        """Surface forms of a code, as written in the file; () when it has none of its own."""
        return tuple(self._tables.aliases.get(code, ()))

    def all_aliases(self) -> Iterator[tuple[str, str]]:
        """(surface form, code) of the whole base; a heading without aliases is its own."""
        for code, forms in self._tables.aliases.items():
            for form in forms:
                yield form, code
        named = {split_code(code)[0] for code in self._tables.aliases}
        for heading in self.headings:
            if heading not in named and heading not in NOT_FINDINGS:
                yield heading, heading

    def neighbours(self, code: str) -> tuple[str, ...]:
        """Headings that often occur in the same report, best first."""
        return tuple(self._tables.neighbours.get(split_code(code)[0], ()))

    def group(self, code: str) -> str:
        """The group (root node) of a code."""
        return self._group_of.get(split_code(code)[0], OTHER)

    def canonical(self, code: str) -> str:
        """Spelling of a code in the base, ignoring order and case; else the tidied code."""
        return self._same.get(same_code(code), tidy_code(code))

    def with_counts(self, counts: Mapping[str, int]) -> "ConceptBase":
        """Copy of the base with other code counts; everything else is shared."""
        return ConceptBase(self._tables.model_copy(update={"codes": dict(counts)}))

    def below(self, heading: str) -> tuple[str, ...]:
        """The heading and every node below it, the most frequent codes first."""
        if heading not in self._below:
            found = [heading, *self.by_heading.get(heading, ())]
            pending = [heading]
            while pending:
                deeper = self._children.get(pending.pop(), [])
                found += deeper
                pending += deeper
            self._below[heading] = tuple(dict.fromkeys(found))
        return self._below[heading]

    def means_opacity(self, code: str) -> bool:
        """Whether a code is a lung opacity: an opacity heading without a site in another organ."""
        heading, qualifiers = split_code(code)
        return heading in self.opacity and not set(self.elsewhere).intersection(qualifiers)

    def _known(self, node: str) -> None:
        if node not in self._parent:
            raise DataError("Concept is not in the base", found=repr(node[:80]))

    def as_json(self) -> Json:
        """The base as the JSON object that `save` writes."""
        return {"schema": SCHEMA, **self._tables.model_dump()}

    def save(self, path: Path) -> None:
        """Write the base as JSON, one entry per line, for editing and diffs.

        Raises:
            OutputError: The file cannot be written.
        """
        parts = []
        for key, value in self.as_json().items():
            if isinstance(value, dict) and value and key != "source":
                rows = ",\n".join(f"  {_dump(name)}: {_dump(v)}" for name, v in value.items())
                parts.append(f" {_dump(key)}: {{\n{rows}\n }}")
            else:
                parts.append(f" {_dump(key)}: {_dump(value)}")
        write_text(str(path), "{\n" + ",\n".join(parts) + "\n}\n")

    @classmethod
    def load(cls, path: Path | None = None) -> "ConceptBase":
        """Read a base.

        Args:
            path: A file of `save`; None = the default base.

        Raises:
            DataError: The file is missing, has another schema, or is malformed.
        """
        path = path or DEFAULT_BASE
        try:
            tables = ConceptTables.model_validate(read_json(path, SCHEMA))
        except ValidationError as error:
            fault = error.errors()[0]
            raise DataError(
                "Concept base is malformed",
                found=f"{'.'.join(map(str, fault['loc']))[:80]}: {fault['msg']}",
                where=str(path),
            ) from None
        if NIL in tables.codes:
            raise DataError("NIL means no concept and cannot be a code", where=str(path))
        return cls(tables)


def build_base(reports: Iterable[Sequence[str]], source: Mapping[str, Any]) -> ConceptBase:
    """Build a base from the codes of reports and the hand-written lexicon.

    Args:
        reports: The codes of each report.
    """
    lexicon = read_json(LEXICON, "pneumonia.lexicon/1")
    spelling = {h.casefold(): h for names in lexicon["groups"].values() for h in names}
    first: dict[tuple[str, frozenset[str]], str] = {}
    counts: Counter[str] = Counter()
    singles: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    n_reports = 0
    for codes in reports:
        n_reports += 1
        kept = {_respell(code, spelling) for code in codes}
        counts.update(dict.fromkeys(sorted(first.setdefault(same_code(c), c) for c in kept), 1))
        headings = sorted({split_code(code)[0] for code in kept} - set(NOT_FINDINGS))
        singles.update(headings)
        pairs.update((a, b) for a in headings for b in headings if a != b)
    named = ("groups", "aliases", "qualifiers", "opacity", "opacity_like", "elsewhere")
    return ConceptBase(
        ConceptTables(
            **{name: lexicon[name] for name in named},
            neighbours=_neighbours(singles, pairs, n_reports),
            codes=dict(sorted(counts.items())),
            source={**source, "reports": n_reports},
        )
    )


def _respell(code: str, spelling: Mapping[str, str]) -> str:
    heading, qualifiers = split_code(tidy_code(code))
    return "/".join([spelling.get(heading.casefold(), heading), *qualifiers])


def _neighbours(
    singles: Mapping[str, int], pairs: Mapping[tuple[str, str], int], n_reports: int
) -> dict[str, list[str]]:
    """Heading -> the headings that occur with it more often than by chance, at most N_NEIGHBOURS.

    Ranked by pointwise mutual information times the count.
    """
    from math import log

    scored: dict[str, list[tuple[float, str]]] = {}
    for (a, b), both in pairs.items():
        gain = both * log(both * n_reports / (singles[a] * singles[b]))
        if both >= 2 and gain > 0:
            scored.setdefault(a, []).append((-gain, b))
    return {a: [b for _, b in sorted(found)[:N_NEIGHBOURS]] for a, found in sorted(scored.items())}


def read_json(path: Path, schema: str) -> Json:
    """Read a JSON object with a schema.

    Raises:
        DataError: Missing, too large, not JSON, or of another schema.
    """
    table = read_json_object(str(path), "File", DataError)
    found = table.get("schema")
    if found != schema:
        raise DataError(
            "File has another schema", expected=repr(schema), found=repr(found)[:80],
            where=str(path),
        )  # fmt: skip
    return table


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
