"""Log lines as JSON on stderr; they hold codes and numbers, never text from a file or a peer."""

import json
import logging
import sys
import threading
import time
import warnings
from typing import Any, Dict

LOGGER = logging.getLogger("pneumonia.daemon")
OURS = ("pneumonia", "deploy_jetson")  # loggers whose messages never quote a file


class JsonLines(logging.Formatter):
    """`{"time", "level", "event", ...}`; the event's fields follow."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: Dict[str, Any] = {}
        moment = time.gmtime(record.created)
        line["time"] = time.strftime("%Y-%m-%dT%H:%M:%S", moment) + ".{:03d}Z".format(
            int(record.msecs)
        )
        line["level"] = record.levelname.lower()
        if record.name == LOGGER.name:
            line["event"] = record.getMessage()
        else:  # a message of another module, such as why an engine was skipped
            line["event"], line["from"], line["text"] = "note", record.name, record.getMessage()
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[0] is not None:
            # the text of a library's exception may quote a file: only its type and place are logged
            line["error"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                line["at"] = "{}:{}".format(trace.tb_frame.f_code.co_name, trace.tb_lineno)
        return json.dumps(line)


def log(level: int, event: str, **fields: Any) -> None:
    """Log an event; fields are keys, codes and numbers, never text from a file."""
    LOGGER.log(level, event, extra={"fields": fields})


def info(event: str, **fields: Any) -> None:
    """Log at level info."""
    log(logging.INFO, event, **fields)


def warning(event: str, **fields: Any) -> None:
    """Log at level warning."""
    log(logging.WARNING, event, **fields)


def broken(event: str, **fields: Any) -> None:
    """Log the exception being handled, without its text."""
    LOGGER.error(event, exc_info=True, extra={"fields": fields})


def log_to_stderr(level: str) -> None:
    """Write log lines to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    LOGGER.handlers = [handler]
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False
    for name in OURS:
        logging.getLogger(name).handlers = [handler]
        logging.getLogger(name).setLevel(level.upper())


def silence_others() -> None:
    """Suppress what libraries write to stderr: it may quote a file."""
    for name in ("pydicom", "pynetdicom", "PIL"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    # Python 3.8 and later; before, only the class and place of a thread's end can be read there
    setattr(threading, "excepthook", _thread_ended)  # noqa: B010 - an attribute 3.6 has not


def _thread_ended(ended: Any) -> None:
    LOGGER.error(
        "thread_ended",
        exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback),
        extra={"fields": {"thread": getattr(ended.thread, "name", "")}},
    )
