"""Links of a report's mentions, as revised by a reader.

The linker proposes a code and an assertion for every mention. A reader's `MentionLink` replaces
the proposal for its characters, and may add a mention that the linker did not find. The result
determines which findings are offered for a box.
Source: Lin et al., KCAT: a knowledge-constraint typing annotation tool, ACL 2019 demos, 99-104.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from data_prep.annotation.agreement.consensus import vote_code
from data_prep.annotation.agreement.pairwise import cohen_kappa, percent_agreement
from data_prep.annotation.workspace.records import MAX_MENTIONS, MentionLink, Reading
from data_prep.reports.findings.concepts import NIL, ConceptBase, split_code
from data_prep.reports.findings.linking import LinkedConcept, finder_of, refine
from data_prep.reports.findings.scope import ASSERTIONS, UNCERTAIN
from pneumonia.runtime.errors import DataError


def proposed_links(
    base: ConceptBase, text: str, linked: Iterable[LinkedConcept]
) -> tuple[MentionLink, ...]:
    """The linker's proposal for every mention of a report; NIL where it found no concept.

    Args:
        linked: Output of `link_report` for it.
    """
    found = {concept.span: (concept.code, concept.assertion) for concept in linked}
    for mention in finder_of(base)(text):
        found.setdefault((mention.start, mention.end), (NIL, mention.assertion))
    return tuple(MentionLink(*span, *what) for span, what in sorted(found.items()))


def revise(
    linked: Sequence[LinkedConcept], decisions: Sequence[MentionLink]
) -> tuple[LinkedConcept, ...]:
    """The findings of a report after a reader's decisions, in text order; NIL is left out."""
    if not decisions:
        return tuple(linked)
    decided = {item.span for item in decisions}
    section = {concept.span: concept.section for concept in linked}
    kept = [concept for concept in linked if concept.span not in decided]
    for item in decisions:
        if item.code != NIL:
            heading, qualifiers = split_code(item.code)
            kept.append(
                LinkedConcept(
                    item.code, heading, qualifiers, item.assertion, item.span, 1.0,
                    section=section.get(item.span, ""),
                )
            )  # fmt: skip
    return tuple(sorted(kept, key=lambda concept: concept.span))


def check_links(
    decisions: Sequence[MentionLink],
    text: str,
    base: ConceptBase,
    stored: Collection[MentionLink] = (),
) -> None:
    """Check a reader's decisions on a report.

    Args:
        text: The report; empty when it is hidden from the reader.
        stored: Decisions stored before; valid even if the report is hidden or has changed since.

    Raises:
        DataError: Too many decisions, two on the same characters, or one that is outside the report
            or has an unknown code or assertion.
    """
    spans = {item.span for item in decisions}
    if len(decisions) > MAX_MENTIONS or len(spans) != len(decisions):
        raise DataError("Too many mentions, or one of them twice", found=str(len(decisions)))
    for item in decisions:
        if item in stored:
            continue
        if not 0 <= item.start < item.end <= len(text):
            raise DataError("Mention lies outside the report", f"0..{len(text)}")
        if item.code != NIL and item.code not in base:
            raise DataError("Concept is not in the base", found=repr(item.code[:80]))
        if item.assertion not in ASSERTIONS:
            raise DataError("Unknown assertion", ", ".join(ASSERTIONS), repr(item.assertion[:40]))


def candidate_codes(base: ConceptBase, text: str, span: tuple[int, int]) -> list[str]:
    """Concept codes that match the words of a mention, the most specific first.

    Args:
        span: Characters `[start, end)`; mentions that overlap them are used.
    """
    codes: dict[str, None] = {}
    for mention in finder_of(base)(text):
        if mention.start < span[1] and span[0] < mention.end:
            for target in mention.targets:
                codes[refine(base, target, mention.qualifiers)] = None
            codes.update(dict.fromkeys(mention.targets))
    return list(codes)


class LinkAgreement(NamedTuple):
    """Agreement of two annotators on the links of the reports that both have finished."""

    annotators: tuple[str, str]  # their names
    n_mentions: int  # mentions of these reports
    percent: float | None  # share with the same code and assertion, 0..1; None without mentions
    kappa: float | None  # Cohen's kappa of these labels; None where it is not defined


def final_links(
    proposed: Sequence[MentionLink], reading: Reading
) -> dict[tuple[int, int], MentionLink]:
    """Span -> link of a report after a reader's decisions."""
    return {item.span: item for item in (*proposed, *reading.mentions)}


def link_agreement(
    studies: Mapping[str, Sequence[Reading]], proposed: Mapping[str, Sequence[MentionLink]]
) -> list[LinkAgreement]:
    """Agreement of every pair on links, over studies in which one of them revised the linking.

    Args:
        studies: image_id -> readings.
        proposed: image_id -> the linker's proposal, for studies with a report.
    """
    labels: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for image_id, readings in studies.items():
        done = sorted((r for r in readings if r.finished), key=lambda r: r.annotator)
        for a, b in combinations(done, 2):
            if image_id not in proposed or not (a.mentions or b.mentions):
                continue
            first, second = (final_links(proposed[image_id], reading) for reading in (a, b))
            columns = labels.setdefault((a.annotator, b.annotator), ([], []))
            for span in sorted({*first, *second}):
                columns[0].append(_label(first.get(span)))
                columns[1].append(_label(second.get(span)))
    return [
        LinkAgreement(pair, len(a), percent_agreement(a, b), cohen_kappa(a, b))
        for pair, (a, b) in sorted(labels.items())
    ]


def _label(link: MentionLink | None) -> str:
    return "" if link is None else NIL if link.code == NIL else f"{link.code} {link.assertion}"


def vote_links(
    base: ConceptBase, proposed: Sequence[MentionLink], readings: Sequence[Reading]
) -> tuple[MentionLink, ...]:
    """Majority vote on the links of a report; a tie goes to the deepest common ancestor, or NIL.

    Args:
        readings: Finished readings of the study, at least one.
    """
    votes: dict[tuple[int, int], list[MentionLink]] = {}
    for reading in readings:
        for span, link in final_links(proposed, reading).items():
            votes.setdefault(span, []).append(link)
    made = []
    for span, links in sorted(votes.items()):
        missing = [NIL] * (len(readings) - len(links))  # a mention that only some readers marked
        code = vote_code(base, [link.code for link in links] + missing).code
        assertion = _majority_assertion([link.assertion for link in links])
        made.append(MentionLink(*span, code, assertion))
    return tuple(made)


def _majority_assertion(assertions: Sequence[str]) -> str:
    """The most frequent assertion; `uncertain` on a tie."""
    counts = Counter(assertions)
    best = [name for name, n in counts.items() if n == max(counts.values())]
    return best[0] if len(best) == 1 else UNCERTAIN
