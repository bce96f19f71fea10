"""The names of images in predictions, labels and readings: one rule for every verb."""

import os
from collections import Counter
from typing import Iterable, List

IMAGE_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima", ".png", ".jpg", ".jpeg")


def printable(name: str) -> str:
    """A path as text, with undecodable bytes and control characters as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def stem(name: str) -> str:
    """File name without an image suffix; other dots stay, since DICOM names are often UIDs."""
    base, suffix = os.path.splitext(name)
    return base if base and suffix.lower() in IMAGE_SUFFIXES else name


def image_ids(relatives: Iterable[str]) -> List[str]:
    """The shortest of stem, relative path without suffix, relative path that no other file shares.

    Args:
        relatives: Paths below one folder, with `/`, each once: so their names are unique too.
    """
    candidates = []
    for path in relatives:
        folder, base = os.path.split(path)
        candidates.append((stem(base), os.path.join(folder, stem(base)), path))
    shared = Counter(name for triple in candidates for name in set(triple))
    names = []
    for triple in candidates:
        free = [name for name in triple if shared[name] == 1]
        names.append(free[0] if free else triple[-1])
    return names
