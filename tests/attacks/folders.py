"""Folders with a manifest that onnxport did not write, around a small sound graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import write_manifest
from onnxport.artifact.manifest import Component, Manifest
from onnxport.specs import CaseCheck, OutputCheck, TensorSpec, Verification
from tests.attacks import onnx_files


def sound(folder: Path) -> Path:
    """A folder whose graph adds two numbers to x."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(onnx_files.sound())
    check = OutputCheck("y", (2,), 0.0, 0.0, 1.0, 1e-5, ok=True)
    case = CaseCheck("traced", {"batch_size": 2}, (check,))
    component = Component(
        "model", "onnx/model.onnx", 18, "float32", 2,
        (TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", (2,)),),
        verification=Verification(True, "torch", "onnxruntime", 1e-5, 1e-5, (case,)),
    )  # fmt: skip
    write_manifest(folder, Manifest("module", "pt", "source", "Sum", {}, (component,)))
    return folder


def _changed(change: Callable[[Any], Any]) -> Callable[[Path], Path]:
    """A folder whose manifest `change` has changed, in place or by returning another document."""

    def make(folder: Path) -> Path:
        file = sound(folder) / "onnxport.json"
        document = json.loads(file.read_text())
        changed = change(document)
        file.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed or document).encode())
        return folder

    return make


def _component(**changes: Any) -> Callable[[Path], Path]:
    return _changed(lambda document: document["components"][0].update(changes))


def _axes(*axes: Any, sizes: dict[str, Any] | None = None, dtype: str = "float32") -> Callable[[Path], Path]:
    def change(document: Any) -> None:
        component = document["components"][0]
        component["inputs"][0].update(axes=list(axes), dtype=dtype)
        component["verification"]["cases"][0]["sizes"] = sizes or {"batch_size": 2}

    return _changed(change)


def _many(document: Any) -> None:
    first = document["components"][0]
    document["components"] = [{**first, "name": f"model{i}"} for i in range(1000)]


def _sparse(folder: Path) -> Path:
    with (sound(folder) / "onnxport.json").open("wb") as file:
        file.truncate(6 * 2**30)
    return folder


def _linked(folder: Path) -> Path:
    graph = sound(folder) / "onnx" / "model.onnx"
    graph.rename(folder.parent / "outside.onnx")
    graph.symlink_to(folder.parent / "outside.onnx")
    return folder


INPUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "sizes-of-gigabytes": ("memory", _axes("batch_size", sizes={"batch_size": 2**31})),
    "static-axes-of-gigabytes": ("memory", _axes(2**31)),
    "size-of-many-digits": ("", _axes("batch_size", sizes={"batch_size": 10**30})),
    "negative-size": ("size", _axes("batch_size", sizes={"batch_size": -5})),
    "axis-of-another-name": ("", _axes("other * 2")),
    "axis-that-divides-by-zero": ("", _axes("batch_size // 0")),
    "axis-that-is-no-expression": ("not an expression", _axes("a b")),
    "axis-with-nul": ("not an expression", _axes("a\0")),
    "axis-of-brackets": ("expression", _axes("(" * 240 + "a" + ")" * 240)),
    "axis-of-a-million-characters": ("characters", _axes("a+" * 500_000 + "a")),
    "axis-that-calls": ("", _axes("__import__('os').system('x')")),
    "unknown-type": ("no type", _axes(2, dtype="evil")),
    "another-type": ("the graph itself", _axes(2, dtype="int64")),
    "a-thousand-components": ("components", _changed(_many)),
    "component-outside": ("not a path inside", _component(file="../model.onnx")),
    "component-absolute": ("not a path inside", _component(file="/etc/hostname")),
    "component-with-nul": ("not a path inside", _component(file="onnx/\0.onnx")),
    "component-with-surrogate": ("", _component(file="onnx/\ud800.onnx")),
    "component-with-a-long-name": ("", _component(file="a" * 5000)),
    "derived-from-itself": ("", _component(derived_from="model")),
    "components-is-a-number": ("", _changed(lambda document: {**document, "components": 5})),
    "rule-of-many-digits": ("", _component(
        restrictions=[{"axis": "a", "rule": "at most " + "9" * 5000, "reason": ""}])),
    "deep": ("", _changed(lambda _: b'{"a":' * 90_000 + b"1" + b"}" * 90_000)),
    "number-of-6000-digits": ("", _changed(lambda _: b'{"schema_version": ' + b"9" * 6000 + b"}")),
    "not-utf-8": ("UTF-8", _changed(lambda _: b"\xff\xfe{}")),
    "sparse": ("bytes", _sparse),
    "graph-is-a-link": ("link", _linked),
}  # fmt: skip
