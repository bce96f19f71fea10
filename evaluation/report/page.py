"""Shared parts of the pages: templates, rows of tables, additional sections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.metrics.bootstrap import Estimate
from evaluation.report import wording
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.image.raster import picture_uri

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ExtraFigure:
    """An additional figure, for example training curves."""

    png: bytes  # content of a PNG file
    caption: str  # plain text

    @property
    def data_uri(self) -> str:
        """The picture as a data URI."""
        return picture_uri(self.png)


@dataclass(frozen=True)
class ExtraTable:
    """A table of an additional section, plain text; the first column names the row."""

    header: Sequence[str]  # column titles
    rows: Sequence[Sequence[str]]  # cells, as many as titles
    caption: str = ""  # text above the table
    note: str = ""  # text below it


@dataclass(frozen=True)
class ExtraSection:
    """A section added to the end of a page."""

    title: str  # plain text
    figures: Sequence[ExtraFigure] = ()  # figures, at the end
    text: str = ""  # a plain paragraph, at the beginning
    tables: Sequence[ExtraTable] = ()  # between text and figures


@dataclass(frozen=True)
class MetricRow:
    """A line of a table of metrics, as text."""

    name: str
    value: str
    interval: str
    n: str = ""
    method: str = ""


def html_environment(folder: Path, filters: Mapping[str, Any]) -> "Environment":
    """Jinja2 environment for pages: values in HTML are escaped, an undefined name is an error.

    Args:
        folder: Folder of the templates.
        filters: Name -> function, in addition to Jinja2's own.
    """
    return _environment(folder, tuple(sorted(filters.items())))


@lru_cache  # an environment caches its compiled templates
def _environment(folder: Path, filters: tuple[tuple[str, Any], ...]) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(disabled_extensions=("md.j2",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template; in HTML every value except Markup (SVG figures) is escaped."""
    filters = {"count": wording.count_text, "words": wording.point_name}
    page = html_environment(TEMPLATES, filters).get_template(template)
    return page.render(disclaimer=DISCLAIMER, **context)


def metric_line(metric: str, item: Estimate) -> MetricRow:
    """A metric as a line of a table."""
    share = wording.is_share(metric)
    return MetricRow(
        wording.name_of(metric),
        wording.value_text(item, share),
        wording.interval_text(item, share),
        f"{item.n:,}",
        item.method,
    )


def metric_lines(estimates: Mapping[str, Estimate], family: str) -> list[MetricRow]:
    """The metrics of a family as lines."""
    return [metric_line(metric, estimates[metric]) for metric in wording.pick(estimates, family)]
