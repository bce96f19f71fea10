"""Cues of negation, uncertainty and history: what scope_rules.yaml lists, and its categories."""

from pathlib import Path
from typing import NamedTuple

import yaml

from data_prep.reports.findings.text import word_set

PRESENT, ABSENT, UNCERTAIN, PRIOR = "present", "absent", "uncertain", "prior"
ASSERTIONS = (PRESENT, ABSENT, UNCERTAIN, PRIOR)

NEUTRAL = "neutral"  # resembles a cue but asserts nothing; its words are consumed
EARLIER = "earlier"  # PRIOR unless the sentence states that the finding persists
DOUBTED = "doubted"  # a doubted negation: UNCERTAIN, although a negation reaches the finding

FORWARD, BACKWARD = "forward", "backward"
FLIP = "flip"  # forward, or backward where no finding follows in the clause
FLIP_BACK = "flip back"  # backward, or forward where no finding precedes in the clause
ADJACENT = "adjacent"  # backward to the finding just before, across no comma
NEXT = "next"  # forward to the next finding only
BESIDE = "beside"  # the nearest finding to either side
TOUCHING = "touching"  # the finding that begins within two words
ADJECTIVE = "adjective"  # like FLIP, but does not end a list of absent findings


class ScopeRule(NamedTuple):
    """A cue: assertion category, direction of its scope, and phrases."""

    category: str
    direction: str
    phrases: list[str]


_FILE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
RULES = [ScopeRule(**rule) for rule in _FILE["rules"]]
# The words of a class of phrases, and those that decide where a scope ends.
CLASSES = {name: word_set(words) for name, words in _FILE["classes"].items()}
WORDS = {name: word_set(words) for name, words in _FILE["words"].items()}
