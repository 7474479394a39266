"""Capture a TensorFlow function as an ONNX graph through tf2onnx.

The function is traced with the axes of the signature free. Its variables do not pass through tf2onnx
(`frozen_graph`): the graph gets them afterwards, as views of their memory.
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
from onnxport.export.frozen_graph import Frozen, freeze, give_shapes, without_shapes
from onnxport.export.opset import NEWEST_TENSORFLOW
from onnxport.export.signature import Signature, infer_signature
from onnxport.export.stable_names import settle_names
from onnxport.export.stateless import require_deterministic, require_no_state
from onnxport.sources.base import Arrays
from onnxport.sources.tensorflow.source import TensorflowSource, tensorflow
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    import onnx_ir as ir

_SIDES = ("height", "width")


def capture_tensorflow(source: TensorflowSource, signature: Signature, opset: int) -> Captured:
    """Export `source`; the graph is of opset 18 at most, and `export.opset.require_opset` goes above.

    Raises:
        ExportError: TensorFlow cannot trace the function with free axes, or it has operators that ONNX lacks.
    """
    with recurrent_operators(), batch_time_distributed():
        function, outputs, signature = _trace(source, signature)
        require_no_state(function, source.architecture)
        try:
            frozen = freeze(function)
            names = [spec.name for spec in signature.inputs]
            model = _convert(frozen, names, outputs, min(opset, NEWEST_TENSORFLOW), source.architecture)
        except ExportError:
            raise
        except Exception as error:  # tf2onnx fails with any type
            raise ExportError(
                f"tf2onnx cannot convert {source.architecture}: {first_line(error)}.",
                hint="--verbose shows what it said.",
            ) from error
    _declare(model, signature)
    settle_names(model)
    return Captured(model, signature)


def _trace(source: TensorflowSource, signature: Signature) -> tuple[Any, list[str], Signature]:
    """A ConcreteFunction with one input for each of the signature's, and the names of its outputs.

    What a model's code asks about sizes is answered, where the answer is the same at all sizes that it took. Else a
    model that asks for the size of an image is fixed at the processor's size, and what it asks about other sizes is
    answered with those of the traced sample.
    """
    with suppress(Exception):  # models refuse free axes with any exception
        return *_concrete(source, signature), signature
    try:
        return *_concrete(source, signature, _samples(signature)), signature
    except Exception as error:
        known = [r for r in signature.restrictions if r.rule.startswith(("fixed at", "multiple of", "equal to"))]
        reason = f"TensorFlow: {first_line(error)}"
        from onnxport.specs import Restriction

        fixed = [
            Restriction(axis, f"fixed at {signature.accepted[axis][0]}", reason)
            for axis in _SIDES
            if axis in signature.accepted
        ]
    if fixed:
        signature = infer_signature(source, signature.generator, (*known, *fixed))
    try:
        return *_concrete(source, signature, [signature.sample]), signature
    except Exception as error:
        raise ExportError(
            f"TensorFlow cannot trace {source.architecture} with free axes: {first_line(error)}.",
            hint="--verbose shows what it said.",
        ) from error


def _samples(signature: Signature) -> list[Arrays]:
    """The traced sample, and one of the smallest sizes that were probed and one of the largest."""
    sizes = [{name: pick(seen) for name, seen in signature.accepted.items()} for pick in (min, max)]
    return [signature.sample, *(signature.generator.make({**signature.traced, **one}) for one in sizes)]


def _concrete(source: TensorflowSource, signature: Signature, decided: Sequence[Arrays] = ()) -> tuple[Any, list[str]]:
    """Traced with free axes; with `decided`, questions about sizes are answered as for these inputs."""
    tf = tensorflow()
    names = [spec.name for spec in signature.inputs]
    outputs: list[str] = []

    def flat(*tensors: Any) -> tuple[Any, ...]:
        named = dict(zip(names, tensors, strict=True))
        samples = [{tensor.ref(): sample[name] for name, tensor in named.items()} for sample in decided]
        with resolve_shape_branches(samples) if samples else nullcontext():
            found = source.outputs_of(named)
        outputs[:] = found
        # A tensor that is two outputs, or an input that is one, needs a node of its own.
        return tuple(tf.identity(tensor) for tensor in found.values())

    specs = [
        tf.TensorSpec([None if isinstance(size, str) else size for size in spec.axes], spec.dtype)
        for spec in signature.inputs
    ]
    return tf.function(flat, autograph=False).get_concrete_function(*specs), outputs


def _convert(frozen: Frozen, inputs: list[str], outputs: list[str], opset: int, architecture: str) -> ir.Model:
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
    give_shapes(graph_def, frozen)
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
    """tf2onnx logs what it cannot translate, and leaves it in the graph under its TensorFlow name.

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
        said = ", ".join(f"{name} ({count}x)" if count > 1 else name for name, count in unknown.most_common())
        raise ExportError(
            f"ONNX opset {opset} has no operator for TensorFlow's {said}.",
            hint="Take that part out of the model and do it before or after the graph.",
        )


def _attach(model: ir.Model, frozen: Frozen) -> None:
    """Inputs that are weights become initializers."""
    from onnxport.graph.held_weight import HeldWeight

    inputs = {value.name: value for value in model.graph.inputs}
    for name, numbers in frozen.weights.items():
        value = inputs.get(name)
        if value is None:
            continue  # nothing reads it
        model.graph.inputs.remove(value)
        value.name = re.sub(r":0$", "", name)
        value.const_value = HeldWeight(numbers, value.name)
        model.graph.register_initializer(value)


def _declare(model: ir.Model, signature: Signature) -> None:
    """Inputs in the order of the signature; `unk__N` are no names of axes."""
    import onnx_ir as ir

    found = {value.name: value for value in model.graph.inputs}
    order = [found[spec.name] for spec in signature.inputs if spec.name in found]
    model.graph.inputs.clear()
    model.graph.inputs.extend(order)
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)):
            if value.shape is not None:
                value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])
