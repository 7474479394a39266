"""What goes through the pipes between caller and worker, as JSON.

Arguments go one way: names, paths and numbers. Results and errors come back. Dataclasses are written as in the
manifest, so that no number is lost on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from onnxport import errors
from onnxport.artifact.manifest_json import from_plain, to_plain
from onnxport.artifact.results import Conversion, VerifiedFolder
from onnxport.errors import OnnxPortError, UsageError, VerificationError
from onnxport.specs import Verification

# The public functions of onnxport that a worker calls, and no other.
FUNCTIONS = ("convert", "verify")
# What they return.
_RESULTS: tuple[type[Any], ...] = (Conversion, VerifiedFolder)


def plain_arguments(environment: str, function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON types: paths as text, tuples as lists.

    Raises:
        UsageError: the function is none that can be called, or an argument is a live object, such as a model.
    """
    if function not in FUNCTIONS:
        raise UsageError(
            f"`{function}` cannot be called in the environment {environment}.",
            hint=f"What can be called there: {', '.join(FUNCTIONS)}.",
        )
    return {name: _plain(value, name, environment) for name, value in arguments.items()}


def _plain(value: Any, name: str, environment: str) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, name, environment) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, name, environment) for key, item in value.items()}
    raise UsageError(
        f"`{name}` is an object of class {type(value).__name__}, and this runs in another process, in the environment "
        f"{environment}: only names, paths, numbers and lists of them can be sent there.",
        hint="Give the name or the folder that it was loaded from.",
    )


def result_message(result: Any) -> dict[str, Any]:
    """What a function returned. The inverse is `result_of`.

    Raises:
        TypeError: a result of another class than the allowed functions have.
    """
    cls = type(result)
    if cls not in _RESULTS:
        raise TypeError(f"a result of class {cls.__name__} cannot be sent")
    return {"event": "result", "class": cls.__name__, "value": to_plain(cls, result)}


def result_of(message: Mapping[str, Any]) -> Any:
    """The result in a message."""
    cls = next(cls for cls in _RESULTS if cls.__name__ == message["class"])
    return from_plain(cls, message["value"])


def error_message(error: OnnxPortError) -> dict[str, Any]:
    """An error that onnxport raised on purpose. The inverse is `error_of`."""
    names = [cls.__name__ for cls in type(error).__mro__ if getattr(errors, cls.__name__, None) is cls]
    return {
        "event": "error",
        "class": names[0],
        "message": error.message,
        "outcome": error.outcome,
        "hint": error.hint,
        "verification": _evidence(error.verification) if isinstance(error, VerificationError) else None,
    }


def error_of(message: Mapping[str, Any]) -> OnnxPortError:
    """The error in a message: of the same class, with the same words and evidence."""
    cls = getattr(errors, str(message["class"]))
    if issubclass(cls, VerificationError):
        verification = _verification(message["verification"])
        found: OnnxPortError = cls(message["message"], hint=message["hint"], verification=verification)
    else:
        found = cls(message["message"], hint=message["hint"])
    found.outcome = message["outcome"]
    return found


def _evidence(verification: Verification | None) -> Any:
    return None if verification is None else to_plain(Verification, verification)


def _verification(value: Any) -> Verification | None:
    return None if value is None else from_plain(Verification, value)
