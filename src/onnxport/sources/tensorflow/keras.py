"""Keras models as sources: functional, Sequential and subclassed ones, live or from a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxport.errors import UsageError
from onnxport.sources.base import Declared, named_leaves
from onnxport.sources.tensorflow.source import TensorflowSource, tensorflow

# Where a subclassed model has no inputs that it declares, only shapes that it was once built for.
_BUILT = "input_shape"
# Names that Keras gives by counting all layers of the process.
_COUNTED = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?(CLONE)?|\w+_\d+_input")
# What the only input of a model is called that has no name for it.
UNNAMED = "input"


class KerasSource(TensorflowSource):
    """A model of Keras.

    Args:
        model: live.
        given: what `TensorflowSource` takes.
        settings: the same.
    """

    def __init__(self, model: Any, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._model = model

    def release(self) -> None:
        super().release()
        del self._model

    def written(self) -> list[Any]:
        """With the states of recurrent layers, which Keras does not count among a model's variables."""
        own = {id(variable) for variable in self.variables}
        layers = self._model._flatten_layers() if hasattr(self._model, "_flatten_layers") else ()
        found: dict[int, Any] = {}
        for layer in layers:
            for value in vars(layer).values():
                states = value if isinstance(value, (list, tuple)) else [value]
                found |= {id(one): one for one in states if hasattr(one, "assign") and id(one) not in own}
        return [*self.variables, *found.values()]


def is_keras_model(model: object) -> bool:
    """Whether it is a live model of Keras; nothing is imported."""
    return any(base.__module__.startswith(("keras.", "tf_keras.")) for base in type(model).__mro__) and callable(model)


def require_tensorflow_backend() -> None:
    """Keras must compute with TensorFlow.

    Raises:
        UsageError: it was imported with another backend before.
    """
    tensorflow()
    import keras

    if keras.config.backend() != "tensorflow":
        raise UsageError(
            f"Keras runs on {keras.config.backend()!r} here, and is converted on TensorFlow.",
            hint="Set KERAS_BACKEND=tensorflow before keras is imported, or give the path of a saved .keras file.",
        )


def keras_source(model: Any) -> tuple[TensorflowSource, tuple[Declared, ...]]:
    """A model with the inputs that it declares.

    Raises:
        UsageError: it declares none.
    """
    structure = _inputs_of(model)
    declared = tuple(_declare(name, tensor) for name, tensor in _named(structure))
    return _source(model, structure), declared


def sampled_source(model: Any, sample: Any) -> TensorflowSource:
    """A model that is called as `sample` is structured: an array, a sequence or a mapping of arrays."""
    return _source(model, sample)


def named_inputs(structure: Any) -> dict[str, Any]:
    """What stands in a structure of inputs, by the names of the graph's inputs."""
    return dict(_named(structure))


