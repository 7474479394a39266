"""What the benchmarks import of this repository is there; nothing is imported, and so no framework."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ROOTS = {"onnxport": ROOT / "src", "tests": ROOT, "benchmarks": ROOT}


def _file(module: str) -> Path | None:
    place = _ROOTS[module.partition(".")[0]].joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _names(file: Path) -> set[str]:
    """What a module defines, imports or lists in strings at any level outside of functions."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
                continue
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.alias):
                found.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)  # names that __getattr__ gives
            pending.append(node)
    return found


def _missing(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        for module in modules:
            if module.partition(".")[0] not in _ROOTS:
                continue
            found = _file(module)
            if found is None and not (_ROOTS[module.partition(".")[0]] / Path(*module.split("."))).is_dir():
                yield module
            elif isinstance(node, ast.ImportFrom):
                known = _names(found) if found else set()
                yield from (
                    f"{module}.{alias.name}"
                    for alias in node.names
                    if alias.name not in known and _file(f"{module}.{alias.name}") is None
                )


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda file: file.name)
def test_what_a_benchmark_imports_is_there(file: Path) -> None:
    assert list(_missing(file)) == []


def test_what_is_gone_is_found(tmp_path: Path) -> None:
    file = tmp_path / "old.py"
    file.write_text("from onnxport.errors import UsageError, Gone\nimport onnxport.nowhere\nimport numpy\n")
    assert sorted(_missing(file)) == ["onnxport.errors.Gone", "onnxport.nowhere"]
