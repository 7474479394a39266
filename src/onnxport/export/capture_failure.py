"""Say why torch.export cannot capture a model, and which line of the model's code it is about."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.errors import ExportError
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    import torch

    from onnxport.sources.pytorch.source import TorchSource

# torch's exceptions about a size, or a condition, that is computed from values of a tensor.
_ON_VALUES = ("GuardOnDataDependentSymNode", "PendingUnbackedSymbolNotFound", "DynamicOutputShapeException")
_SAYS_VALUES = ("data-dependent", "unbacked symbol", "aten._local_scalar_dense")


def capture_failure(source: TorchSource, error: Exception) -> ExportError:
    """Return the error for a model that cannot be captured.

    Args:
        source: the model.
        error: what torch raised; its traceback has the model's own code.
    """
    causes = _causes(error)
    place = _line_in_model(source.model, causes)
    if any(_depends_on_values(cause) for cause in causes):
        where = f" at {place}" if place else ""
        return ExportError(
            f"{source.architecture} cannot become one graph: sizes or decisions depend on values of tensors{where}.",
            hint="Change this line so that sizes follow from the sizes of the inputs, for example with a mask, or "
            "convert another model.",
        )
    where = f" ({place})" if place else ""
    return ExportError(
        f"torch.export cannot capture {source.architecture}: {type(causes[-1]).__name__}: "
        f"{first_line(causes[-1])}{where}.",
        hint="Add --verbose to see the message of torch.",
    )


def _causes(error: BaseException) -> list[BaseException]:
    """The exception and what it was raised from, the first cause last."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    return causes


def _depends_on_values(error: BaseException) -> bool:
    return type(error).__name__ in _ON_VALUES or any(words in str(error) for words in _SAYS_VALUES)


def _line_in_model(model: torch.nn.Module, causes: list[BaseException]) -> str:
    """The innermost line of the model's code on the way to the error: 'modeling_x.py, line 3: `code`'; "" if none."""
    files = {_file_of(type(module)) for module in model.modules()} - {""}
    own = {file for file in files if f"{Path('torch', 'nn')}" not in file}
    for cause in reversed(causes):
        frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if frame.filename in own]
        if frames:
            code = f": `{frames[-1].line}`" if frames[-1].line else ""
            return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}{code}"
    return ""


def _file_of(kind: type) -> str:
    try:
        return inspect.getsourcefile(kind) or ""
    except TypeError:  # a class without a file
        return ""
