"""Export a TensorFlow function as an ONNX graph through tf2onnx.

The function is traced with dynamic axes. Its variables do not pass through tf2onnx (`frozen_graph`): the graph gets
them afterwards, as views of their memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from onnxport.errors import ExportError
from onnxport.export.captured import Captured
from onnxport.export.fixes.tensorflow.branches import resolve_shape_branches
from onnxport.export.fixes.tensorflow.recurrent import recurrent_operators
from onnxport.export.fixes.tensorflow.time_distributed import batch_time_distributed
from onnxport.export.frozen_graph import FrozenGraph, freeze, restore_shapes, without_shapes
from onnxport.export.opset import NEWEST_TENSORFLOW
from onnxport.export.signature import Signature, infer_signature
from onnxport.export.stable_names import stabilize_names
from onnxport.export.stateless import require_deterministic, require_no_state
from onnxport.sources.base import Arrays
from onnxport.sources.tensorflow.source import TensorflowSource, tensorflow
from onnxport.specs import LASTING_LIMITS, Limit, Restriction
from onnxport.system.library_errors import first_line
from onnxport.system.time_limit import time_limit

if TYPE_CHECKING:
    import onnx_ir as ir

_IMAGE_AXES = ("height", "width")


def capture_tensorflow(source: TensorflowSource, signature: Signature, opset: int) -> Captured:
    """Export `source`. The graph has at most opset 18; `export.opset.require_opset` converts to newer ones.

    Args:
        source: the model.
        signature: its inputs, outputs and axes.
        opset: the opset that is wanted.

    Raises:
        ExportError: TensorFlow cannot trace the function with dynamic axes, or it has operators that ONNX lacks.
    """
    with recurrent_operators(), batch_time_distributed():
        function, outputs, signature = _trace(source, signature)
        require_no_state(function, source.architecture)
        try:
            frozen = freeze(function)
            names = [spec.name for spec in signature.inputs]
            with time_limit("convert the model with tf2onnx, which computes constants", 10 * source.weight_bytes):
                model = _convert(frozen, names, outputs, min(opset, NEWEST_TENSORFLOW), source.architecture)
            variables = {re.sub(r":0$", "", name): handle for name, handle in frozen.variables.items()}
        except ExportError:
            raise
        except Exception as error:  # tf2onnx raises any type
            raise ExportError(
                f"tf2onnx cannot convert {source.architecture}: {first_line(error)}.",
                hint="Add --verbose to see the message of the library.",
            ) from error
    _declare_inputs(model, signature)
    stabilize_names(model)
    return Captured(model, signature, variables)


def _trace(source: TensorflowSource, signature: Signature) -> tuple[Any, list[str], Signature]:
    """Return a ConcreteFunction with one input per input of the signature, the names of its outputs, and the signature.

    Python branches on sizes are resolved if all accepted sizes take the same branch. Otherwise, the height and width of
    images become static at the processor's size, and branches on other sizes are resolved with the traced sample.
    """
    with suppress(Exception):  # models fail with dynamic axes with any exception
        return *_trace_function(source, signature), signature
    try:
        return *_trace_function(source, signature, _branch_samples(signature)), signature
    except Exception as error:
        known = [r for r in signature.restrictions if r.limit in LASTING_LIMITS]
        reason = f"TensorFlow: {first_line(error)}"
        fixed = [
            Restriction(axis, Limit.FIXED, signature.accepted[axis][0], reason)
            for axis in _IMAGE_AXES
            if axis in signature.accepted
        ]
    if fixed:
        signature = infer_signature(source, signature.generator, (*known, *fixed))
    try:
        return *_trace_function(source, signature, [signature.sample]), signature
    except Exception as error:
        raise ExportError(
            f"TensorFlow cannot trace {source.architecture} with dynamic axes: {first_line(error)}.",
            hint="Add --verbose to see the message of the library.",
        ) from error


def _branch_samples(signature: Signature) -> list[Arrays]:
    """Return the traced sample, and inputs at the smallest and at the largest sizes that were probed."""
    sizes = [{name: pick(seen) for name, seen in signature.accepted.items()} for pick in (min, max)]
    return [signature.sample, *(signature.generator.make({**signature.traced, **one}) for one in sizes)]


def _trace_function(
    source: TensorflowSource, signature: Signature, samples_for_branches: Sequence[Arrays] = ()
) -> tuple[Any, list[str]]:
    """Trace with dynamic axes; branches on sizes are resolved with `samples_for_branches`."""
    tf = tensorflow()
    names = [spec.name for spec in signature.inputs]
    outputs: list[str] = []

    def flat(*tensors: Any) -> tuple[Any, ...]:
        named = dict(zip(names, tensors, strict=True))
        samples = [{tensor.ref(): sample[name] for name, tensor in named.items()} for sample in samples_for_branches]
        with resolve_shape_branches(samples) if samples else nullcontext():
            found = source.outputs_of(named)
        outputs[:] = found
        # A tensor that is two outputs, or an input that is an output, needs its own node.
        return tuple(tf.identity(tensor) for tensor in found.values())

    specs = [
        tf.TensorSpec([None if isinstance(size, str) else size for size in spec.axes], spec.dtype)
        for spec in signature.inputs
    ]
    return tf.function(flat, autograph=False).get_concrete_function(*specs), outputs


def _convert(frozen: FrozenGraph, inputs: list[str], outputs: list[str], opset: int, architecture: str) -> ir.Model:
    import onnx_ir as ir
    from tf2onnx import tf_loader
    from tf2onnx.convert import _convert_common

    from onnxport.export.fixes.tensorflow.operators import fix_resize_coordinates, register_operators

    tf = tensorflow()
    register_operators()
    everything = [*frozen.inputs, *frozen.weights]
    with tf.Graph().as_default() as graph, tf_loader.tf_session(graph=graph):
        tf.import_graph_def(frozen.graph_def, name="")
        graph_def = tf_loader.tf_optimize(everything, frozen.outputs, without_shapes(frozen))
    restore_shapes(graph_def, frozen)
    renamed = dict(zip((*frozen.inputs, *frozen.outputs), (*inputs, *outputs), strict=True))
    proto, _ = _convert_common(
        graph_def, name="onnxport", opset=opset, input_names=everything, output_names=frozen.outputs,
        tensors_to_rename=renamed, continue_on_error=True,
    )  # fmt: skip
    _require_known_operators(proto, opset)
    require_deterministic(proto, architecture)
    model = ir.from_proto(proto)
    fix_resize_coordinates(model)
    _attach(model, frozen)
    return model


def _require_known_operators(proto: Any, opset: int) -> None:
    """Check the operators: tf2onnx leaves an unknown operator in the graph under its TensorFlow name, and only logs it.

    Raises:
        ExportError: there are such operators.
    """
    import onnx

    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    unknown: Counter[str] = Counter()

    def visit(graph: Any) -> None:
        for node in graph.node:
            if node.domain in ("", "ai.onnx") and node.op_type not in known:
                unknown[node.op_type] += 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    visit(attribute.g)

    visit(proto.graph)
    for function in proto.functions:
        visit(function)
    if unknown:
        listed = ", ".join(f"{name} ({count}x)" if count > 1 else name for name, count in unknown.most_common())
        raise ExportError(
            f"ONNX opset {opset} has no operator for TensorFlow's {listed}.",
            hint="Remove this part from the model, and compute it before or after the graph.",
        )


def _attach(model: ir.Model, frozen: FrozenGraph) -> None:
    """Turn inputs that stand for weights into initializers."""
    from onnxport.graph.array_weight import ArrayWeight

    inputs = {value.name: value for value in model.graph.inputs}
    for name, numbers in frozen.weights.items():
        value = inputs.get(name)
        if value is None:
            continue  # no node reads it
        model.graph.inputs.remove(value)
        value.name = re.sub(r":0$", "", name)
        value.const_value = ArrayWeight(numbers, value.name)
        model.graph.register_initializer(value)


def _declare_inputs(model: ir.Model, signature: Signature) -> None:
    """Order inputs as in the signature, and remove the axis names `unk__N`."""
    import onnx_ir as ir

    found = {value.name: value for value in model.graph.inputs}
    order = [found[spec.name] for spec in signature.inputs if spec.name in found]
    model.graph.inputs.clear()
    model.graph.inputs.extend(order)
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)):
            if value.shape is not None:
                value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])
