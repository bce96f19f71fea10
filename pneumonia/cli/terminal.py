"""Output that all verbs share: progress bars on a terminal, tables, the next command."""

import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from pneumonia.runtime.progress import Progress

_LEAST_TEXT = 24  # characters that a wrapped column keeps, also on a narrow terminal
_receivers: list[Progress] = []  # the last one gets what `progress_bar` would draw


@contextmanager
def progress_to(receiver: Progress) -> Iterator[None]:
    """Send the progress of verbs inside this context to a receiver, in place of bars."""
    _receivers.append(receiver)
    try:
        yield
    finally:
        _receivers.pop()


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr with rate and time left when stderr is a terminal, otherwise nothing."""
    if _receivers:
        yield _receivers[-1]
        return
    if not sys.stderr.isatty():
        yield lambda done, total, note: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left  {task.fields[note]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, note="")

        def report(done: int, total: int, note: str) -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield report


def log_to_stderr(quiet: bool = False) -> None:
    """Show the log of this package on stderr, errors only when `quiet`; no other package's log."""
    import logging

    ours = logging.getLogger("pneumonia")
    ours.setLevel(logging.ERROR if quiet else logging.INFO)
    if not ours.handlers:  # the demo runs several verbs in one process
        ours.addHandler(logging.StreamHandler())


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a plain aligned table on stdout; on a terminal, long text is wrapped to its width."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    wrapped = _wrap_widest(cells) if sys.stdout.isatty() else None
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    click.echo(title)
    for number, row in enumerate(cells):
        line = "  ".join(
            cell.ljust(width) if i in (0, wrapped) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  " + line.rstrip())
        if number == 0:
            click.echo("  " + "  ".join("-" * width for width in widths))


def _wrap_widest(cells: list[list[str]]) -> int | None:
    """Wrap the widest column so that lines fit the terminal; returns its index, None if all fit.

    Args:
        cells: Header and rows; rows that continue another are inserted in place.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widest = max(range(len(widths)), key=widths.__getitem__)
    columns = shutil.get_terminal_size().columns
    room = max(columns - 2 * len(widths) - sum(widths) + widths[widest], _LEAST_TEXT)
    if widths[widest] <= room:
        return None
    rows = []
    for row in cells:
        first, *rest = textwrap.wrap(row[widest], room) or [""]
        rows.append([*row[:widest], first, *row[widest + 1 :]])
        rows += [[part if i == widest else "" for i in range(len(row))] for part in rest]
    cells[:] = rows
    return widest


def shell_command(command: str, *paths: object) -> str:
    """A command with paths in place of `{}`, quoted so that a shell reads each as one word."""
    if not paths:
        return command
    return command.format(*(shlex.quote(str(path)) for path in paths))


def show_next(command: str, *paths: object) -> None:
    """Print the command that a user would run next; see `shell_command`."""
    click.echo("next: " + shell_command(command, *paths))
