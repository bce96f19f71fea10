"""A small probabilistic grammar, and text drawn from it for language models.

Reports of one to several sentences about one of eight topics. A verb agrees with its noun's number
across relative clauses, and words of a report's topic are likelier, so that a model of the text
needs a memory. The words have no meaning: token k is just number k.
"""

from typing import NamedTuple

import numpy as np

N_TOPICS, NOUNS, ADJECTIVES, VERBS = 8, 6, 4, 4
END = "end"
Rule = tuple[float, tuple[str, ...]]  # probability, symbols


class Text(NamedTuple):
    """Text of a grammar."""

    tokens: np.ndarray  # int64 (N,)
    vocabulary: int  # number of different tokens
    perplexity: float  # of the grammar itself on this text, which no model can beat in expectation


def _ranked(words: list[str]) -> list[Rule]:
    """One rule per word; its probability is proportional to 1 / rank (Zipf's law)."""
    shares = 1 / np.arange(1, len(words) + 1)
    return [(p, (w,)) for p, w in zip((shares / shares.sum()).tolist(), words, strict=True)]


def grammar() -> dict[str, list[Rule]]:
    """The production rules of each symbol; symbols without rules are the words of the text."""
    topics = range(N_TOPICS)
    rules: dict[str, list[Rule]] = {
        "report": [(1 / N_TOPICS, (f"sentences{t}",)) for t in topics],
        "object": [(0.5 / N_TOPICS, (f"group{t}{n}",)) for t in topics for n in "sp"],
    }
    for t in topics:
        rules[f"sentences{t}"] = [
            (0.75, (f"sentence{t}", f"sentences{t}")), (0.25, (f"sentence{t}", END))
        ]  # fmt: skip
        rules[f"sentence{t}"] = [(0.5, (f"group{t}{n}", f"predicate{t}{n}", ".")) for n in "sp"]
        rules[f"adjective{t}"] = _ranked([f"adjective{t}.{k}" for k in range(ADJECTIVES)])
        for n in "sp":
            noun = f"noun{t}{n}"
            rules[noun] = _ranked([f"noun{t}.{k}{n}" for k in range(NOUNS)])
            rules[f"verb{t}{n}"] = _ranked([f"verb{t}.{k}{n}" for k in range(VERBS)])
            rules[f"group{t}{n}"] = [
                (0.45, (f"the{n}", noun)),
                (0.30, (f"the{n}", f"adjective{t}", noun)),
                (0.15, (f"the{n}", noun, "of", "object")),
                (0.10, (f"the{n}", noun, "that", f"predicate{t}{n}", ",")),
            ]
            rules[f"predicate{t}{n}"] = [
                (0.40, (f"is{n}", f"adjective{t}")),
                (0.15, (f"is{n}", "not", f"adjective{t}")),
                (0.45, (f"verb{t}{n}", "object")),
            ]
    return rules


def text(n_tokens: int, seed: int) -> Text:
    """At least `n_tokens` tokens of whole reports.

    Args:
        n_tokens: Least length.
    """
    rules = grammar()
    words = sorted({s for own in rules.values() for _, part in own for s in part} - set(rules))
    number = {word: k for k, word in enumerate(words)}
    limits = {symbol: np.cumsum([p for p, _ in own]) for symbol, own in rules.items()}
    rng = np.random.default_rng(seed)
    tokens: list[int] = []
    bits = 0.0
    while len(tokens) < n_tokens:
        left = ["report"]
        while left:
            symbol = left.pop()
            if symbol in number:
                tokens.append(number[symbol])
                continue
            own = rules[symbol]
            chosen = min(int(np.searchsorted(limits[symbol], rng.random())), len(own) - 1)
            bits -= np.log2(own[chosen][0])
            left += reversed(own[chosen][1])
    return Text(np.array(tokens, np.int64), len(words), float(2 ** (bits / len(tokens))))
