"""Check whether the libraries of a framework can be imported, without importing them."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from onnxport.errors import MissingDependencyError


def require_pytorch() -> None:
    """Check that torch and transformers are installed.

    Raises:
        MissingDependencyError: one is not installed.
    """
    _require(("torch", "transformers"), "a PyTorch model", "pytorch")


def require_graph_tools() -> None:
    """Check that the packages that change graphs are installed.

    Raises:
        MissingDependencyError: one is not installed.
    """
    missing = [name for name in ("onnx", "onnx_ir", "onnxscript") if not is_installed(name)]
    if missing:
        raise MissingDependencyError(
            f"Writing a graph needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            hint='pip install "onnxport[pytorch]"',
        )


def require_tensorflow() -> None:
    """Check that tensorflow and tf2onnx are installed.

    Raises:
        MissingDependencyError: one is not installed.
    """
    _require(("tensorflow", "tf2onnx"), "a TensorFlow model", "tensorflow")


def require_transformers_tensorflow() -> None:
    """Check that transformers' TF classes can be imported.

    Raises:
        MissingDependencyError: transformers has none (version 5 removed them), or one of their dependencies is not
            installed.
    """
    version = _version("transformers")
    lacks = [name for name in ("tensorflow", "tf_keras", "tf2onnx") if not is_installed(name)]
    if version is None or int(version.partition(".")[0]) >= 5:
        what = "transformers is not installed" if version is None else f"transformers {version} has no TF classes"
    elif lacks:
        what = f"{' and '.join(lacks)} {'is' if len(lacks) == 1 else 'are'} not installed"
    else:
        return
    raise MissingDependencyError(
        f"The model is one of transformers' TF classes, and {what}.",
        hint="onnxport env create hf-tensorflow",
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _require(modules: tuple[str, ...], what: str, extra: str) -> None:
    missing = [name for name in modules if not is_installed(name)]
    if missing:
        raise MissingDependencyError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed, but the model is {what}.",
            hint=f'pip install "onnxport[{extra}]"',
        )


def is_installed(name: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # already imported, but without a spec
        return False
