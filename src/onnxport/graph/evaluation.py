"""Parts of a graph run by themselves, to learn what they compute.

What a mask or a rotation means is read from its numbers, not from the operators that a version of
a library happens to emit for it.
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
    """Runs what leads from some values of a graph to others.

    Args:
        model: its weights may be in files; only small parts are ever run.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._sessions: dict[tuple[str, ...], Any] = {}

    def run(self, output: ir.Value, arrays: Mapping[str, np.ndarray], cuts: Sequence[ir.Value] = ()) -> np.ndarray:
        """One value.

        Args:
            output: the value.
            arrays: by name, for the graph's inputs (those that are not needed are left out) and the cuts.
            cuts: values that are given instead of being computed.

        Raises:
            ValueError: something else is needed.
            Exception: whatever ONNX Runtime says; sizes are not checked against declared ones.
        """
        key = (str(output.name), "", *(str(cut.name) for cut in cuts))
        if key not in self._sessions:
            self._sessions[key] = _session(self.model, output, cuts)
        session = self._sessions[key]
        wanted = [value.name for value in session.get_inputs()]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise ValueError(f"{missing[0]} is needed")
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
    for node in graph:  # sizes that were declared for other inputs
        for out in node.outputs:
            out.shape = None
    part = ir.Model(graph, ir_version=model.ir_version)
    part.opset_imports.update(model.opset_imports)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    content = ir.to_proto(part).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def numeric_sources(value: ir.Value, cut: ir.Value | None = None) -> set[str]:
    """Names of the graph's inputs whose numbers, not only whose sizes, `value` depends on.

    Args:
        cut: where the way back ends; it is not in the result.
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
    """Arrays for a decoder's inputs whose past has the right length and no features.

    Args:
        mask: (rows, past + new) of 0 and 1.
        new: tokens of the call.
        positions: (rows, new); those that the mask gives where it is None.
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
