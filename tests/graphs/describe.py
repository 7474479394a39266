"""What the record says of the graphs that were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# What ONNX Runtime lays out for the processor at hand.
_OF_THE_PROCESSOR = "optimized"
# Above these sizes the numbers of a tensor are weights or tables, not a part of the graph's structure.
_LARGEST_FLOATS, _LARGEST_OTHERS = 1, 64


def describe(root: Path, names_vary: bool = False) -> dict[str, dict[str, Any]]:
    """Path of a graph below `root` -> what is recorded of it, of all graphs there.

    Axes come from the manifest of a folder, and of a bare graph from the graph.

    Args:
        names_vary: the names in the graphs are others in each conversion: weights are recorded without them.
    """
    components = {}
    for manifest in root.rglob("onnxport.json"):
        for component in json.loads(manifest.read_text(encoding="utf-8"))["components"]:
            components[manifest.parent / component["file"]] = component
    return {
        file.relative_to(root).as_posix(): _block(file, components.get(file), names_vary)
        for file in sorted(root.rglob("*.onnx"))
    }


def _block(file: Path, component: dict[str, Any] | None, names_vary: bool) -> dict[str, Any]:
    import onnx

    model = onnx.load(file, load_external_data=False)
    block: dict[str, Any] = {"opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}}
    if component is not None:
        block["precision"] = component["precision"]
        for part in ("inputs", "outputs"):
            block[part] = {spec["name"]: _words(spec["dtype"], spec["axes"]) for spec in component[part]}
        if restrictions := component.get("restrictions"):
            block["restrictions"] = [f"{entry['axis']}: {entry['rule']}" for entry in restrictions]
        if fixes := component.get("fixes"):
            block["fixes"] = sorted(fixes)
    else:
        block |= {"inputs": _declared(model.graph.input), "outputs": _declared(model.graph.output)}
    block["operators"] = _operators(model.graph)
    if _OF_THE_PROCESSOR in file.stem:
        return block
    tensors = [(name, tensor, _bytes(tensor, file.parent)) for name, tensor in _tensors(model.graph)]
    if names_vary:
        block["weights"] = _digest(*sorted(data for _, _, data in tensors))
        return block
    places = {file.parent / _external(tensor)["location"] for _, tensor, _ in tensors if tensor.external_data}
    numbers = sorted((name, data) for name, _, data in tensors)
    block["weights"] = _digest(*(part for name, data in numbers for part in (name.encode(), data)))
    block["sha256"] = {place.name: _digest(place.read_bytes()) for place in sorted({file, *places})}
    block["structure"] = _structure(model, tensors)
    return block


def _words(dtype: str, axes: list[int | str]) -> str:
    return f"{dtype} [{', '.join(map(str, axes))}]"


def _declared(values: Any) -> dict[str, str]:
    import onnx

    described = {}
    for value in values:
        kind = value.type.tensor_type
        axes = [axis.dim_param or axis.dim_value for axis in kind.shape.dim]
        described[value.name] = _words(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, axes)
    return described


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _graphs(inner)


def _operators(graph: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for inner in _graphs(graph):
        for node in inner.node:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    """(a name, the message) of every initializer and every tensor in an attribute."""
    for level, inner in enumerate(_graphs(graph)):
        for tensor in inner.initializer:
            yield f"{level} {tensor.name}", tensor
        for node in inner.node:
            for attribute in node.attribute:
                for tensor in (attribute.t, *attribute.tensors):
                    if tensor.data_type:
                        yield f"{level} {node.name} {node.output[:1]} {attribute.name}", tensor


def _external(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _bytes(tensor: Any, folder: Path) -> bytes:
    """The numbers, wherever they lie. onnx reads no file that has two names, as linked weights have."""
    import onnx

    if tensor.external_data:
        place = _external(tensor)
        with (folder / place["location"]).open("rb") as file:
            file.seek(int(place.get("offset", 0)))
            return file.read(int(place["length"]))
    if tensor.data_type == onnx.TensorProto.STRING:
        return b"\0".join(tensor.string_data)
    return tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()


def _structure(model: Any, tensors: list[tuple[str, Any, bytes]]) -> str:
    """Of nodes, attributes, names, shapes and types, and the numbers of small tensors; changes the model."""
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    for _, tensor, data in tensors:
        largest = _LARGEST_FLOATS if tensor.data_type in floats else _LARGEST_OTHERS
        kept = data if np.prod(tensor.dims, dtype=int) <= largest else b""
        bare = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name, raw_data=kept)
        tensor.CopyFrom(bare)
    return _digest(model.SerializeToString(deterministic=True))


def _digest(*parts: bytes) -> str:
    made = hashlib.sha256()
    for part in parts:
        made.update(part if len(parts) == 1 else f"{len(part)} ".encode() + part)
    return made.hexdigest()
