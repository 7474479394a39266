"""Remove what a graph does not need to run: source lines, stack traces, tracing metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport._version import __version__

if TYPE_CHECKING:
    import onnx_ir

_OWN = "onnxport."


def strip(model: onnx_ir.Model) -> None:
    """Remove doc strings and metadata in place, and set onnxport as the producer.

    Metadata that starts with `onnxport.` stays: the run time reads it.
    """
    model.producer_name = "onnxport"
    model.producer_version = __version__
    model.doc_string = None
    for key in [key for key in model.metadata_props if not key.startswith(_OWN)]:
        del model.metadata_props[key]
    for graph in model.graphs():
        graph.doc_string = None
        _clear(graph)
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            _clear(value)
        for node in graph:
            node.doc_string = None
            _clear(node)
            for output in node.outputs:
                _clear(output)
    for function in model.functions.values():
        function.doc_string = None
        _clear(function)
        for node in function:
            node.doc_string = None
            _clear(node)


def _clear(thing: object) -> None:
    thing.metadata_props.clear()  # type: ignore[attr-defined]
