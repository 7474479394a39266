"""Two records, and in words what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN = ("operators", "inputs", "outputs", "opset", "precision", "restrictions", "fixes")
_FILES = "the layout in the files differs (the same graph, the same numbers)"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A line for every graph that differs, and for models, steps and files that came or went.

    Args:
        old, new: name of a model -> its part of the record.
    """
    for name in sorted({*old, *new}):
        if name not in new:
            yield f"{name}: is recorded, and not in the table"
        elif name not in old:
            yield f"{name}: is not recorded"
        else:
            yield from (f"{name} {line}" for line in _model(old[name], new[name]))


def _model(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = old.get("errors", {}), new.get("errors", {})
    for step in sorted({*before, *after}):
        if before.get(step) != after.get(step):
            yield f"{step}: was {before.get(step, 'no error')!r}, is {after.get(step, 'no error')!r}"
    was, now = set(old.get("files", [])), set(new.get("files", []))
    if was != now:
        yield f"files: {_came_and_went(was, now)}"
    graphs, found = old.get("graphs", {}), new.get("graphs", {})
    for graph in sorted({*graphs, *found}):
        if graph not in found:
            yield f"{graph}: is no longer written"
        elif graph not in graphs:
            yield f"{graph}: is new"
        elif graphs[graph] != found[graph]:
            yield f"{graph}: {'; '.join(_graph(graphs[graph], found[graph]))}"


def _graph(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in _SHOWN:
        was, now = old.get(key), new.get(key)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            changed = [f"{k} {was.get(k, 'none')} -> {now.get(k, 'none')}" for k in sorted({*was, *now})
                       if was.get(k) != now.get(k)]  # fmt: skip
            lines.append(f"{key} differ: {', '.join(changed)}")
        else:
            lines.append(f"{key} differ: {was} -> {now}")
    shape = old.get("structure") != new.get("structure")
    numbers = old.get("weights") != new.get("weights")
    if shape and not lines:
        lines.append("structure differs (operators and axes are the same)")
    elif shape:
        lines.append("structure differs")
    if numbers and not lines:
        lines.append("weights differ (structure, operators and axes are the same)")
    elif numbers:
        lines.append("weights differ")
    return lines or [_FILES]


def _came_and_went(was: set[str], now: set[str]) -> str:
    return ", ".join([f"-{name}" for name in sorted(was - now)] + [f"+{name}" for name in sorted(now - was)])
