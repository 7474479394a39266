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
    from onnxport.api.compare import compare
    from onnxport.api.convert import convert, convert_pytorch, convert_tensorflow
    from onnxport.api.infer_shapes import infer_shapes
    from onnxport.api.optimize import optimize, quantize
    from onnxport.api.report import write_report
    from onnxport.api.verify import verify
    from onnxport.artifact.results import Conversion
    from onnxport.loading.load import load_graph_from_args
    from onnxport.pipelines.factory import pipeline

__all__ = [
    "Conversion",
    "OnnxPortError",
    "__version__",
    "compare",
    "convert",
    "convert_pytorch",
    "convert_tensorflow",
    "infer_shapes",
    "load_graph_from_args",
    "optimize",
    "pipeline",
    "quantize",
    "verify",
    "write_report",
]

_PLACES = {
    "Conversion": "onnxport.artifact.results",
    "compare": "onnxport.api.compare",
    "convert": "onnxport.api.convert",
    "convert_pytorch": "onnxport.api.convert",
    "convert_tensorflow": "onnxport.api.convert",
    "infer_shapes": "onnxport.api.infer_shapes",
    "load_graph_from_args": "onnxport.loading.load",
    "optimize": "onnxport.api.optimize",
    "pipeline": "onnxport.pipelines.factory",
    "quantize": "onnxport.api.optimize",
    "verify": "onnxport.api.verify",
    "write_report": "onnxport.api.report",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
