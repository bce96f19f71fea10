"""A pneumonia detector for embedded devices: train, prune with ADMM, export, score.

The names of `__all__` are the public API (docs/reference/python-api.md); `__init__.pyi` lists them
with the modules that define them. Importing this package imports nothing else: a name is loaded at
its first use (PEP 562). Research use only. Not a medical device.
"""

__version__ = "0.1.0"
_modules = {}  # public name -> the module that defines it; read from the stub at the first use


def _public_modules():
    import ast
    import os

    stub = __file__[: -len("py")] + "pyi"
    if not _modules and os.path.exists(stub):  # a board has only `pneumonia.runtime`
        with open(stub, encoding="utf-8") as stream:
            imports = [n for n in ast.parse(stream.read()).body if isinstance(n, ast.ImportFrom)]
        _modules.update({alias.name: node.module for node in imports for alias in node.names})
    return _modules


def __getattr__(name):
    import importlib

    if name == "__all__":
        return sorted(_public_modules())
    if name.startswith("_") or name not in _public_modules():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_modules[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return [*_public_modules(), "__all__", "__version__"]
