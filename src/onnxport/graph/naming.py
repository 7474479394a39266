"""Names of axes in a captured graph: ours instead of the exporter's `s18`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxport.errors import ExportError
from onnxport.specs import TensorSpec

if TYPE_CHECKING:
    import onnx_ir

_SYMBOL = re.compile(r"[A-Za-z_]\w*")


def name_axes(model: onnx_ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Give every axis of `model` (in place) the name that the signature has for it.

    Raises:
        ExportError: an axis that the signature calls dynamic is fixed in the graph, or a tensor is
            missing.
    """
    names: dict[str, str] = {}
    graph_inputs = {value.name: value for value in model.graph.inputs}
    for spec in inputs:
        value = graph_inputs.get(spec.name)
        if value is None or value.shape is None:
            continue  # an input that no output depends on
        for axis, (size, wanted) in enumerate(zip(value.shape, spec.axes, strict=True)):
            if isinstance(wanted, str):
                if isinstance(size, int):
                    raise ExportError(f"Axis {axis} of {spec.name} ({wanted}) came out fixed at {size}.")
                if size.value is not None and _SYMBOL.fullmatch(size.value):
                    names.setdefault(size.value, wanted)
    for graph in model.graphs():
        values = [*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)]
        for value in values:
            _rename(value, names)
    _declare(model, [*graph_inputs.values()], inputs)
    _declare(model, list(model.graph.outputs), outputs)


def _rename(value: onnx_ir.Value, names: dict[str, str]) -> None:
    import onnx_ir as ir

    if value.shape is None:
        return
    dims: list[int | str | None] = []
    for size in value.shape:
        if isinstance(size, int) or size.value is None:
            dims.append(size if isinstance(size, int) else None)
        else:
            dims.append(_SYMBOL.sub(lambda match: names.get(match[0], match[0]), size.value))
    value.shape = ir.Shape(dims)


def _declare(model: onnx_ir.Model, values: list[onnx_ir.Value], specs: Sequence[TensorSpec]) -> None:
    import onnx_ir as ir

    known = {spec.name: spec for spec in specs}
    for value in values:
        if value.name in known:
            value.shape = ir.Shape(list(known[value.name].axes))


def check_outputs(model: onnx_ir.Model, outputs: Sequence[TensorSpec]) -> None:
    """Raises ExportError unless the graph has exactly the outputs of the signature, in order."""
    found = [value.name for value in model.graph.outputs]
    wanted = [spec.name for spec in outputs]
    if found != wanted:
        raise ExportError(f"The graph's outputs are {found}, expected {wanted}.")
