"""Candidate codes of a mention, with p(code | mention) learnt from coded reports.

p = p(heading | alias) p(qualifiers | heading, words beside the mention). The second factor is naive
Bayes over qualifiers: how often a word for `left` is beside codes with and without `left`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from data_prep.reports.findings.concepts import NIL, ConceptBase, split_code
from data_prep.reports.findings.mentions import Mention
from data_prep.reports.linker.documents import EntityCandidate, clamp

MAX_CANDIDATES = 8  # besides NIL: half by prior, half by context
_ALIAS_SMOOTHING = 1.0
_QUALIFIER_SMOOTHING = 1.0
_NEW_CODE_COUNT = 0.3  # pseudo-count of a code given by the words but in no training report


class AliasPriors(BaseModel):
    """Statistics of aliases and qualifiers from coded reports."""

    # alias and mention kind -> heading or NIL -> number of mentions
    headings: dict[str, dict[str, int]]
    # qualifier -> (mentions whose code has it, those of them with its word in the text)
    hits: dict[str, tuple[int, int]]
    # qualifier -> (mentions whose code lacks it, those of them with its word)
    misses: dict[str, tuple[int, int]]


def best_gold(mention: Mention, codes: Sequence[str]) -> str:
    """Most likely code of a mention among the report's codes; NIL when no heading fits.

    Reports are coded as a whole, so this is a guess (distant supervision): of the codes whose
    heading the alias can denote, the one whose qualifiers agree most with the words beside it.
    """
    targets = {split_code(target)[0] for target in mention.targets}
    words = set(mention.qualifiers)
    best, best_key = NIL, (-1.0, 0)
    for code in codes:
        heading, qualifiers = split_code(code)
        if heading not in targets:
            continue
        own = set(qualifiers)
        shared = len(own & words)
        key = (shared / max(1, len(own | words)), -len(own - words))
        if key > best_key:
            best, best_key = code, key
    return best


def learn_priors(
    base: ConceptBase, pairs: Iterable[tuple[Sequence[Mention], Sequence[str]]]
) -> AliasPriors:
    """Count over (mentions, codes) of reports; `best_gold` assigns a code to each mention."""
    headings: dict[str, Counter[str]] = {}
    hits: dict[str, list[int]] = {}
    misses: dict[str, list[int]] = {}
    for mentions, codes in pairs:
        for mention in mentions:
            gold = best_gold(mention, codes)
            for key in prior_keys(mention):
                headings.setdefault(key, Counter())[split_code(gold)[0]] += 1
            if gold == NIL:
                continue
            heading, own = split_code(gold)
            for name in _qualifiers_of_heading(base, heading):
                pair = (hits if name in own else misses).setdefault(name, [0, 0])
                pair[0] += 1
                pair[1] += name in mention.qualifiers
    return AliasPriors.model_validate(
        {
            "headings": headings,
            "hits": dict(sorted(hits.items())),
            "misses": dict(sorted(misses.items())),
        }
    )


def prior_keys(mention: Mention) -> tuple[str, str]:
    """Keys of a mention's statistics: alias with assertion, and alias alone as a fallback."""
    return f"{mention.alias}|{mention.assertion}", mention.alias


def _qualifiers_of_heading(base: ConceptBase, heading: str) -> list[str]:
    names: dict[str, None] = {}
    for code in base.by_heading.get(heading, ()):
        names.update(dict.fromkeys(split_code(code)[1]))
    return list(names)


class _HeadingTable(NamedTuple):
    """The codes of a heading: log counts (n,), qualifiers, membership bool (n, q)."""

    codes: tuple[str, ...]
    counts: npt.NDArray[np.float64]
    names: tuple[str, ...]
    has: npt.NDArray[np.bool_]


