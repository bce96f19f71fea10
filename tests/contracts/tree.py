"""Where the source files are, and what each imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pneumonia", "data_prep", "evaluation", "deploy_jetson")


def source_files(*folders: str) -> list[Path]:
    """Every Python file below the folders (default: the four packages)."""
    found: list[Path] = []
    for folder in folders or PACKAGES:
        found += sorted((ROOT / folder).rglob("*.py"))
    return [path for path in found if "__pycache__" not in path.parts]


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolutely imported module of a file, with its line, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or "", node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno
