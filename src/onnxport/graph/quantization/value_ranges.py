"""Measure how large the values inside a graph become, on inputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from onnxport.graph.inputs import Arrays


def measure_ranges(file: Path, inputs: Iterable[Arrays]) -> dict[str, float]:
    """Largest absolute value of every float32 value that a node of the graph gives.

    Numbers beyond 1e30 stand for "masked" and do not count.

    Args:
        file: a float32 graph.
        inputs: arrays by the names of its inputs.

    Raises:
        Exception: any error of ONNX Runtime.
    """
    import onnx_ir as ir
    import onnxruntime

    from onnxport.graph.quantization.weight_only import load_graph

    model = load_graph(file)
    values = [
        value for node in model.graph for value in node.outputs
        if value.dtype == ir.DataType.FLOAT and value.name and not value.is_graph_output()
    ]  # fmt: skip
    values += [value for value in model.graph.outputs if value.dtype == ir.DataType.FLOAT]
    limit = ir.Value(name="ranges.limit", const_value=ir.tensor(np.float32(1e30), name="ranges.limit"))
    zero = ir.Value(name="ranges.zero", const_value=ir.tensor(np.float32(0), name="ranges.zero"))
    for value in (limit, zero):
        assert value.const_value is not None
        value.shape, value.type = ir.Shape([]), ir.TensorType(ir.DataType.FLOAT)
        model.graph.register_initializer(value)
    names = []
    for number, value in enumerate(values):
        tape = ir.tape.Tape()
        size = tape.op("Abs", [value])
        # An empty value has no largest one.
        real = tape.op("Where", [tape.op("Less", [size, limit]), size, zero])
        flat = tape.op("Concat", [tape.op("Reshape", [real, _flat(model)]), _one_zero(model)], {"axis": 0})
        top = tape.op("ReduceMax", [flat], {"keepdims": 0})
        for index, node in enumerate(tape.nodes):
            node.name = node.outputs[0].name = f"ranges.{number}.{index}"
        top.type, top.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        model.graph.extend(tape.nodes)
        model.graph.outputs.append(top)
        names.append((str(value.name), str(top.name)))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    known = {given.name for given in session.get_inputs()}
    found = dict.fromkeys((name for name, _ in names), 0.0)
    for arrays in inputs:
        tops = session.run([top for _, top in names], {key: one for key, one in arrays.items() if key in known})
        for (name, _), top in zip(names, tops, strict=True):
            found[name] = max(found[name], float(top))
    return found


def _flat(model: object) -> object:
    return _constant(model, "ranges.flat", np.array([-1]))


def _one_zero(model: object) -> object:
    return _constant(model, "ranges.one_zero", np.zeros(1, np.float32))


def _constant(model: object, name: str, array: np.ndarray) -> object:
    import onnx_ir as ir

    graph = model.graph  # type: ignore[attr-defined]
    if name not in graph.initializers:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]
