"""Every command the documentation shows exists, and every link leads somewhere."""

import re
import shlex
from pathlib import Path

import click
import pytest

from pneumonia.cli import VERBS, group
from tests.contracts.tree import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^\s*\$?\s*(pneumonia(?:-score)?(?: [^\n#|`]*)?)", re.MULTILINE)
BLOCK = re.compile(r"```(?:sh|bash|console)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [
        command.strip()
        for block in BLOCK.findall(text)
        for command in COMMAND.findall(block.replace("\\\n", " "))
    ]


SHOWN = [(page, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), SHOWN, ids=[f"{p.name}:{c[:60]}" for p, c in SHOWN])
def test_shown_command_parses(page, command, tmp_path):
    words = shlex.split(command)
    tool, arguments = words[0], words[1:]
    if tool == "pneumonia-score":
        arguments = ["score", *arguments]
    node: click.Command = group
    context = click.Context(group, info_name="pneumonia")
    while isinstance(node, click.Group):
        if not arguments or arguments[0].startswith("-"):
            return  # `pneumonia --help` and the like
        name = arguments.pop(0)
        child = node.get_command(context, name)
        assert child is not None, f"{page.name} shows unknown verb {name!r}"
        node, context = child, click.Context(child, parent=context, info_name=name)
    options = {
        name
        for p in node.params
        if isinstance(p, click.Option)
        for name in p.opts + p.secondary_opts
    }
    options |= {"--help", "-h"}
    used = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    assert used <= options, f"{page.name}: {command}: {sorted(used - options)} do not exist"
    needed = [p for p in node.params if isinstance(p, click.Argument) and p.required]
    values = _positional(node, arguments)
    assert len(values) >= len(needed), f"{page.name}: {command}: too few arguments"


def _positional(node: click.Command, arguments: list[str]) -> list[str]:
    flags = {
        name
        for p in node.params
        if isinstance(p, click.Option) and (p.is_flag or p.count)
        for name in p.opts + p.secondary_opts
    }
    values, skip = [], False
    for word in arguments:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = "=" not in word and word not in flags
        else:
            values.append(word)
    return values


def test_the_readme_shows_the_main_job():
    shown = " ".join(command for page, command in SHOWN if page.name == "README.md")
    for verb in ("data import-rsna", "train", "prune", "export", "score", "evaluate", "inspect"):
        assert f"pneumonia {verb}" in shown


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set()
    for page in PAGES:
        shown |= set(re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert {"demo", "test"} <= shown <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = [
        link
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    assert command.get_short_help_str()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{verb} {parameter.opts} has no help"


def test_pages_use_one_name_of_the_command():
    """`pneumonia-score` is kept for scripts; the pages say `pneumonia score`."""
    assert [page.name for page in PAGES if "pneumonia-score" in page.read_text()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_bundle_is_introduced_before_it_is_used(page):
    """A reader who starts on this page has no `runs/bundle` yet."""
    text = page.read_text(encoding="utf-8")
    used = re.search(r"--bundle (?:runs/|BUNDLE)", text)
    assert used is None or "pneumonia export" in text[: text.index("\n", used.end())]


def test_paths_of_the_architecture_page_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    roots = "pneumonia|data_prep|evaluation|deploy_jetson|tests|benchmarks"
    paths = set(re.findall(rf"`((?:{roots})/[\w./]*)(?:\*)?`", text))
    assert len(paths) > 30
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_a_change_touches_three_places_at_most():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Where to change what")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| a new ")]
    assert len(rows) >= 10
    assert [row for row in rows if not 1 <= len(re.findall(r"`[\w./]+/[\w./]*`", row)) <= 3] == []
