"""Log lines of the daemon."""

import json
import logging

import pytest

from deploy_jetson.device.daemon import logs


@pytest.fixture
def own_handlers():
    """Puts back what a test's log_to_stderr has set."""
    ours = [logging.getLogger(name) for name in logs.OURS]
    before = [(one, one.handlers, one.level) for one in ours]
    yield
    for one, handlers, level in before:
        one.handlers = handlers
        one.setLevel(level)


def test_log_lines_are_json_and_tell_nothing_of_an_exception(own_handlers, capsys):
    logs.log_to_stderr("info")
    try:
        raise ValueError("CANARY^PHI")
    except ValueError:
        logs.broken("internal_error", job="k")
    finally:
        logs.LOGGER.handlers = []
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["error"], line["job"]) == ("internal_error", "ValueError", "k")
    assert "CANARY" not in json.dumps(line)


def test_what_other_parts_say_is_json_too(own_handlers, capsys):
    logs.log_to_stderr("info")
    try:
        logging.getLogger("pneumonia.runtime.engines").warning("TensorRT is left out: %s", "why")
    finally:
        logs.LOGGER.handlers = []
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["text"]) == ("note", "TensorRT is left out: why")
