"""The signatures of a SavedModel as sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.errors import CheckpointError, UsageError, did_you_mean
from onnxport.foreign_errors import first_line
from onnxport.samples.declared import Declared
from onnxport.sources.saved_optimizers import register_saved_optimizers
from onnxport.sources.tensorflow import TensorflowSource, tensorflow

DEFAULT = "serving_default"


@dataclass(frozen=True)
class SignatureSource:
    """One signature.

    Attributes:
        name: of the signature.
        inputs: as it declares them.
    """

    name: str
    source: TensorflowSource
    inputs: tuple[Declared, ...]


def saved_model_sources(folder: Path, wanted: str | None) -> tuple[list[SignatureSource], tuple[str, ...]]:
    """All signatures of a SavedModel, or the one that is wanted.

    Returns:
        The signatures, `serving_default` first; and notes.

    Raises:
        CheckpointError: it cannot be loaded, or has no signature.
        UsageError: it has not the wanted one, or one with inputs that are no plain tensors of numbers.
    """
    tf = tensorflow()
    register_saved_optimizers()
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # of any type, about anything in the folder
        raise CheckpointError(
            f"{folder} cannot be loaded as a SavedModel: {first_line(error)}. Nothing was written.",
            hint="Copy or export it again.",
        ) from error
    signatures = dict(getattr(loaded, "signatures", {}))
    if not signatures:
        raise CheckpointError(
            f"{folder} is a SavedModel without signatures. Nothing was written.",
            hint="Save it with `tf.saved_model.save(model, path, signatures=...)`.",
        )
    if wanted is not None and wanted not in signatures:
        raise UsageError(
            f"{folder} has no signature {wanted!r}. Nothing was written.", hint=did_you_mean(wanted, signatures)
        )
    names = [wanted] if wanted is not None else sorted(signatures, key=lambda name: (name != DEFAULT, name))
    found: list[SignatureSource] = []
    notes = []
    seen: dict[Any, str] = {}
    for name in names:
        function = signatures[name]
        same = seen.setdefault(_identity(function), name)
        if same != name:
            notes.append(f"the signature {name!r} computes the same as {same!r} and has no graph of its own")
            continue
        found.append(_source(name, function, loaded))
    return found, tuple(notes)


def _source(name: str, function: Any, loaded: Any) -> SignatureSource:
    tf = tensorflow()
    specs = function.structured_input_signature[1]
    declared = []
    for key, spec in specs.items():
        if not isinstance(spec, tf.TensorSpec) or spec.dtype in (tf.string, tf.resource, tf.variant):
            raise UsageError(
                f"The input {key!r} of the signature {name!r} is a {type(spec).__name__} of {spec.dtype.name}; only "
                "tensors of numbers can be converted. Nothing was written.",
                hint="Choose another signature with --signature, or save the part of the model behind that input.",
            )
        if spec.shape.rank is None:
            raise UsageError(
                f"The input {key!r} of the signature {name!r} has any number of axes. Nothing was written.",
                hint="Save the model with a signature that says how many.",
            )
        declared.append(Declared(key, str(np.dtype(spec.dtype.as_numpy_dtype)), tuple(spec.shape.as_list())))

    def call(tensors: dict[str, Any], kept: Any = loaded) -> Any:  # the object keeps the variables alive
        return function(**tensors)

    return SignatureSource(name, TensorflowSource(call, function.variables, f"SavedModel {name}"), tuple(declared))


def _identity(function: Any) -> Any:
    """Equal for two signatures that are one function: Keras exports the same one under two names."""
    graph = function.graph.as_graph_def()
    bodies = {body.signature.name: body for body in graph.library.function}
    inputs = tuple(sorted((key, str(spec)) for key, spec in function.structured_input_signature[1].items()))
    outputs = tuple(sorted(map(str, function.structured_outputs)))
    return inputs, outputs, tuple(v.name for v in function.variables), _body(graph.node, bodies)


def _body(nodes: Any, bodies: dict[str, Any]) -> tuple[Any, ...]:
    """What nodes compute, with functions by what they compute instead of by their names."""
    found = []
    for node in nodes:
        attributes: list[Any] = []
        for key, value in sorted(node.attr.items()):
            if value.HasField("func") and value.func.name in bodies:
                attributes.append((key, _body(bodies[value.func.name].node_def, bodies)))
            elif not key.startswith("_"):
                attributes.append((key, value.SerializeToString(deterministic=True)))
        found.append((node.op, tuple(node.input), tuple(attributes)))
    return tuple(found)
