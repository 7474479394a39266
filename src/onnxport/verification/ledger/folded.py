"""Constants of a new graph that an optimizer computed ahead of time from constants of the old graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.formats.graph_tensors import FileTensor

if TYPE_CHECKING:
    import onnx_ir as ir

# Relative to the largest element: float32 sums in another order.
_RELATIVE = 1e-5


class FoldedValues:
    """Computes values of graphs again that depend on their constants alone.

    Args:
        files: graph files, with their data files beside them. They are loaded when the first value is asked for.
        tensors: the constants of these files, by name.
    """

    def __init__(self, files: Sequence[Path], tensors: Mapping[str, Sequence[FileTensor]]) -> None:
        self._files, self._tensors = files, tensors
        self._models: list[ir.Model] | None = None

    def weights_behind(self, name: str, array: np.ndarray) -> list[str] | None:
        """The constants that `array` was computed from; None unless a graph has a value `name` that is equal to it.

        Args:
            name: of the value in the old graph and of the constant in the new one.
            array: the constant.
        """
        from onnxport.graph.quantization.weight_only import load_graph

        if self._models is None:
            self._models = [load_graph(file) for file in self._files]
        for model in self._models:
            value = next((out for node in model.graph for out in node.outputs if out.name == name), None)
            constants = _constants_behind(value) if value is not None else None
            if value is not None and constants is not None and _same(array, self._computed(model, value, constants)):
                return sorted(str(one.name) for one in constants)
        return None

    def _computed(self, model: ir.Model, value: ir.Value, constants: list[ir.Value]) -> np.ndarray:
        import onnx_ir as ir

        from onnxport.graph.evaluation import Evaluator

        for one in constants:
            tensors = self._tensors.get(str(one.name), ())
            if isinstance(one.const_value, ir.ExternalTensor) and tensors:
                one.const_value = ir.tensor(tensors[0].array(), name=one.name)
        return Evaluator(model).run(value, {})


def _constants_behind(value: ir.Value) -> list[ir.Value] | None:
    """The constants that a value is computed from; None where it depends on an input."""
    found: list[ir.Value] = []
    seen: set[int] = set()
    pending = [value]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        node = one.producer()
        if one.is_initializer():
            found.append(one)
        elif node is None:
            return None
        else:
            pending.extend(given for given in node.inputs if given is not None)
    return found


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return bool((one == other).all())
    scale = float(np.abs(other).max(initial=0))
    return bool(np.allclose(one, other, rtol=0, atol=_RELATIVE * scale))