class CandidateGenerator:
    """Generates the candidates of mentions."""

    def __init__(self, base: ConceptBase, priors: AliasPriors) -> None:
        self.base = base
        self.priors = priors
        self._tables: dict[str, _HeadingTable] = {}

    def heading_prior(self, mention: Mention) -> dict[str, float]:
        """p(heading | alias, assertion) with NIL, smoothed by p(heading | alias)."""
        targets = list(dict.fromkeys(split_code(target)[0] for target in mention.targets))
        narrow, wide = (self.priors.headings.get(key, {}) for key in prior_keys(mention))
        names = [*targets, NIL]
        flat = {name: 1 / len(names) for name in names}
        broad = _smoothed(wide, flat)
        return _smoothed(narrow, broad)

    def all_codes(self, mention: Mention) -> list[EntityCandidate]:
        """Every code of the mention's headings and NIL, best first; priors sum to 1."""
        found = []
        for heading, p_heading in self.heading_prior(mention).items():
            if heading == NIL:
                found.append(EntityCandidate(NIL, p_heading))
                continue
            codes, shares = self._within(heading, mention)
            pairs = zip(codes, (p_heading * shares).tolist(), strict=True)
            found += [EntityCandidate(code, share) for code, share in pairs]
        return sorted(found, key=lambda candidate: -candidate.prior)

    @staticmethod
    def best_code(ranked: Sequence[EntityCandidate]) -> str:
        """The most probable code other than NIL."""
        return next((c.entity for c in ranked if c.entity != NIL), NIL)

    def _within(
        self, heading: str, mention: Mention
    ) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
        """Codes of a heading and their p(code | heading, qualifiers beside the mention)."""
        table = self._table(heading)
        implied = next((t for t in mention.targets if split_code(t)[0] == heading), heading)
        words = {*mention.qualifiers, *split_code(implied)[1]}
        usual = tuple(name for name in table.names if name in words)
        spelt = "/".join([heading, *usual])
        codes, counts, has = table.codes, table.counts, table.has
        if spelt not in codes and not any(set(usual) == set(split_code(c)[1]) for c in codes):
            row = np.array([[name in words for name in table.names]], dtype=np.bool_)
            codes, has = (*codes, spelt), np.vstack([has, row])
            counts = np.append(counts, _NEW_CODE_COUNT)
        score = np.log(counts)
        if table.names:
            evidence = np.array([self._evidence(name, name in words) for name in table.names])
            score = score + np.where(has, evidence[:, 0], evidence[:, 1]).sum(axis=1)
        shares = np.exp(score - score.max())
        return codes, shares / shares.sum()

    def _evidence(self, name: str, found: bool) -> tuple[float, float]:
        """Log p(word found or not | code has the qualifier), log p(... | code lacks it)."""
        logs = []
        for (n, k), guess in ((self.priors.hits.get(name, (0, 0)), 0.7),
                              (self.priors.misses.get(name, (0, 0)), 0.05)):  # fmt: skip
            weight = 2 * _QUALIFIER_SMOOTHING
            share = (k + weight * guess) / (n + weight)
            logs.append(float(np.log(share if found else 1 - share)))
        return logs[0], logs[1]

    def _table(self, heading: str) -> _HeadingTable:
        table = self._tables.get(heading)
        if table is None:
            codes = tuple(self.base.by_heading.get(heading, ())) or (heading,)
            names = tuple(self._order(_qualifiers_of_heading(self.base, heading)))
            has = np.array(
                [[name in split_code(code)[1] for name in names] for code in codes], dtype=np.bool_
            ).reshape(len(codes), len(names))
            counts = np.array([max(0.5, self.base.counts.get(code, 0)) for code in codes])
            table = self._tables[heading] = _HeadingTable(codes, counts, names, has)
        return table

    def _order(self, names: Sequence[str]) -> list[str]:
        """Qualifiers in the order used in codes: site, side, appearance; see `mean_places`."""
        if not hasattr(self, "_places"):
            self._places = mean_places(self.base)
        return sorted(names, key=lambda name: (self._places.get(name, 1.0), name))


def mean_places(base: ConceptBase) -> dict[str, float]:
    """Mean relative place (0 first, 1 last) of every qualifier in the base's codes."""
    sums: dict[str, list[float]] = {}
    for code, count in base.counts.items():
        names = split_code(code)[1]
        for at, name in enumerate(names):
            pair = sums.setdefault(name, [0.0, 0.0])
            pair[0] += count * (at + 0.5) / len(names)
            pair[1] += count
    return {name: total / max(weight, 1e-9) for name, (total, weight) in sums.items()}


def _smoothed(counts: Mapping[str, int], prior: Mapping[str, float]) -> dict[str, float]:
    total = sum(counts.get(name, 0) for name in prior) + _ALIAS_SMOOTHING
    return {n: (counts.get(n, 0) + _ALIAS_SMOOTHING * p) / total for n, p in prior.items()}


def pick(
    ranked: Sequence[EntityCandidate],
    context_score: Mapping[str, float],
    inherited: Sequence[str] = (),
    keep: int = MAX_CANDIDATES,
) -> tuple[EntityCandidate, ...]:
    """Select candidates: half of `keep` by prior, inherited ones, best by context, then NIL.

    Args:
        ranked: Best prior first.
        context_score: Entity -> similarity to the words around the mention.
        inherited: Entities of possibly coreferent mentions, best first.
        keep: Candidates besides NIL.
    """
    codes = [candidate for candidate in ranked if candidate.entity != NIL]
    chosen = codes[: keep - keep // 2]
    rest = codes[len(chosen) :]
    wanted = {entity: -at for at, entity in enumerate(inherited)}
    passed_on = [candidate for candidate in rest if candidate.entity in wanted]
    passed_on.sort(key=lambda candidate: -wanted[candidate.entity])
    chosen += passed_on[: keep - len(chosen)]
    rest = [candidate for candidate in rest if candidate not in chosen]
    rest.sort(key=lambda candidate: -context_score.get(candidate.entity, -1e9))
    chosen += rest[: keep - len(chosen)]
    chosen += [candidate for candidate in ranked if candidate.entity == NIL]
    return tuple(EntityCandidate(entity, clamp(prior)) for entity, prior in chosen)
