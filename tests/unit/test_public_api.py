"""The names of the package, and that importing it costs nothing."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import pytest

import onnxport

NAMES = {
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
}


def test_the_names_are_exactly_these() -> None:
    assert set(onnxport.__all__) == NAMES
    assert set(dir(onnxport)) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"Conversion", "OnnxPortError", "__version__"}))
def test_every_function_is_callable_and_documented(name: str) -> None:
    function = getattr(onnxport, name)
    assert callable(function)
    assert inspect.getdoc(function)


def test_no_module_hides_a_function() -> None:
    # Importing `onnxport.verify`, if it were a module, would put it in the place of the function.
    modules = {module.name for module in pkgutil.iter_modules(onnxport.__path__)}
    assert not modules & NAMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = onnxport.no_such_name


def test_importing_needs_no_library() -> None:
    code = (
        "import sys, onnxport, onnxport.tasks\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnx_ir', 'onnxruntime', 'numpy', 'rich', 'typer'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("convert", ["framework", "model", "output", "opset", "tokenizer", "use_external_format", "pipeline_name"]),
        ("load_graph_from_args", ["pipeline_name", "framework", "model", "tokenizer"]),
        ("infer_shapes", ["nlp", "framework"]),
        ("convert_pytorch", ["nlp", "opset", "output", "use_external_format"]),
        ("convert_tensorflow", ["nlp", "opset", "output"]),
        ("optimize", ["path"]),
        ("quantize", ["path"]),
        ("verify", ["path"]),
    ],
)
def test_signatures_are_those_of_the_original(name: str, first: list[str]) -> None:
    parameters = list(inspect.signature(getattr(onnxport, name)).parameters)
    assert parameters[: len(first)] == first
