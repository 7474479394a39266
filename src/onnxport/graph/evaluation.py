"""Run parts of a graph alone, to find out what they compute.

The fusions need to know what a mask or a rotary embedding computes. They look at its values, because each version of
a library builds the same computation from other operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.tensor_names import is_past

if TYPE_CHECKING:
    import onnx_ir as ir

Arrays = dict[str, np.ndarray]


class Evaluator:
    """Run the subgraph that leads to a value; ONNX Runtime sessions are kept for the next call.

    Args:
        model: the graph. Its weights may be in files; only small subgraphs are run.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._sessions: dict[tuple[str, ...], Any] = {}

    def run(self, output: ir.Value, arrays: Mapping[str, np.ndarray], cuts: Sequence[ir.Value] = ()) -> np.ndarray:
        """Return the value of `output`.

        Args:
            output: the value to compute.
            arrays: arrays by name for the graph's inputs and for `cuts`; those that are not needed are ignored.
            cuts: intermediate values that are taken from `arrays` instead of being computed.

        Raises:
            ValueError: an array that is needed is missing.
            Exception: any error of ONNX Runtime. Declared shapes are not checked.
        """
        key = (str(output.name), "", *(str(cut.name) for cut in cuts))
        if key not in self._sessions:
            self._sessions[key] = _session(self.model, output, cuts)
        session = self._sessions[key]
        wanted = [value.name for value in session.get_inputs()]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise ValueError(f"no array was given for {missing[0]}")
        found: np.ndarray = session.run(None, {name: arrays[name] for name in wanted})[0]
        return found


def _session(model: ir.Model, output: ir.Value, cuts: Sequence[ir.Value]) -> Any:
    import onnx_ir as ir
    import onnxruntime

    bounds = [*cuts, *(value for value in model.graph.inputs if not any(value is cut for cut in cuts))]
    graph = ir.convenience.extract(model.graph, bounds, [output])
    needed = {id(value) for node in graph for value in node.inputs if value is not None}
    for value in list(graph.inputs):
        if id(value) not in needed and not any(value is out for out in graph.outputs):
            graph.inputs.remove(value)
        elif value.shape is not None:
            value.shape = ir.Shape([None] * len(value.shape))
    for out in graph.outputs:
        out.shape = None
    for node in graph:  # declared for other input sizes
        for out in node.outputs:
            out.shape = None
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):  # a graph in memory has no files
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    part = ir.Model(graph, ir_version=model.ir_version)
    part.opset_imports.update(model.opset_imports)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    content = ir.to_proto(part).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def numeric_sources(value: ir.Value, cut: ir.Value | None = None) -> set[str]:
    """Return the names of the graph's inputs whose values (not only shapes) `value` depends on.

    Args:
        value: a value of the graph.
        cut: a value whose own inputs are not followed. It is not in the result.
    """
    found: set[str] = set()
    seen: set[int] = set()
    pending = [value]
    while pending:
        one = pending.pop()
        if id(one) in seen or one is cut:
            continue
        seen.add(id(one))
        node = one.producer()
        if node is None:
            if one.is_graph_input():
                found.add(str(one.name))
        elif node.op_type not in ("Shape", "Size"):
            pending.extend(given for given in node.inputs if given is not None)
    return found


def sample_call(inputs: Sequence[ir.Value], mask: np.ndarray, new: int, positions: np.ndarray | None = None) -> Arrays:
    """Return arrays for the inputs of a decoder; the cache has the right length but 0 features.

    Args:
        inputs: inputs of the graph.
        mask: (rows, past + new) of 0 and 1.
        new: number of new tokens.
        positions: (rows, new); by default they are counted from the mask.

    Returns:
        Arrays by input name: `input_ids` (rows, new) zeros, `attention_mask`, `position_ids` and the cache.
    """
    rows, total = mask.shape
    if positions is None:
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, total - new :]
    arrays: Arrays = {
        "input_ids": np.zeros((rows, new), np.int64),
        "attention_mask": mask.astype(np.int64),
        "position_ids": positions.astype(np.int64),
    }
    for value in inputs:
        if value.name is not None and is_past(value.name) and value.shape is not None:
            shape = [rows, 0, total - new, 0] if len(value.shape) == 4 else [rows] + [0] * (len(value.shape) - 1)
            arrays[value.name] = np.zeros(shape, value.dtype.numpy() if value.dtype is not None else np.float32)
    return arrays
