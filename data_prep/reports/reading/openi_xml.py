"""One XML file of the Indiana University (OpenI) collection."""

from xml.parsers import expat


class OpeniArticle:
    """Content of one report file, filled by the events of the parser.

    Attributes:
        sections: (label in lower case, text).
        codes: The manual codes, `<major>`.
        images: Ids of its radiographs.
    """

    def __init__(self) -> None:
        self.sections: list[tuple[str, str]] = []
        self.codes: list[str] = []
        self.images: list[str] = []
        self._label = ""
        self._words: list[str] = []

    def open(self, tag: str, attributes: dict[str, str]) -> None:
        """Handle the start of an element."""
        self._words = []
        self._label = attributes.get("Label", "").lower() or "findings"
        if tag == "parentImage" and attributes.get("id"):
            self.images.append(attributes["id"])

    def close(self, tag: str) -> None:
        """Handle the end of an element."""
        text = "".join(self._words).strip()
        self._words = []
        if tag == "AbstractText":
            self.sections.append((self._label, text))
        elif tag == "major" and text:
            self.codes.append(text)

    def read(self, text: str) -> None:
        """Handle character data of the innermost element."""
        self._words.append(text)


def _refuse(*_: object) -> None:
    raise ValueError("entity")


def parse_openi_xml(data: bytes) -> OpeniArticle | None:
    """Read a file; None when it is not XML or declares entities.

    Entities would allow memory exhaustion and access to other files; reports do not use them.
    """
    article = OpeniArticle()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = article.open, article.close
    parser.CharacterDataHandler = article.read
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError):  # LookupError: an unknown encoding
        return None
    return article
