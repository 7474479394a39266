"""A TensorFlow model as a source: a function of named tensors that can be run on arrays, or traced."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any

import numpy as np

from onnxport.errors import ExportError
from onnxport.sources.base import (
    Arrays,
    MeasuredRun,
    ModuleOutput,
    Shapes,
    TwoRuns,
    named_leaves,
    numbers_of,
    wanted_outputs,
)
from onnxport.sources.tensorflow.variables_kept import variables_kept
from onnxport.system.requirements import require_tensorflow
from onnxport.system.time_limit import time_limit

# What its C++ code says unasked; it is read when the library is loaded.
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


class TensorflowSource:
    """A function of TensorFlow, and the outputs that are wanted from it.

    Args:
        call: takes tensors by name and returns a tensor, or any nesting of mappings and sequences of them.
        variables: the weights.
        outputs: names to keep, in this order; empty keeps all tensors that it returns.
        architecture: the class name to report.
        libraries: modules beside tensorflow whose versions are recorded.
        precision: what it computes in, a row of `tolerance.TOLERANCES`.
    """

    framework = "tf"

    def __init__(
        self,
        call: Callable[[dict[str, Any]], Any],
        variables: Sequence[Any],
        architecture: str,
        outputs: tuple[str, ...] = (),
        libraries: tuple[str, ...] = (),
        precision: str = "float32",
    ) -> None:
        self.call, self.variables, self.libraries, self.precision = call, list(variables), libraries, precision
        self.outputs, self.architecture = outputs, architecture
        sizes = [(int(np.prod(v.shape)), np.dtype(_numpy_type(v)).itemsize) for v in variables]
        self.parameters = sum(count for count, _ in sizes)
        self.weight_bytes = sum(count * size for count, size in sizes)

    def release(self) -> None:
        """Let go of the model; the source cannot be run after that."""
        self.variables = []
        del self.call

    @property
    def largest_copy_bytes(self) -> int:
        """Nothing: the weights are in memory as they are."""
        return 0

    @property
    def version(self) -> str:
        return f"tensorflow {tensorflow().__version__}"

    def versions(self) -> dict[str, str]:
        used = (name for name in self.libraries if name in sys.modules)
        return {name: version(name.replace("_", "-")) for name in ("tensorflow", *used, "tf2onnx")}

    def weights_kept(self) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, inputs: Arrays) -> Arrays:
        """The wanted outputs for `inputs`, computed eagerly: what is compared is not what was traced.

        What the model writes to its variables is undone.
        """
        with variables_kept(self.written()):
            return self._run(inputs)

    def _run(self, inputs: Arrays) -> Arrays:
        tensors = self.tensors(inputs)
        with time_limit("run the source model once", self.weight_bytes):
            return {name: tensor.numpy() for name, tensor in self.outputs_of(tensors).items()}

    def run_twice(self, inputs: Arrays) -> TwoRuns:
        """Two runs in a row, the second with the variables that the first left behind."""
        with variables_kept(self.written()) as changed:
            first, second = self._run(inputs), self._run(inputs)
        return TwoRuns(first, second, tuple(dict.fromkeys(changed)))

    def written(self) -> list[Any]:
        """Variables that a run may write to."""
        return self.variables

    def named_sizes(self) -> dict[int, str]:
        """Whole numbers that the config of a model of transformers names, and where; of other models nothing."""
        config = getattr(getattr(self, "model", None), "config", None)
        return dict(numbers_of(vars(config))) if hasattr(config, "to_dict") else {}

    def measured(self, inputs: Arrays) -> MeasuredRun:
        """A run that can be repeated with more rounding."""
        from onnxport.sources.tensorflow.measured import TensorflowRun

        return TensorflowRun(self, inputs)

    def modules(self, inputs: Arrays) -> list[ModuleOutput]:
        """What each Keras layer gave, in the order in which the calls ended; a SavedModel has no layers."""
        from onnxport.sources.tensorflow.observed import observed_layers

        return observed_layers(self, inputs)

    def operators(self, inputs: Arrays, first: int, last: int) -> list[ModuleOutput]:
        """Nothing: a layer is as near as a TensorFlow model is watched."""
        return []

    def outputs_of(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The wanted outputs by the names of the graph's outputs: an input that has the same name keeps it."""
        found: dict[str, Any] = {}
        for name, tensor in self.select(self.call(tensors)).items():
            while name in tensors or name in found:
                name += "_output"
            found[name] = tensor
        return found

    def shapes(self, inputs: Arrays) -> Shapes:
        return {name: value.shape for name, value in self.run(inputs).items()}

    def paths(self, samples: Sequence[Arrays]) -> list[tuple[str, ...]]:
        """The same for all: a function that is traced with free axes cannot see their sizes."""
        return [()] * len(samples)

    def tensors(self, inputs: Arrays) -> dict[str, Any]:
        tf = tensorflow()
        return {name: tf.constant(value) for name, value in inputs.items()}

    def select(self, result: object) -> dict[str, Any]:
        """The wanted tensors of what the function returned, by name.

        Raises:
            ExportError: none of the wanted outputs is there, or one is no plain tensor of numbers.
        """
        tf = tensorflow()
        tensors = dict(named_leaves(result, lambda leaf: tf.is_tensor(leaf) and hasattr(leaf, "shape")))
        for name, tensor in tensors.items():
            if not isinstance(tensor, tf.Tensor) or tensor.dtype in (tf.string, tf.resource, tf.variant):
                kind = getattr(tensor, "dtype", None)
                raise ExportError(
                    f"The output {name!r} of {self.architecture} is a {type(tensor).__name__} of {kind}, no tensor "
                    "of numbers."
                )
        return wanted_outputs(tensors, self.outputs, self.architecture)


def tensorflow() -> Any:
    """The module, imported without its greetings.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    require_tensorflow()
    os.environ.setdefault(_LOG_LEVEL, "3")
    # Keras takes another backend from this variable or from a file in the user's home.
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    with _native_stderr_away():
        import tensorflow
    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow


@contextmanager
def _native_stderr_away() -> Iterator[None]:
    """What C++ code writes to the process's stderr goes nowhere; Python's own errors are raised, not written."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none (`2>&-`)
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _numpy_type(variable: Any) -> Any:
    return tensorflow().as_dtype(variable.dtype).as_numpy_dtype
