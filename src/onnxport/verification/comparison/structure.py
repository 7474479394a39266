"""What two graphs take, give and are made of; the files of two folders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import Folder
from onnxport.artifact.manifest import Component
from onnxport.specs import TensorSpec
from onnxport.verification.comparison.result import Change

_OWN = ("README.md",)  # written from the manifest, whose facts are compared themselves
_ABSENT = ""
_SHOWN = 60  # characters of a value


def interface_changes(a: Component, b: Component) -> list[Change]:
    """Inputs, outputs and restrictions that differ."""
    return [
        *_tensors("input", a.inputs, b.inputs),
        *_tensors("output", a.outputs, b.outputs),
        *_pairs("restriction", _restrictions(a), _restrictions(b)),
        *_pairs("opset", {"": str(a.opset or "")}, {"": str(b.opset or "")}, matters=False),
        *_pairs("precision", {"": a.precision}, {"": b.precision}, matters=False),
    ]


def operator_changes(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Operator -> its number in both, where these differ."""
    return {name: (a.get(name, 0), b.get(name, 0)) for name in sorted({*a, *b}) if a.get(name, 0) != b.get(name, 0)}


def folder_changes(a: Folder, b: Folder) -> list[Change]:
    """What the folders are, and the files beside the graphs; of JSON files each value that differs."""
    one, other = a.manifest, b.manifest
    facts = [
        *_pairs("task", {"": one.task}, {"": other.task}),
        *_pairs("architecture", {"": one.architecture}, {"": other.architecture}),
        *_pairs("source", {"": one.source}, {"": other.source}, matters=False),
        *_pairs("version", one.versions, other.versions, matters=False),
    ]
    graphs = {name for manifest in (one, other) for name in _graph_files(manifest.components)}
    files = [{name: sha for name, sha in m.files.items() if name not in graphs} for m in (one, other)]
    for change in _pairs("file", *files):
        if change.name in _OWN:
            continue
        if change.a and change.b and change.name.endswith(".json"):
            facts += _json_changes(change.name, a.path, b.path) or [change]
        else:
            facts.append(Change("file", change.name, "present" if change.a else "", "present" if change.b else ""))
    return [
        Change(c.kind, c.name, "other content", "other content") if c.kind == "file" and c.a and c.b else c
        for c in facts
    ]


def _graph_files(components: Sequence[Component]) -> Iterator[str]:
    for component in components:
        yield from (component.file, *component.data_files, component.file + "_data")
        if component.weights_checksum is not None:
            yield component.weights_checksum.file


def _json_changes(name: str, a: Path, b: Path) -> list[Change]:
    try:
        one, other = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (a, b))
    except (OSError, ValueError, RecursionError):
        return []
    return _pairs(name, dict(_leaves(one)), dict(_leaves(other)))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        text = json.dumps(value, ensure_ascii=False)
        yield path, text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _tensors(kind: str, a: Sequence[TensorSpec], b: Sequence[TensorSpec]) -> list[Change]:
    return _pairs(kind, {spec.name: _tensor(spec) for spec in a}, {spec.name: _tensor(spec) for spec in b})


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.dtype} ({', '.join(map(str, spec.axes))})"


def _restrictions(component: Component) -> dict[str, str]:
    return {one.axis: one.rule for one in component.restrictions}


def _pairs(kind: str, a: Mapping[str, str], b: Mapping[str, str], *, matters: bool = True) -> list[Change]:
    """The keys whose values differ, in the order of a and then of b."""
    return [
        Change(kind, key, a.get(key, _ABSENT), b.get(key, _ABSENT), matters)
        for key in dict.fromkeys((*a, *b))
        if a.get(key, _ABSENT) != b.get(key, _ABSENT)
    ]
