"""Counts in messages and pages."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun, such as `1 file` or `1,200 studies`.

    Args:
        plural: The plural; empty for the noun with `s`.
    """
    return "{:,} {}".format(count, noun if count == 1 else plural or noun + "s")
