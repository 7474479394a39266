"""Signatures of SavedModels of TensorFlow 1, whose variables are nodes of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxport.sources.tensorflow.source import tensorflow

_VARIABLES = frozenset({"Variable", "VariableV2"})


def without_reference_variables(function: Any) -> Callable[[dict[str, Any]], Any] | None:
    """The function of a signature with numbers in the places of its variables; None where it has no such variables.

    Upstream (TensorFlow 2.21): `convert_variables_to_constants_v2` knows resource variables, which TensorFlow 1 used on
    request only, and leaves others in the graph, where tf2onnx fails with "refers to a Tensor which does not exist".
    """
    tf: Any = tensorflow()
    if not any(operation.type in _VARIABLES for operation in function.graph.get_operations()):
        return None
    outputs = function.structured_outputs
    graph_def = tf.compat.v1.graph_util.extract_sub_graph(
        function.graph.as_graph_def(), [tensor.op.name for tensor in outputs.values()]
    )
    names = [node.name for node in graph_def.node if node.op in _VARIABLES]
    values = function.prune([], [function.graph.get_tensor_by_name(f"{name}/read:0") for name in names])
    numbers = dict(zip(names, values(), strict=True))
    for node in graph_def.node:
        if node.name in numbers:
            constant = tf.make_tensor_proto(numbers[node.name].numpy())
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = constant.dtype
            node.attr["value"].tensor.CopyFrom(constant)
    keys = list(function.structured_input_signature[1])
    places = {key: tensor.name for key, tensor in zip(function._arg_keywords, function.inputs, strict=True)}

    def call(tensors: dict[str, Any]) -> dict[str, Any]:
        given = {places[key]: tensors[key] for key in keys}
        found = tf.import_graph_def(
            graph_def, input_map=given, return_elements=[tensor.name for tensor in outputs.values()], name="signature"
        )
        return dict(zip(outputs, found, strict=True))

    return call
