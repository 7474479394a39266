"""Small onnx_ir models, and what is in the files made of them, for the tests of writing graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir._core import TensorBase

from onnxport.serialization.written_model import WrittenModel


def tensor(array: np.ndarray[Any, Any], name: str = "w") -> ir.Tensor:
    return ir.Tensor(array, name=name)


def model_of(*tensors: ir.TensorProtocol, nodes: list[ir.Node] | None = None) -> ir.Model:
    """A model that holds `tensors` as initializers; y = x + x is what it computes."""
    x = ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.FLOAT))
    add = ir.node("Add", [x, x], name="add", doc_string="twice")
    y = add.outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape(["n"]), ir.TensorType(ir.DataType.FLOAT)
    initializers = [ir.Value(name=t.name, const_value=t, shape=t.shape, type=ir.TensorType(t.dtype)) for t in tensors]
    graph = ir.Graph(
        [x],
        [y],
        nodes=[*(nodes or []), add],
        initializers=initializers,
        name="main",
        opset_imports={"": 21},
        doc_string="graph text",
        metadata_props={"graph": "property"},
    )
    return ir.Model(
        graph,
        ir_version=10,
        producer_name="tests",
        producer_version="1",
        doc_string="model text",
        metadata_props={"b": "2", "a": "1"},
    )


def values_of(model: ir.Model) -> dict[str, Any]:
    return {
        name: (v.const_value.dtype, v.const_value.shape.numpy(), v.const_value.tobytes())
        if not isinstance(v.const_value, ir.StringTensor)
        else list(v.const_value.string_data())
        for name, v in model.graph.initializers.items()
        if v.const_value is not None
    }


def run(path: Path) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": np.array([1, 2], np.float32)})[0])


def sum_model(*tensors: ir.TensorProtocol) -> ir.Model:
    """y = x + sum of every float32 weight: what it computes depends on each of them."""
    model = model_of(*tensors)
    graph = model.graph
    graph.remove(list(graph))
    total = graph.inputs[0]
    for index, value in enumerate(graph.initializers.values()):
        part = ir.node("ReduceSum", [value], {"keepdims": 0}, name=f"sum{index}")
        add = ir.node("Add", [total, part.outputs[0]], name=f"add{index}")
        graph.extend([part, add])
        total = add.outputs[0]
    total.name, total.shape, total.type = "y", ir.Shape(["n"]), ir.TensorType(ir.DataType.FLOAT)
    graph.outputs[0] = total
    return model


def stored(array: np.ndarray[Any, Any], file: Path, name: str, *, before: int = 8) -> ir.ExternalTensor:
    """Append `before` bytes and the array to `file`, as a checkpoint has them; the weight that lies there."""
    with file.open("ab") as stream:
        stream.write(bytes([0xEE]) * before)
        offset = stream.tell()
        stream.write(array.tobytes())
    return ir.ExternalTensor(
        file.name, offset, array.nbytes, ir.DataType.from_numpy(array.dtype), shape=ir.Shape(array.shape), name=name,
        base_dir=file.parent,
    )  # fmt: skip


class Streaming(TensorBase):
    """A weight that gives its bytes in blocks, all in one buffer, and in no other way."""

    def __init__(self, array: np.ndarray[Any, Any], name: str, *, block: int = 1000, source: str | None = None) -> None:
        super().__init__(name=name)
        self.array, self.block, self.source = array, block, source

    @property
    def dtype(self) -> ir.DataType:
        return ir.DataType.from_numpy(self.array.dtype)

    @property
    def shape(self) -> ir.Shape:
        return ir.Shape(self.array.shape)

    def blocks(self) -> Iterator[memoryview]:
        buffer = bytearray(self.block)
        content = self.array.tobytes()
        for start in range(0, len(content), self.block):
            part = content[start : start + self.block]
            buffer[: len(part)] = part
            yield memoryview(buffer)[: len(part)]
            buffer[:] = bytes([0xDD]) * self.block

    def numpy(self) -> np.ndarray[Any, Any]:
        raise AssertionError("its bytes are streamed")

    def tobytes(self) -> bytes:
        raise AssertionError("its bytes are streamed")

    def __array__(self, dtype: Any = None) -> np.ndarray[Any, Any]:
        raise AssertionError("its bytes are streamed")

    def __dlpack__(self, *, stream: Any = None) -> Any:
        raise NotImplementedError

    def __dlpack_device__(self) -> tuple[int, int]:
        raise NotImplementedError


def check_hashes(folder: Path, written: WrittenModel) -> None:
    """Files and hashes are those of the folder, and hashlib says the same."""
    assert {file.name for file in folder.iterdir()} == {file.name for file in written.files} == set(written.sha256)
    for name, digest in written.sha256.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest(), name


def locations(graph: Path) -> dict[str, tuple[str, int]]:
    """Weight to file and offset, as the graph says."""
    found = {}
    for initializer in onnx.load(graph, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in initializer.external_data}
        if entries:
            found[initializer.name] = entries["location"], int(entries.get("offset", 0))
    return found
