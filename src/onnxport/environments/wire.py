"""What goes through the pipes between caller and worker, as JSON.

Arguments go one way: names, paths and numbers. Results and errors come back: dataclasses with the evidence of a
verification are written as in the manifest, so that no number is lost on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from onnxport import errors
from onnxport.artifact.manifest import Manifest
from onnxport.artifact.manifest_json import from_plain, to_plain
from onnxport.errors import OnnxPortError, UsageError, VerificationError
from onnxport.specs import Verification

# The public functions of onnxport that a worker calls, and no other.
FUNCTIONS = ("convert", "verify")


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
    from onnxport.artifact.results import Conversion, VerifiedFolder

    if isinstance(result, Conversion):
        value: dict[str, Any] = {
            "path": str(result.path),
            "manifest": to_plain(Manifest, result.manifest),
            "files": [str(file) for file in result.files],
            "timings": result.timings,
            "cpu": result.cpu,
            "peak_memory_bytes": result.peak_memory_bytes,
        }
    elif isinstance(result, VerifiedFolder):
        value = {
            "path": str(result.path),
            "files_checked": result.files_checked,
            "verifications": {name: _evidence(found) for name, found in result.verifications.items()},
            "ok": result.ok,
            "notes": list(result.notes),
        }
    elif isinstance(result, Verification):
        value = {"verification": _evidence(result)}
    else:
        raise TypeError(f"a result of class {type(result).__name__} cannot be sent")
    return {"event": "result", "class": type(result).__name__, "value": value}


def result_of(message: Mapping[str, Any]) -> Any:
    """The result in a message."""
    from onnxport.artifact.results import Conversion, VerifiedFolder

    value = message["value"]
    if message["class"] == "Conversion":
        return Conversion(
            path=Path(value["path"]),
            manifest=from_plain(Manifest, value["manifest"]),
            files=tuple(Path(file) for file in value["files"]),
            timings=value["timings"],
            cpu=value["cpu"],
            peak_memory_bytes=value["peak_memory_bytes"],
        )
    if message["class"] == "VerifiedFolder":
        return VerifiedFolder(
            path=Path(value["path"]),
            files_checked=value["files_checked"],
            verifications={name: _verification(found) for name, found in value["verifications"].items()},
            ok=value["ok"],
            notes=tuple(value["notes"]),
        )
    return _verification(value["verification"])


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