def built_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs that a subclassed model was built for, by name; {} where that is not known."""
    config = model.get_build_config() if hasattr(model, "get_build_config") else None
    shapes = (config or {}).get(_BUILT)
    if isinstance(shapes, dict):
        return {str(name): tuple(shape) for name, shape in shapes.items()}
    if isinstance(shapes, (list, tuple)) and shapes and all(isinstance(size, (int, type(None))) for size in shapes):
        return {UNNAMED: tuple(shapes)}
    return {}


def _source(model: Any, structure: Any) -> TensorflowSource:
    names = [name for name, _ in _named(structure)]

    def call(tensors: dict[str, Any]) -> Any:
        given = _packed(structure, [tensors[name] for name in names])
        return _with_names(model, model(given, training=False))

    return KerasSource(
        model, call, model.variables, type(model).__name__, libraries=("keras", "tf_keras", "keras_hub"),
        precision=_precision(model),
    )  # fmt: skip


def _precision(model: Any) -> str:
    """What a model computes in: a row of `tolerance.TOLERANCES`.

    Raises:
        UsageError: bfloat16.
    """
    layers = [model, *model._flatten_layers()] if hasattr(model, "_flatten_layers") else [model]
    types = {str(getattr(layer, "compute_dtype", None)) for layer in layers}
    if "bfloat16" in types:
        raise UsageError(
            f"{type(model).__name__} computes in bfloat16, which ONNX Runtime's CPU provider does not.",
            hint="In Python: for layer in model._flatten_layers(): layer.dtype_policy = 'float32'; then convert(None, "
            "model, output).",
        )
    return "float16" if "float16" in types else "float32"


def _inputs_of(model: Any) -> Any:
    """The structure of a model's symbolic inputs.

    Raises:
        UsageError: it has none.
    """
    structure = getattr(model, "_inputs_struct", None)
    if structure is None and type(model).__module__.startswith("tf_keras."):  # Keras 2
        structure = getattr(model, "_nested_inputs", None)
    if structure is None:
        functional = getattr(model, "_functional", None)  # of a Sequential
        structure = getattr(functional, "_inputs_struct", None)
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        structure = structure[0]
    if structure is None or (isinstance(structure, (list, tuple)) and not structure):
        raise UsageError(
            f"{type(model).__name__} declares no inputs: it is a subclassed model.",
            hint="Give inputs in Python: convert(None, model, output, sample_inputs={...}).",
        )
    return structure


def _named(structure: Any) -> list[tuple[str, Any]]:
    """Leaves with names: a mapping's keys, else the tensors' own names."""
    leaves = list(named_leaves(structure, lambda leaf: hasattr(leaf, "shape")))
    if isinstance(structure, dict):
        return leaves
    found = []
    for number, (_, leaf) in enumerate(leaves):
        own = str(getattr(leaf, "name", "") or "").partition(":")[0]
        usual = UNNAMED if len(leaves) == 1 else f"input_{number}"
        found.append((usual if not own or _COUNTED.fullmatch(own) else own, leaf))
    return found


def _declare(name: str, tensor: Any) -> Declared:
    """An input as its symbolic tensor says.

    Raises:
        UsageError: it is no plain tensor of numbers.
    """
    tf = tensorflow()
    dtype = tf.as_dtype(tensor.dtype)
    kind = "sparse" if getattr(tensor, "sparse", False) else "ragged" if getattr(tensor, "ragged", False) else None
    if kind or dtype in (tf.string, tf.bfloat16):
        raise UsageError(
            f"The input {name!r} is a {kind or 'plain'} tensor of {dtype.name}; only plain tensors of numbers that "
            "numpy has can be converted.",
            hint="Convert the part of the model behind that input: keras.Model(tensors_behind_it, model.outputs).",
        )
    return Declared(name, str(np.dtype(dtype.as_numpy_dtype)), tuple(tensor.shape))


def _packed(structure: Any, leaves: Sequence[Any]) -> Any:
    rest = iter(leaves)

    def pack(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: pack(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)):
            return type(part)(pack(value) for value in part)
        return next(rest)

    return pack(structure)


def _with_names(model: Any, result: Any) -> Any:
    """Outputs by the names that the user gave to the layers that made them."""
    if isinstance(result, dict):
        return result
    results = list(result) if isinstance(result, (list, tuple)) else [result]
    names = list(getattr(model, "output_names", None) or [])
    if len(set(names)) != len(results):
        return result
    usual = ["output"] if len(results) == 1 else [f"output_{number}" for number in range(len(results))]
    chosen = [spare if _is_counted(model, name) else name for name, spare in zip(names, usual, strict=True)]
    return dict(zip(chosen, results, strict=True))


def _is_counted(model: Any, name: str) -> bool:
    """Whether Keras made up the name of a layer: its class, and a number of all layers of the process."""
    try:
        own = type(model.get_layer(name)).__name__
    except ValueError:  # made by an operation, not by a layer
        return True
    return re.sub(r"_\d+$", "", name).replace("_", "") == own.lower()
