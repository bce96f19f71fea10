"""JSON objects in files, of which any may be damaged or hostile."""

import io
import json
import os
from typing import Any, Dict, Optional, Type

from pneumonia.runtime.errors import ArtefactError, PneumoniaError

MAX_BYTES = 64 << 20


def read_json_object(
    path: str,
    title: str,
    error: Type[PneumoniaError] = ArtefactError,
    fix: Optional[str] = None,
    max_bytes: int = MAX_BYTES,
) -> Dict[str, Any]:
    """The object in a JSON file in UTF-8, with or without a byte order mark.

    Args:
        title: Name of the file in the error, starting with a capital letter.
        error: Class of the error.
        fix: What the user can do about it.

    Raises:
        error: The file cannot be read, is too large, not UTF-8, not JSON, nested too deeply, or
            holds another value than an object.
    """
    try:
        if os.path.getsize(path) > max_bytes:
            raise error(
                title + " is too large", "at most {:,} bytes".format(max_bytes), where=path, fix=fix
            )
        with io.open(path, encoding="utf-8-sig") as stream:
            value = json.load(stream)
    except OSError as cause:
        raise error(
            title + " cannot be read", found=cause.strerror or str(cause), where=path, fix=fix
        ) from None
    except UnicodeDecodeError:
        raise error(title + " is not in UTF-8", where=path, fix=fix) from None
    except (ValueError, RecursionError):
        raise error(title + " is not JSON", where=path, fix=fix) from None
    if not isinstance(value, dict):
        raise error(
            title + " is not a JSON object", found=type(value).__name__, where=path, fix=fix
        )
    return value


def find_json_object(path: str) -> Dict[str, Any]:
    """Like `read_json_object`; empty where that raises."""
    try:
        return read_json_object(path, "File")
    except ArtefactError:
        return {}
