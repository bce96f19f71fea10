"""Multi-step typing: the report narrows the findings offered for a box to a few candidates.

Step 1 a coarse type (group of the concept base); step 2 the concepts of the linked report that
belong to it, or without one the headings most often used; step 3 finer types below the chosen one.
NIL, the whole tree and prefix search are always available.
Source: Lin et al., KCAT: a knowledge-constraint typing annotation tool, ACL 2019 demos, 99-104.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from data_prep.annotation.workspace.records import Box
from data_prep.reports.findings.concepts import NOT_FINDINGS, ConceptBase, split_code
from data_prep.reports.findings.linking import LinkedConcept
from data_prep.reports.findings.scope import ABSENT, PRESENT, PRIOR, UNCERTAIN

MAX_OFFERED = 9  # one key each: 1 to 9
_RANK = {PRESENT: 0, UNCERTAIN: 1, PRIOR: 2}


class OfferedFinding(NamedTuple):
    """A finding type offered to the reader."""

    code: str  # node of the base
    coarse: str  # its group
    source: str  # `report`, `mention` (words of a mention of the report) or `frequent`
    assertion: str = ""  # assertion in the report; empty when `source` is not `report`
    span: tuple[int, int] | None = None  # its mention in the report, None when it has none
    other_side: bool = False  # whether the report places it on the side opposite to the box


def image_side(box_xyxy: Box, width: float) -> str:
    """The patient's side of a box on a frontal film: the patient's right is on the image's left.

    Empty for a box that crosses the midline by more than a fifth of its width.
    """
    x1, _, x2, _ = box_xyxy
    share = (min(x2, width / 2) - min(x1, width / 2)) / (x2 - x1)
    return "right" if share > 0.8 else "left" if share < 0.2 else ""


def offer_findings_of_report(
    base: ConceptBase, linked: Iterable[LinkedConcept], side: str = ""
) -> list[OfferedFinding]:
    """Offers from the report: present findings, then uncertain, then prior; never absent ones.

    Args:
        linked: Findings of the report.
        side: Side of the box, `right`, `left` or empty; findings on this side go first,
            findings of the other side last.
    """
    best: dict[str, tuple[tuple[int, int, int], OfferedFinding]] = {}
    for place, concept in enumerate(linked):
        known = concept.code in base and concept.heading not in NOT_FINDINGS
        if concept.assertion == ABSENT or not known:
            continue
        sided = bool(side) and concept.side in ("left", "right")
        other = sided and concept.side != side
        offer = OfferedFinding(
            concept.code, base.path(concept.code)[0], "report", concept.assertion, concept.span,
            other,
        )  # fmt: skip
        key = (2 if other else 0 if sided else 1, _RANK[concept.assertion], place)
        if concept.code not in best or key < best[concept.code][0]:
            best[concept.code] = (key, offer)
    return [offer for _, offer in sorted(best.values())]


def frequent(base: ConceptBase, coarse: str) -> list[OfferedFinding]:
    """Headings of a group, the most frequent in the training reports first."""
    names = [name for name in base.children(coarse) if name not in NOT_FINDINGS]
    names.sort(key=lambda name: (-_weight(base, name), name))
    return [OfferedFinding(name, coarse, "frequent") for name in names]


def _weight(base: ConceptBase, heading: str) -> int:
    return sum(base.counts[code] for code in base.by_heading.get(split_code(heading)[0], ()))


def refilter(
    base: ConceptBase,
    linked: Sequence[LinkedConcept],
    coarse: str,
    side: str = "",
) -> list[OfferedFinding]:
    """Step 2: candidates of a coarse type, the report's first, filled up with frequent headings.

    Raises:
        DataError: No such coarse type.
    """
    return _filled_up(base, offer_findings_of_report(base, linked, side), coarse)


def offer_findings_of_mention(
    base: ConceptBase, codes: Iterable[str], coarse: str = ""
) -> list[OfferedFinding]:
    """Concepts offered for a mention: those its words can denote, then frequent headings.

    Args:
        codes: Codes that its words can denote.
        coarse: Only codes of this coarse type, filled up with its frequent headings; empty = all
            codes, without others.

    Raises:
        DataError: No such coarse type.
    """
    offers = [OfferedFinding(code, base.path(code)[0], "mention") for code in codes if code in base]
    return _filled_up(base, offers, coarse) if coarse else offers


def _filled_up(
    base: ConceptBase, offers: Sequence[OfferedFinding], coarse: str
) -> list[OfferedFinding]:
    """The offers of a coarse type, and its frequent headings up to MAX_OFFERED."""
    offers = [offer for offer in offers if offer.coarse == coarse]
    taken = {offer.code for offer in offers}
    rest = [offer for offer in frequent(base, coarse) if offer.code not in taken]
    return (offers + rest)[: max(MAX_OFFERED, len(offers))]


def coarse_types(base: ConceptBase, linked: Sequence[LinkedConcept]) -> list[tuple[str, int]]:
    """Step 1: every group that has a finding, with its number of reported findings.

    The order is that of `groups`, the same for all studies, so that a group keeps its place.
    """
    counts: dict[str, int] = {}
    for offer in offer_findings_of_report(base, linked):
        counts[offer.coarse] = counts.get(offer.coarse, 0) + 1
    return [(root, counts.get(root, 0)) for root in groups(base)]


@lru_cache(maxsize=4)
def groups(base: ConceptBase) -> tuple[str, ...]:
    """Groups that have a finding, the most frequent in the training reports first."""
    used = {root: 0 for root in base.roots() if set(base.children(root)) - set(NOT_FINDINGS)}
    for code, count in base.counts.items():
        root = base.path(code)[0]
        if root in used and split_code(code)[0] not in NOT_FINDINGS:
            used[root] += count
    return tuple(sorted(used, key=lambda root: (-used[root], root)))


def describe(base: ConceptBase, node: str) -> dict[str, Any]:
    """Details of a finding type for display to the reader.

    Raises:
        DataError: No such node.
    """
    path = base.path(node)
    return {
        "code": node,
        "path": list(path),
        "also_called": [form.replace("..", "…") for form in base.aliases(node)][:12],
        "reports": base.counts.get(node, 0),
        "children": len(base.children(node)),
        "often_with": list(base.neighbours(split_code(node)[0]))[:5] if len(path) > 1 else [],
    }


class TypeIndex:
    """Prefix search over nodes, their words and their aliases; milliseconds at 10,000 types."""

    def __init__(self, base: ConceptBase) -> None:
        entries: set[tuple[str, int, str]] = set()
        for node in base:
            folded = node.casefold()
            entries.add((folded, 0, node))
            for at, character in enumerate(folded):
                if character in " /,-" and at + 1 < len(folded):
                    entries.add((folded[at + 1 :].lstrip(), 2, node))
        for form, code in base.all_aliases():
            if code in base:
                entries.add((form.casefold(), 1, code))
        self._entries = sorted(entries)

    def search(self, prefix: str, limit: int = 10) -> list[str]:
        """Nodes that match a prefix: by their start, then by an alias, then by an inner word.

        Args:
            prefix: Typed text; case and repeated blanks are ignored.
        """
        folded = " ".join(prefix.casefold().split())
        if not folded:
            return []
        start = bisect_left(self._entries, (folded,))
        stop = bisect_left(self._entries, (folded + "\U0010ffff",))
        best: dict[str, tuple[int, int, str]] = {}
        for _, kind, node in self._entries[start:stop]:
            key = (kind, len(node), node)
            if node not in best or key < best[node]:
                best[node] = key
        return sorted(best, key=best.__getitem__)[:limit]
