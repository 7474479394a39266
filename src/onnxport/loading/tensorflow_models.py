"""What is converted of TensorFlow, beside pipelines of transformers: Keras models and SavedModels."""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import numpy as np

from onnxport.checkpoints.tensorflow_files import TensorflowFiles
from onnxport.dummy_inputs.declared import DeclaredInputGenerator
from onnxport.dummy_inputs.input_ranges import declared_generator
from onnxport.dummy_inputs.tensors import TensorInputGenerator
from onnxport.errors import UsageError
from onnxport.loading.parts import Part
from onnxport.sources.base import Arrays, Declared
from onnxport.sources.tensorflow.source import TensorflowSource

_MODEL = "model"
Parts = tuple[tuple[Part, ...], tuple[str, ...]]


def keras_parts(model: Any, sample: Any = None) -> Parts:
    """A live Keras model as one graph, and notes.

    Args:
        sample: inputs as the model takes them; None: those that it declares, or was built for.

    Raises:
        UsageError: its inputs are not known, or Keras does not compute with TensorFlow.
    """
    from onnxport.sources.tensorflow.keras import (
        built_shapes,
        keras_source,
        named_inputs,
        require_tensorflow_backend,
        sampled_source,
    )

    require_tensorflow_backend()
    if sample is not None:
        source = sampled_source(model, sample)
        arrays = {name: np.asarray(value) for name, value in named_inputs(sample).items()}
        return (Part(_MODEL, source, TensorInputGenerator(arrays)),), ()
    notes: tuple[str, ...] = ()
    try:
        source, declared = keras_source(model)
    except UsageError:
        shapes = built_shapes(model)
        if not shapes:
            raise
        declared = tuple(_as_built(model, name, shape) for name, shape in shapes.items())
        structure = {spec.name: np.zeros([1] * len(spec.axes), spec.dtype) for spec in declared}
        source = sampled_source(
            model, structure if len(structure) > 1 or "input" not in structure else structure["input"]
        )
        said = ", ".join(f"{spec.name} ({spec.dtype})" for spec in declared)
        notes = (f"{type(model).__name__} declares no inputs; from what it was built for they are {said}",)
    return (Part(_MODEL, source, _generator(source, declared)),), notes


def file_parts(files: TensorflowFiles, signature: str | None, *, trust_remote_code: bool) -> Parts:
    """The graphs of a file or folder, and notes.

    Args:
        signature: of a SavedModel, the one to take; None takes all.

    Raises:
        OnnxPortError: it cannot be loaded, is broken, or has no such signature.
    """
    if files.kind == "saved_model":
        from onnxport.sources.tensorflow.saved_model import saved_model_sources

        found, notes = saved_model_sources(files.path, signature, trusted=trust_remote_code)
        names = _part_names([one.name for one in found])
        parts = tuple(
            Part(name, one.source, _generator(one.source, one.inputs)) for name, one in zip(names, found, strict=True)
        )
        return parts, notes
    from onnxport.sources.tensorflow.keras_file import load_keras_model

    return keras_parts(load_keras_model(files, trust_remote_code=trust_remote_code))


def _generator(source: TensorflowSource, declared: tuple[Declared, ...]) -> DeclaredInputGenerator:
    def runs(arrays: Arrays) -> Arrays | None:
        try:
            return source.run(arrays)
        except Exception:  # a refusal of any kind is the answer
            return None

    return declared_generator(declared, runs)


def _as_built(model: Any, name: str, shape: tuple[int | None, ...]) -> Declared:
    """A free axis for each that samples may differ in: not the features of a tensor."""
    embeds = any(type(layer).__name__ == "Embedding" for layer in model._flatten_layers())
    if len(shape) == 2 and embeds:
        return Declared(name, "int32", (None, None))
    return Declared(name, "float32", (*[None] * (len(shape) - 1), shape[-1]))


def _part_names(signatures: list[str]) -> list[str]:
    """Names of files, each once: `a/b` and `a-b` are both `a_b`, and on some systems `A` is `a`."""
    from onnxport.sources.tensorflow.saved_model import DEFAULT

    names: list[str] = []
    for signature in signatures:
        plain = _MODEL if len(signatures) == 1 or signature == DEFAULT else re.sub(r"\W", "_", signature)
        taken = {name.lower() for name in names}
        spare = (f"{plain}_{number}" for number in count(2))
        names.append(plain if plain.lower() not in taken else next(n for n in spare if n.lower() not in taken))
    return names
