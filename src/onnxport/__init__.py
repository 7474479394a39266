"""From a trained model to a verified, deployable ONNX folder in one command.

Every name below is imported on first use: `import onnxport` costs nothing, and needs only the
base install.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxport._version import __version__
from onnxport.errors import OnnxPortError

if TYPE_CHECKING:
    from onnxport.after import optimize, quantize
    from onnxport.check import verify
    from onnxport.conversion import Conversion, convert, convert_pytorch, convert_tensorflow
    from onnxport.loading import load_graph_from_args
    from onnxport.pipelines.factory import pipeline
    from onnxport.shapes import infer_shapes

__all__ = [
    "Conversion",
    "OnnxPortError",
    "__version__",
    "convert",
    "convert_pytorch",
    "convert_tensorflow",
    "infer_shapes",
    "load_graph_from_args",
    "optimize",
    "pipeline",
    "quantize",
    "verify",
]

_PLACES = {
    "Conversion": "onnxport.conversion",
    "convert": "onnxport.conversion",
    "convert_pytorch": "onnxport.conversion",
    "convert_tensorflow": "onnxport.conversion",
    "infer_shapes": "onnxport.shapes",
    "load_graph_from_args": "onnxport.loading",
    "optimize": "onnxport.after",
    "pipeline": "onnxport.pipelines.factory",
    "quantize": "onnxport.after",
    "verify": "onnxport.check",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
