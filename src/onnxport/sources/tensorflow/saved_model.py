"""The signatures of a SavedModel as sources."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.checkpoints.tensorflow_files import reject_reaching_operators
from onnxport.errors import CheckpointError, OnnxPortError, UsageError, did_you_mean
from onnxport.sources.base import Declared
from onnxport.sources.tensorflow.reference_variables import without_reference_variables
from onnxport.sources.tensorflow.saved_optimizers import register_saved_optimizers
from onnxport.sources.tensorflow.source import TensorflowSource, tensorflow
from onnxport.system.library_errors import first_line
from onnxport.system.time_limit import time_limit

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


def saved_model_sources(
    folder: Path, wanted: str | None, *, trusted: bool = False
) -> tuple[list[SignatureSource], tuple[str, ...]]:
    """All signatures of a SavedModel, or the one that is wanted.

    Returns:
        The signatures, `serving_default` first; and notes.

    Raises:
        UntrustedCheckpointError: it has operators that do more than compute, and is not trusted.
        CheckpointError: it cannot be loaded, or has no signature.
        UsageError: it has not the wanted one, or one with inputs that are no plain tensors of numbers.
    """
    tf = tensorflow()
    register_saved_optimizers()
    try:
        saved = _parsed(folder)
        graphs = list(saved.meta_graphs)
        if not trusted:  # again, of what TensorFlow itself has read
            reject_reaching_operators(folder, saved.SerializeToString())
        with time_limit(f"load {folder.name}", sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())):
            loaded = tf.saved_model.load(str(folder), tags=_tags(graphs))
    except OnnxPortError:
        raise
    except Exception as error:  # of any type, about anything in the folder
        raise CheckpointError(
            f"{folder} cannot be loaded as a SavedModel: {first_line(error)}.",
            hint="Copy or export it again.",
        ) from error
    signatures = dict(getattr(loaded, "signatures", {}))
    if not signatures:
        raise CheckpointError(
            f"{folder} is a SavedModel without signatures.",
            hint="Save it with `tf.saved_model.save(model, path, signatures=...)`.",
        )
    if wanted is not None and wanted not in signatures:
        raise UsageError(f"{folder} has no signature {wanted!r}.", hint=did_you_mean(wanted, signatures))
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
        found.append(_source(name, function, loaded, [other for other in signatures if other != name]))
    return found, tuple(notes)


def _source(name: str, function: Any, loaded: Any, others: list[str]) -> SignatureSource:
    tf = tensorflow()
    specs = function.structured_input_signature[1]
    declared = []
    for key in sorted(specs, key=_natural):  # a SavedModel keeps no order, of its outputs neither
        spec = specs[key]
        if not isinstance(spec, tf.TensorSpec) or spec.dtype in (tf.string, tf.resource, tf.variant):
            raise UsageError(
                f"The input {key!r} of the signature {name!r} is a {type(spec).__name__} of {spec.dtype.name}; only "
                "tensors of numbers can be converted.",
                hint="Save the part of the model behind that input"
                + (f", or choose another signature: --signature {others[0]}." if others else "."),
            )
        if spec.shape.rank is None:
            raise UsageError(
                f"The input {key!r} of the signature {name!r} has any number of axes.",
                hint="Save the model with a signature that says how many.",
            )
        declared.append(Declared(key, str(np.dtype(spec.dtype.as_numpy_dtype)), tuple(spec.shape.as_list())))

    frozen = without_reference_variables(function)

    def call(tensors: dict[str, Any], kept: Any = loaded) -> Any:  # the object keeps the variables alive
        found = frozen(tensors) if frozen is not None and tf.inside_function() else function(**tensors)
        return {key: found[key] for key in sorted(found, key=_natural)}

    source = TensorflowSource(call, function.variables, f"SavedModel {name}", precision=_precision(function))
    return SignatureSource(name, source, tuple(declared))


def _natural(name: str) -> list[tuple[int, str]]:
    """`output_2` before `output_10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _parsed(folder: Path) -> Any:
    """A SavedModel's message; nothing is run."""
    from tensorflow.python.saved_model.loader_impl import parse_saved_model

    return parse_saved_model(str(folder))


def _tags(graphs: list[Any]) -> list[str] | None:
    """Tags of the graph to load; None where there is only one.

    Raises:
        CheckpointError: there are several, and none is the one for serving.
    """
    found = [sorted(graph.meta_info_def.tags) for graph in graphs]
    if len(found) < 2:
        return None
    if ["serve"] in found:
        return ["serve"]
    said = "; ".join(", ".join(tags) or "none" for tags in found)
    raise CheckpointError(
        f"The SavedModel has {len(found)} graphs, and none with the tag 'serve' alone (tags: {said}).",
        hint="Save the graph that is meant with the tag 'serve'.",
    )


def _precision(function: Any) -> str:
    """What a signature computes in: a row of `tolerance.TOLERANCES`."""
    graph_def, half = function.graph.as_graph_def(), tensorflow().float16.as_datatype_enum
    nodes = [*graph_def.node, *(node for body in graph_def.library.function for node in body.node_def)]
    computed = (node for node in nodes if node.op not in ("Cast", "Const", "Placeholder"))
    return "float16" if any(node.attr["T"].type == half for node in computed if "T" in node.attr) else "float32"


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
