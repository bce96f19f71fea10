"""KCAT's file format for typed mentions in a text: read, write, compare.

Raw text, a line `%%TYPE_ANNOTATIONS%%`, then one line per mention, tab-separated: start, end
(inclusive), entity (`NIL`, or a title with underscores for blanks) and, once it is typed, the type.
Source: files of the published tool (Lin et al., KCAT, ACL 2019 demos, 99-104). Here offsets count
Unicode characters, files are UTF-8, and a text that contains the marker line is refused.
"""

from typing import NamedTuple

from pneumonia.runtime.errors import DataError

MARKER = "%%TYPE_ANNOTATIONS%%"
MAX_BYTES = 16 << 20
_FORBIDDEN = "\t\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"


class KcatMention(NamedTuple):
    """A mention: characters `[start, end)` of the text, its entity, its type (empty: untyped)."""

    start: int
    end: int
    entity: str
    type_path: str = ""


class KcatDocument(NamedTuple):
    """A text and its mentions."""

    text: str
    mentions: tuple[KcatMention, ...]


def kcat_entity(code: str) -> str:
    """Code in KCAT's entity notation: underscores for blanks."""
    return code.replace(" ", "_")


def write_kcat(document: KcatDocument) -> str:
    """The file's text.

    Raises:
        DataError: The text contains the marker line, or a mention lies outside it or has no entity.
    """
    if MARKER in document.text.split("\n"):
        raise DataError("Text contains KCAT's marker line", found=repr(MARKER))
    lines = [document.text, MARKER]
    for number, mention in enumerate(document.mentions, 1):
        _check(mention, len(document.text), f"mention {number}")
        fields = [str(mention.start), str(mention.end - 1), mention.entity]
        lines.append("\t".join([*fields, mention.type_path] if mention.type_path else fields))
    return "\n".join(lines) + "\n"


def read_kcat(data: bytes, where: str = "") -> KcatDocument:
    """Read a file.

    Args:
        data: Its bytes, UTF-8.
        where: Its name for messages.

    Raises:
        DataError: Too large, not UTF-8, no marker line, or a malformed mention; the line is named.
    """
    if len(data) > MAX_BYTES:
        raise DataError("File is too large", f"at most {MAX_BYTES} bytes", str(len(data)), where)
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise DataError("File is not UTF-8", where=where or None) from None
    # the published tool may write Windows line ends after the marker
    found = [i for i, line in enumerate(lines) if line.rstrip("\r") == MARKER]
    if not found:
        raise DataError("File has no KCAT annotations", f"a line {MARKER}", where=where or None)
    text = "\n".join(lines[: found[-1]])
    mentions = []
    for number, line in enumerate(lines[found[-1] + 1 :], found[-1] + 2):
        fields = line.rstrip("\r").split("\t")
        if fields == [""]:
            continue
        mentions.append(_mention(fields, len(text), f"{where or 'file'}, line {number}"))
    return KcatDocument(text, tuple(mentions))


def _mention(fields: list[str], length: int, where: str) -> KcatMention:
    try:
        start, last, entity, *rest = fields
        mention = KcatMention(int(start), int(last) + 1, entity, rest[0] if rest else "")
        if len(rest) > 1:
            raise ValueError
    except ValueError:
        raise DataError(
            "Mention is malformed", "start, end, entity and perhaps a type", where=where
        ) from None
    _check(mention, length, where)
    return mention


def _check(mention: KcatMention, length: int, where: str) -> None:
    words = mention.entity + mention.type_path
    odd = any(character in _FORBIDDEN for character in words)
    if not 0 <= mention.start < mention.end <= length or not mention.entity or odd:
        raise DataError(
            "Mention is not valid", expected=f"characters within 0..{length} and an entity",
            found=f"{mention.start}..{mention.end}", where=where,
        )  # fmt: skip
