"""Verbs in processes of their own: beside another verb, or as partners of one training."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import click

from pneumonia.runtime.errors import PneumoniaError

PROCESSES = 2  # of one training: results depend on it, so it is not the number of cores
# Runs verbs one after another until one fails.
RUN_VERBS = """
import json, sys
from pneumonia.cli import group, run
sys.exit(next((code for words in json.loads(sys.argv[1]) if (code := run(group, words))), 0))
"""

# Runs a training verb for each line of its input; ends when one fails, so that the others notice.
SERVE_TRAININGS = """
import json, os, sys
import pneumonia.training.run
from pneumonia.cli import group, run
for line in sys.stdin:
    request = json.loads(line)
    os.environ.update(request["variables"])
    if code := run(group, request["words"]):
        sys.exit(code)
"""


def show_command(words: Sequence[str]) -> None:
    """Print a verb as a user would type it."""
    click.secho("\n$ pneumonia " + shlex.join(words), bold=True)


def run_verb(*arguments: object) -> None:
    """Run one verb as a user would type it, in this process."""
    from pneumonia.cli import group

    words = _words(arguments)
    show_command(words)
    group.main(args=words, standalone_mode=False, prog_name="pneumonia")


@contextmanager
def training_partners() -> Iterator[Callable[..., None]]:
    """Start the other processes of all trainings; they import what a training needs meanwhile.

    Yields:
        A function that runs one training verb in PROCESSES processes, of which this is the first.
        They share every batch as under torchrun. One thread each is faster than threads of one
        process, which at the demo's size wait for one another.
    """
    partners = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", SERVE_TRAININGS],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(1, PROCESSES)
    ]

    def run_shared(*arguments: object) -> None:
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "WORLD_SIZE": str(PROCESSES),
        }
        for number, partner in enumerate(partners, start=1):
            assert partner.stdin is not None
            request = {"variables": {**variables, **_rank(number)}, "words": _words(arguments)}
            partner.stdin.write(json.dumps(request) + "\n")
            partner.stdin.flush()
        before = dict(os.environ)
        os.environ.update(variables, **_rank(0))
        try:
            run_verb(*arguments)
        finally:
            os.environ.clear()
            os.environ.update(before)

    try:
        yield run_shared
    finally:
        for partner in partners:
            _stop(partner)


@contextmanager
def run_in_background(commands: Sequence[Sequence[object]]) -> Iterator[None]:
    """Run verbs one after another in another process while inside; show their output at the end.

    Raises:
        PneumoniaError: One of them failed.
    """
    process = _start(commands)
    try:
        yield
        output, _ = process.communicate()
    finally:
        _stop(process)
    for command in commands:
        show_command(_words(command))
    click.echo(output.rstrip())
    if process.returncode:
        raise PneumoniaError("A verb beside the pruning failed", found=output.strip()[-300:])


def _start(commands: Sequence[Sequence[object]]) -> subprocess.Popen[str]:
    words = [_words(command) for command in commands]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", RUN_VERBS, json.dumps(words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _stop(process: subprocess.Popen[str]) -> None:
    """End a process that still runs, and close its pipe."""
    if process.poll() is None:
        process.terminate()
        with suppress(BrokenPipeError):
            process.communicate()


def _words(arguments: Sequence[object]) -> list[str]:
    return [str(argument) for argument in arguments]


def _rank(number: int) -> dict[str, str]:
    return {"RANK": str(number), "LOCAL_RANK": str(number)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
