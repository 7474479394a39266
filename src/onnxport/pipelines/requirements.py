"""Whether the libraries that a framework's models need can be imported; nothing is imported."""

from __future__ import annotations

import importlib.util

from onnxport.errors import MissingDependencyError


def require_pytorch() -> None:
    """Make sure that torch and transformers can be imported.

    Raises:
        MissingDependencyError: one is not installed.
    """
    _require(("torch", "transformers"), "a PyTorch model", "pytorch")


def require_tensorflow() -> None:
    """Make sure that tensorflow and tf2onnx can be imported.

    Raises:
        MissingDependencyError: one is not installed.
    """
    _require(("tensorflow", "tf2onnx"), "a TensorFlow model", "tensorflow")


def _require(modules: tuple[str, ...], what: str, extra: str) -> None:
    missing = [name for name in modules if not _is_installed(name)]
    if missing:
        raise MissingDependencyError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed, "
            f"but the model is {what}. Nothing was written.",
            hint=f'pip install "onnxport[{extra}]"',
        )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # imported, without a spec
        return False
