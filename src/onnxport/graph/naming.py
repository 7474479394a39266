"""Name the axes of a captured graph as its signature does, instead of the exporter's `s18`."""

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
    """Name the axes of `model` as the signature does, in place.

    Args:
        model: the captured graph.
        inputs: inputs of the signature; inputs that the graph does not have are skipped.
        outputs: outputs of the signature.

    Raises:
        ExportError: an axis that is dynamic in the signature is static in the graph.
    """
    names: dict[str, str] = {}
    graph_inputs = {value.name: value for value in model.graph.inputs}
    for spec in inputs:
        value = graph_inputs.get(spec.name)
        if value is None or value.shape is None:
            continue  # no output depends on this input
        for axis, (size, wanted) in enumerate(zip(value.shape, spec.axes, strict=True)):
            if isinstance(wanted, str):
                if isinstance(size, int):
                    raise ExportError(
                        f"Axis {axis} of {spec.name} must be dynamic ({wanted}), but the exporter made it static at "
                        f"{size}.",
                        hint="Report this model: the code of the model or its exporter depends on this size.",
                    )
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
    """Check that the graph has exactly the outputs of the signature, in the same order.

    Args:
        model: the captured graph.
        outputs: outputs of the signature.

    Raises:
        ExportError: names or order differ.
    """
    found = [value.name for value in model.graph.outputs]
    wanted = [spec.name for spec in outputs]
    if found != wanted:
        raise ExportError(
            f"The exported graph has the outputs {found}, but the source model has {wanted}.", hint="Report this model."
        )
