"""Settings of a compression plan in its saved state; a state with other settings is refused."""

import hashlib
import json
import logging
import numbers
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pneumonia.runtime.errors import PruneError

log = logging.getLogger(__name__)

KEY = "plan"  # of a state


def settings_tensor(settings: Mapping[str, Any]) -> Tensor:
    """Settings (JSON values) as the uint8 codes of their JSON text."""
    return torch.tensor(list(json.dumps(settings, sort_keys=True).encode()), dtype=torch.uint8)


def check_settings(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Check that a saved state has the settings of the plan that loads it.

    Raises:
        PruneError: A setting differs; names it and both values.
    """
    if KEY not in state:
        log.warning("State has no plan settings: they are not compared")
        return
    try:
        saved = dict(json.loads(bytes(state[KEY].tolist())))
    except (TypeError, ValueError):
        raise PruneError(
            "State is damaged",
            expected="JSON text in uint8",
            found=str(state[KEY].dtype),
            where=KEY,
        ) from None
    own = json.loads(json.dumps(settings))
    for name in sorted({*own, *saved}):
        if own.get(name) != saved.get(name):
            raise PruneError(
                "State does not fit this plan",
                expected=f"{name} {own.get(name, 'none')}",
                found=f"{saved.get(name, 'none')}",
                fix="Load it into a plan with the settings of the saved one",
            )


def describe(value: object) -> str:
    """A constraint by its class and public attributes, or one of their values; no addresses.

    Arrays and tensors are given by shape and the start of their SHA-256.
    """
    if isinstance(value, numbers.Number) and hasattr(value, "item"):
        value = value.item()  # numpy's 8 is 8
    if value is None or isinstance(value, str | numbers.Number):
        return repr(value)
    if isinstance(value, Tensor) or hasattr(value, "__array__"):
        array = torch.as_tensor(value).detach().cpu().contiguous().numpy()
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return f"{array.dtype}{list(array.shape)}:{digest[:12]}"
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _called(value, value._asdict())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(describe(x) for x in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {describe(x)}" for k, x in value.items()) + "}"
    if callable(getattr(value, "project", None)):
        return _called(value, vars(value) if hasattr(value, "__dict__") else {})
    return getattr(value, "__qualname__", type(value).__qualname__)


def _called(value: object, attributes: Mapping[str, object]) -> str:
    parts = [f"{k}={describe(x)}" for k, x in attributes.items() if not k.startswith("_")]
    return f"{type(value).__name__}({', '.join(parts)})"
